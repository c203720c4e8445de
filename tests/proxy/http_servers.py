"""HTTP servers in threads: real MCP applications, and one that answers what a test tells it to."""

import asyncio
import datetime
import ipaddress
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

Json = dict[str, Any]


@contextmanager
def served(app: Any, *, port: int = 0, certificate: Path | None = None) -> Iterator[str]:
    """The address of `app`; with a certificate by https."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        options = {"ssl_certfile": certificate, "ssl_keyfile": certificate} if certificate else {}
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1, **options)  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
        try:
            yield f"{'https' if certificate else 'http'}://127.0.0.1:{listening.getsockname()[1]}/mcp"
        finally:
            server.should_exit = True
            thread.join()


@dataclass
class Seen:
    method: str
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> Any:
        return json.loads(self.body)


Answer = Callable[[Request, Any], Response]


@dataclass
class Script:
    """An application that answers each POST of a request by `answer`, each GET by `stream`, and keeps what it saw."""

    answer: Answer
    stream: Callable[[Request], Response] = lambda _: Response(status_code=405)
    seen: list[Seen] = field(default_factory=list)
    closed: list[Any] = field(default_factory=list)
    """The ids of requests whose stream was closed by the other side."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        body = await request.body()
        self.seen.append(Seen(request.method, dict(request.headers), body))
        if request.method == "GET":
            response = self.stream(request)
        elif request.method == "DELETE":
            response = Response()
        else:
            try:
                message = json.loads(body)
            except ValueError:
                message = None
            is_request = isinstance(message, list) or (isinstance(message, dict) and {"id", "method"} <= message.keys())
            response = self.answer(request, message) if is_request else Response(status_code=202)
        await response(scope, receive, send)

    def of(self, method: str) -> list[Seen]:
        """The POSTs of that JSON-RPC method."""
        return [seen for seen in self.seen if seen.method == "POST" and seen.message.get("method") == method]


def as_json(body: str | bytes, status: int = 200, **headers: str) -> Response:
    return Response(body, status, headers, "application/json")


def result(message: Json, **fields: Any) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": fields})


def events(*parts: str, then: "asyncio.Event | None" = None, on_close: Callable[[], None] = lambda: None) -> Response:
    """A stream of these parts as they are; left open with `then`."""

    async def stream() -> AsyncIterator[str]:
        try:
            for part in parts:
                yield part
            if then is not None:
                await then.wait()
        except asyncio.CancelledError:
            on_close()
            raise

    return StreamingResponse(stream(), media_type="text/event-stream")


def event(data: str, id_: str | None = None) -> str:
    return (f"id: {id_}\n" if id_ else "") + f"event: message\ndata: {data}\n\n"


def self_signed(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that no authority has signed, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return file
