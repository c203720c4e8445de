"""docker/Caddyfile: what a client sends reaches PostgREST and storage-api as it was sent, less the prefix."""

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from docker.caddy import FETCHED, Caddy


@pytest.fixture(scope="module", autouse=True)
def _caddy_is_here() -> None:
    assert FETCHED.exists(), f"there is no Caddy here: sh tests/docker/fetch_caddy.sh {FETCHED.parents[2]}"


SEEN = {"apikey": "a-key", "Authorization": "Bearer a-token", "Tus-Resumable": "1.0.0", "Upload-Offset": "0"}


class Mirror(BaseHTTPRequestHandler):
    """Answers with what it was sent."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        body = self._body()
        told = {
            "service": self.server.name,  # type: ignore[attr-defined]
            "method": self.command,
            "target": self.path,
            "version": self.request_version,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "length": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        reply = json.dumps(told).encode()
        self.send_response(409 if "conflict" in self.path else 200)
        self.send_header("Content-Length", str(len(reply)))
        self.send_header("Location", "http://elsewhere/upload/resumable/x")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def mirror(name: str) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.daemon_threads = True
    server.name = name  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with mirror("rest") as rest, mirror("storage") as storage, Caddy(rest=rest, storage=storage) as caddy:
        with httpx.Client(base_url=f"http://127.0.0.1:{caddy.port}") as client:
            yield client


@pytest.mark.parametrize(
    ("sent", "service", "arrives"),
    [
        ("/rest/v1/rpc/begin_turn", "rest", "/rpc/begin_turn"),
        ("/rest/v1/rpc/x?select=a,b&c=%20d", "rest", "/rpc/x?select=a,b&c=%20d"),
        (
            "/storage/v1/object/mcp-files/local/abc/re%20port%2B(1)%27.txt",
            "storage",
            "/object/mcp-files/local/abc/re%20port%2B(1)%27.txt",
        ),
        ("/storage/v1/upload/resumable/bWNw%2F", "storage", "/upload/resumable/bWNw%2F"),
    ],
)
def test_the_prefix_is_taken_off_and_the_rest_stays(
    client: httpx.Client, sent: str, service: str, arrives: str
) -> None:
    seen = client.get(sent).json()

    assert (seen["service"], seen["target"]) == (service, arrives)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("prefix", ["/rest/v1", "/storage/v1"])
def test_the_key_the_token_and_every_other_header_go_on(client: httpx.Client, method: str, prefix: str) -> None:
    seen = client.request(method, f"{prefix}/x", headers=SEEN).json()

    assert seen["method"] == method
    assert seen["version"] == "HTTP/1.1"
    assert {name: seen["headers"].get(name.lower()) for name in SEEN} == SEEN
    assert seen["headers"]["x-forwarded-host"].startswith("127.0.0.1:")
    assert seen["headers"].get("x-forwarded-prefix") == ("/storage/v1" if prefix == "/storage/v1" else None)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_arrives_whole(client: httpx.Client, chunked: bool) -> None:
    body = bytes(range(256)) * (64 * 1024)  # 16 MiB
    pieces = (body[at : at + 65536] for at in range(0, len(body), 65536)) if chunked else body
    seen = client.patch("/storage/v1/upload/resumable/x", content=pieces, headers=SEEN).json()

    assert (seen["length"], seen["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())


def test_refusals_and_their_headers_come_back(client: httpx.Client) -> None:
    refused = client.head("/storage/v1/conflict", headers=SEEN)

    assert refused.status_code == 409
    assert refused.headers["location"] == "http://elsewhere/upload/resumable/x"


def test_whatever_else_is_asked_for_is_not_there(client: httpx.Client) -> None:
    assert client.get("/auth/v1/token").status_code == 404
    assert client.get("/").status_code == 404
    assert client.get("/health").status_code == 200


def test_http_2_is_not_spoken(client: httpx.Client) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=5) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        answer = connection.recv(100)

    assert answer.startswith(b"HTTP/1.1")


def test_a_service_that_is_away_is_a_502_which_a_client_may_try_again() -> None:
    with mirror("storage") as storage, Caddy(rest="127.0.0.1:9", storage=storage) as caddy:
        assert httpx.get(f"http://127.0.0.1:{caddy.port}/rest/v1/x").status_code == 502
        assert httpx.get(f"http://127.0.0.1:{caddy.port}/storage/v1/x").status_code == 200
