"""The stand-in for resumable uploads: TUS 1.0.0 with plain httpx, broken off, taken up again, refused."""

import base64
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from servers.gateway import GatewayOptions
from servers.gateway_faults import Stranger, cut_upload, drop_reply, foreign_location
from servers.gateway_tus import CHUNK, TusRules
from servers.postgres_cluster import PostgresCluster
from servers.supabase_stack import SupabaseStack
from servers.unprivileged import wait_until

BUCKET = "mcp-files"
MEGABYTE = 1024 * 1024
CONTENT = os.urandom(2 * CHUNK + MEGABYTE)


@pytest.fixture(scope="module")
def project(supabase_cluster: PostgresCluster) -> Iterator[SupabaseStack]:
    with SupabaseStack(supabase_cluster) as project:
        project.execute(
            "insert into storage.buckets (id, name, file_size_limit, allowed_mime_types)"
            " values ('small', 'small', 1000, array['text/plain'])"
        )
        yield project


@pytest.fixture(autouse=True)
def _empty(project: SupabaseStack) -> None:
    project.empty()


class Uploader:
    """A client that knows no more than the protocol."""

    def __init__(self, project: SupabaseStack, key: str | None = None) -> None:
        self.http = httpx.Client(
            headers={"Authorization": f"Bearer {key or project.service_key}", "Tus-Resumable": "1.0.0"}, timeout=10
        )
        self.endpoint = f"{project.url}/storage/v1/upload/resumable"
        self.location = ""

    def create(self, key: str, length: int = len(CONTENT), bucket: str = BUCKET, **headers: str) -> httpx.Response:
        named = {"bucketName": bucket, "objectName": key, "contentType": "text/plain", "cacheControl": "60"}
        metadata = ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in named.items())
        sent = {"Upload-Length": str(length), "Upload-Metadata": metadata, **headers}
        reply = self.http.post(self.endpoint, headers={name: value for name, value in sent.items() if value})
        self.location = reply.headers.get("location", "")
        return reply

    def offset(self) -> int:
        return int(self.http.head(self.location).raise_for_status().headers["upload-offset"])

    def send(self, offset: int, size: int = CHUNK, content: bytes = CONTENT, **headers: str) -> httpx.Response:
        sent = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream", **headers}
        return self.http.patch(self.location, headers=sent, content=content[offset : offset + size])


@pytest.fixture
def uploader(project: SupabaseStack) -> Iterator[Uploader]:
    uploader = Uploader(project)
    yield uploader
    uploader.http.close()


def refused(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.text.strip()


def test_three_chunks_become_an_object(project: SupabaseStack, uploader: Uploader) -> None:
    created = uploader.create("local/big")
    assert (created.status_code, created.headers["tus-resumable"]) == (201, "1.0.0")
    assert uploader.location.startswith(f"{project.url}/storage/v1/upload/resumable/")
    assert "upload-expires" in created.headers
    for number, offset in enumerate((0, CHUNK, 2 * CHUNK), 1):
        assert project.object_bytes(BUCKET, "local/big") is None
        sent = uploader.send(offset)
        assert (sent.status_code, int(sent.headers["upload-offset"])) == (204, min(number * CHUNK, len(CONTENT)))
    assert sent.headers["tus-complete"] == "1"
    assert project.object_bytes(BUCKET, "local/big") == CONTENT
    head = uploader.http.head(uploader.location)
    assert (head.headers["upload-offset"], head.headers["upload-length"]) == (str(len(CONTENT)),) * 2
    assert [chunk.received for chunk in project.chunks(f"{BUCKET}/local/big")] == [CHUNK, CHUNK, MEGABYTE]
    assert refused(uploader.http.delete(uploader.location, headers={"x-upsert": "true"}))[0] == 400


def test_an_upload_may_come_with_its_creation_and_may_be_empty(project: SupabaseStack, uploader: Uploader) -> None:
    assert uploader.create("local/empty", 0).headers["tus-complete"] == "1"
    assert project.object_bytes(BUCKET, "local/empty") == b""
    uploader.http.headers["Content-Type"] = "application/offset+octet-stream"
    metadata = base64.b64encode(BUCKET.encode()).decode(), base64.b64encode(b"local/at-once").decode()
    headers = {"Upload-Length": "5", "Upload-Metadata": "bucketName {},objectName {}".format(*metadata)}
    created = uploader.http.post(uploader.endpoint, headers=headers, content=b"bytes")
    assert (created.status_code, created.headers["upload-offset"]) == (201, "5")
    assert project.object_bytes(BUCKET, "local/at-once") == b"bytes"


def test_a_broken_chunk_is_gone_on_with_from_where_it_broke(project: SupabaseStack, uploader: Uploader) -> None:
    uploader.create("local/big")
    uploader.send(0)
    project.order(cut_upload(4 * MEGABYTE).on("/storage/v1/upload/resumable/"))
    with pytest.raises(httpx.TransportError):
        uploader.send(CHUNK)
    assert uploader.offset() == CHUNK + 4 * MEGABYTE
    while (offset := uploader.offset()) < len(CONTENT):
        uploader.send(offset)
    assert project.object_bytes(BUCKET, "local/big") == CONTENT
    assert sum(chunk.received for chunk in project.chunks(f"{BUCKET}/local/big")) == len(CONTENT)


def test_where_partial_chunks_are_dropped_one_chunk_is_sent_again(supabase_cluster: PostgresCluster) -> None:
    with SupabaseStack(supabase_cluster, options=GatewayOptions(tus=TusRules(keeps_partial=False))) as project:
        uploader = Uploader(project)
        uploader.create("local/big")
        project.order(cut_upload(4 * MEGABYTE).on("/storage/v1/upload/resumable/"))
        with pytest.raises(httpx.TransportError):
            uploader.send(0)
        assert uploader.offset() == 0
        for offset in (0, CHUNK, 2 * CHUNK):
            assert uploader.send(offset).status_code == 204
        assert project.object_bytes(BUCKET, "local/big") == CONTENT
        again = sum(chunk.received for chunk in project.chunks(f"{BUCKET}/local/big")) - len(CONTENT)
        assert again == 4 * MEGABYTE


def test_a_lost_acknowledgement_is_seen_by_asking(project: SupabaseStack, uploader: Uploader) -> None:
    uploader.create("local/big", CHUNK)
    project.order(drop_reply().on("/storage/v1/upload/resumable/", method="PATCH"))
    with pytest.raises(httpx.TransportError):
        uploader.send(0)
    assert uploader.offset() == CHUNK
    assert project.object_bytes(BUCKET, "local/big") == CONTENT[:CHUNK]
    assert refused(uploader.create("local/big", CHUNK)) == (409, "The resource already exists")


def test_uploads_survive_a_restart_and_a_kill_of_the_gateway(supabase_cluster: PostgresCluster) -> None:
    with SupabaseStack(supabase_cluster, process=True) as project:
        uploader = Uploader(project)
        uploader.create("local/big")
        uploader.send(0)
        project.restart()
        assert uploader.offset() == CHUNK
        uploader.send(CHUNK)
        project.kill()
        with pytest.raises(httpx.TransportError):
            uploader.offset()
        project.restart()
        assert uploader.send(uploader.offset()).headers["tus-complete"] == "1"
        assert project.object_bytes(BUCKET, "local/big") == CONTENT
        assert len(project.chunks(f"{BUCKET}/local/big")) == 3


@pytest.mark.parametrize(
    ("asked", "status", "text"),
    [
        ({"Tus-Resumable": "0.9"}, 400, "Invalid tus-resumable"),
        ({"Upload-Length": "-1"}, 400, "Invalid upload-length"),
        ({"Upload-Metadata": "bucketName ?"}, 400, "Invalid upload-metadata"),
        ({"Upload-Metadata": ""}, 400, "Metadata header is required"),
        ({"Upload-Length": ""}, 400, "Upload-Length or Upload-Defer-Length header required"),
        ({"key": "a/ü"}, 400, "Invalid key: a/ü"),
        ({"key": "a/../b"}, 400, "Invalid key: a/../b contains dot path segment"),
        ({"bucket": "missing"}, 404, "Bucket not found"),
        ({"bucket": "small"}, 413, "Maximum size exceeded"),
        ({"length": 50 * MEGABYTE + 1}, 413, "Maximum size exceeded"),
    ],
)
def test_an_upload_is_refused_before_it_begins(
    uploader: Uploader, asked: dict[str, Any], status: int, text: str
) -> None:
    assert refused(uploader.create(asked.pop("key", "local/a"), **asked)) == (status, text)


def test_every_request_names_the_version_of_the_protocol(uploader: Uploader) -> None:
    del uploader.http.headers["Tus-Resumable"]
    assert refused(uploader.create("local/a")) == (412, "Tus-Resumable Required")


def test_a_chunk_is_refused_that_does_not_fit(project: SupabaseStack, uploader: Uploader) -> None:
    uploader.create("local/big")
    assert refused(uploader.send(CHUNK)) == (409, "Upload-Offset conflict")
    assert refused(uploader.send(0, CHUNK - 1))[0] == 400
    assert refused(uploader.send(0, **{"Content-Type": "text/plain"})) == (400, "Invalid content-type")
    assert refused(uploader.send(0, len(CONTENT) + 1, CONTENT + b"x")) == (413, "upload's size exceeded")
    assert uploader.offset() == 0
    no_offset = uploader.http.patch(uploader.location, headers={"Content-Type": "application/offset+octet-stream"})
    assert refused(no_offset) == (403, "Upload-Offset header required")
    assert project.object_bytes(BUCKET, "local/big") is None


def test_an_upload_ends_on_order_and_by_its_age(supabase_cluster: PostgresCluster, uploader: Uploader) -> None:
    uploader.create("local/big")
    assert uploader.http.delete(uploader.location).status_code == 204
    assert uploader.http.head(uploader.location).status_code == 404
    assert refused(uploader.send(0)) == (404, "The file for this url was not found")
    with SupabaseStack(supabase_cluster) as other:
        aged = Uploader(other)
        aged.create("local/big")
        other.advance(24 * 3600 - 60)
        assert aged.offset() == 0
        other.advance(61)
        assert refused(aged.send(0)) == (410, "The file for this url no longer exists")


def test_row_security_and_tokens_are_asked_at_each_step(project: SupabaseStack, uploader: Uploader) -> None:
    ann, bob = (Uploader(project, project.user_token(name)) for name in ("ann", "bob"))
    assert refused(bob.create("ann/a", CHUNK)) == (403, "new row violates row-level security policy")
    assert ann.create("ann/a", CHUNK).status_code == 201
    bob.location = ann.location
    assert refused(bob.send(0)) == (403, "new row violates row-level security policy")
    expired = Uploader(project, project.user_token("ann", -60))
    stale = expired.create("ann/b", CHUNK)
    assert (stale.status_code, stale.json()["statusCode"]) == (400, "403")
    assert ann.send(0).status_code == 204
    assert project.object_bytes(BUCKET, "ann/a") == CONTENT[:CHUNK]


def _half_a_chunk(project: SupabaseStack, uploader: Uploader) -> socket.socket:
    """A client that sends a part of a chunk, and keeps the connection; some of it has arrived."""
    url = httpx.URL(uploader.location)
    client = socket.create_connection((url.host, url.port))
    head = {
        "Host": f"{url.host}:{url.port}",
        "Authorization": uploader.http.headers["Authorization"],
        "Tus-Resumable": "1.0.0",
        "Upload-Offset": "0",
        "Content-Type": "application/offset+octet-stream",
        "Content-Length": str(CHUNK),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    client.sendall(f"PATCH {url.raw_path.decode()} HTTP/1.1\r\n{lines}\r\n".encode() + CONTENT[:MEGABYTE])
    files = [path for path in (project._folder / "uploads").iterdir() if not path.suffix]
    wait_until(lambda: any(path.stat().st_size for path in files), "nothing arrived")
    return client


def test_two_at_once_on_one_upload_are_423_for_the_second(project: SupabaseStack, uploader: Uploader) -> None:
    uploader.create("local/big", CHUNK)
    with _half_a_chunk(project, uploader):
        assert uploader.http.head(uploader.location).status_code == 423
        assert refused(uploader.send(0)) == (423, "The resource is locked")
    wait_until(lambda: uploader.http.head(uploader.location).status_code == 200, "it stays locked")
    assert uploader.offset() == MEGABYTE


def test_or_the_first_is_ended_and_the_second_goes_on(supabase_cluster: PostgresCluster) -> None:
    rules = TusRules(locking="hand-over", drain=0.2, patience=30)
    with SupabaseStack(supabase_cluster, options=GatewayOptions(tus=rules)) as project:
        uploader = Uploader(project)
        uploader.create("local/big", CHUNK)
        with _half_a_chunk(project, uploader):
            began = time.monotonic()
            assert 0 < uploader.offset() <= MEGABYTE
            assert time.monotonic() - began > 0.15
    with SupabaseStack(supabase_cluster, options=GatewayOptions(tus=replace(rules, drain=60, patience=0.1))) as project:
        uploader = Uploader(project)
        uploader.create("local/big", CHUNK)
        with _half_a_chunk(project, uploader):
            assert uploader.http.head(uploader.location).status_code == 503


def test_many_uploads_at_once_are_apart(project: SupabaseStack) -> None:
    def upload(n: int) -> None:
        uploader = Uploader(project)
        uploader.create(f"local/{n}", CHUNK)
        uploader.send(0, content=bytes([n]) * CHUNK)
        uploader.http.close()

    threads = [threading.Thread(target=upload, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(project.object_bytes(BUCKET, f"local/{n}") == bytes([n]) * CHUNK for n in range(4))


def test_a_location_on_another_origin_can_be_ordered(project: SupabaseStack, uploader: Uploader) -> None:
    with Stranger() as stranger:
        project.order(foreign_location(stranger.url))
        uploader.create("local/big")
        assert uploader.location.startswith(f"{stranger.url}/storage/v1/upload/resumable/")
        uploader.send(0, 10)
    assert [(method, "authorization" in headers) for method, _, headers in stranger.seen] == [("PATCH", True)]
