"""The stand-in for storage-api: rows under row level security, bytes in files, and refusals as the real ones."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from servers.gateway import GatewayOptions
from servers.postgres_cluster import PostgresCluster
from servers.supabase_stack import SupabaseStack
from storage3.exceptions import StorageApiError
from supabase import Client, ClientOptions, create_client

BUCKET = "mcp-files"
MEGABYTE = 1024 * 1024
Connect = Callable[..., Client]


@pytest.fixture(scope="module")
def project(supabase_cluster: PostgresCluster) -> Iterator[SupabaseStack]:
    with SupabaseStack(supabase_cluster) as project:
        project.execute(
            "insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types) values"
            " ('small', 'small', false, 1000, array['text/*', 'image/png']), ('open', 'open', true, null, null)"
        )
        yield project


@pytest.fixture(autouse=True)
def _empty(project: SupabaseStack) -> None:
    project.empty()


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(http2=False, follow_redirects=False, timeout=10) as http:
        yield http


@pytest.fixture
def connect(project: SupabaseStack, http: httpx.Client) -> Connect:
    def connect(key: str | None = None, token: str | None = None) -> Client:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return create_client(project.url, key or project.service_key, ClientOptions(httpx_client=http, headers=headers))

    return connect


def refusal(call: Callable[[], Any]) -> tuple[str, str, str]:
    with pytest.raises(StorageApiError) as caught:
        call()
    return caught.value.status, caught.value.code, caught.value.message


def by(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# ── there and back ───────────────────────────────────────────────────────────────────────────────────────────


def test_what_storage3_uploads_is_listed_described_downloaded_signed_and_removed(
    project: SupabaseStack, connect: Connect, http: httpx.Client
) -> None:
    for key in (project.service_key, project.secret_key):
        bucket = connect(key).storage.from_(BUCKET)
        options = {"content-type": "image/png", "cache-control": "60", "metadata": {"from": "a test"}}
        assert bucket.upload("local/a%20b.png", b"bytes", options).full_path == f"{BUCKET}/local/a b.png"
        assert project.object_bytes(BUCKET, "local/a b.png") == b"bytes"
        assert bucket.download("local/a b.png") == b"bytes"
        assert [(line["name"], line["metadata"]["size"]) for line in bucket.list("local")] == [("a b.png", 5)]
        assert [(line["name"], line["id"]) for line in bucket.list()] == [("local", None)]
        info = bucket.info("local/a b.png")
        assert (info["size"], info["content_type"], info["cache_control"]) == (5, "image/png", "max-age=60")
        assert info["metadata"] == {"from": "a test"}
        assert bucket.exists("local/a b.png")
        assert http.get(bucket.create_signed_url("local/a b.png", 60)["signedURL"]).content == b"bytes"
        assert [line["name"] for line in bucket.remove(["local/a b.png", "local/missing"])] == ["local/a b.png"]
        assert not bucket.exists("local/a b.png")


def test_a_raw_body_is_uploaded_too_and_read_in_parts(project: SupabaseStack, http: httpx.Client) -> None:
    url = f"{project.url}/storage/v1/object/{BUCKET}/local/numbers"
    headers = by(project.service_key) | {"Content-Type": "text/plain", "Cache-Control": "max-age=5"}
    stored = http.post(url, headers=headers, content=(b"%d" % n for n in range(10)))
    assert stored.json()["Key"] == f"{BUCKET}/local/numbers"
    whole = http.get(url.replace("/object/", "/object/authenticated/"), headers=by(project.service_key))
    assert (whole.content, whole.headers["content-type"]) == (b"0123456789", "text/plain")
    assert (whole.headers["etag"], whole.headers["cache-control"]) == (
        f'"{hashlib.md5(b"0123456789").hexdigest()}"',
        "max-age=5",
    )
    for asked, content, described in (("2-4", b"234", "2-4"), ("7-", b"789", "7-9"), ("-2", b"89", "8-9")):
        part = http.get(url, headers=by(project.service_key) | {"Range": f"bytes={asked}"})
        assert (part.status_code, part.content) == (206, content)
        assert part.headers["content-range"] == f"bytes {described}/10"
    assert http.get(url, headers=by(project.service_key) | {"Range": "bytes=10-"}).status_code == 416
    head = http.head(url, headers=by(project.service_key))
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "10", b"")
    fresh = http.get(url, headers=by(project.service_key) | {"If-None-Match": whole.headers["etag"]})
    assert fresh.status_code == 304


def test_upsert_is_asked_for_and_leaves_one_version(project: SupabaseStack, connect: Connect) -> None:
    bucket = connect().storage.from_(BUCKET)
    bucket.upload("local/a", b"1")
    assert refusal(lambda: bucket.upload("local/a", b"2")) == ("409", "Duplicate", "The resource already exists")
    assert bucket.download("local/a") == b"1"
    bucket.upload("local/a", b"3", {"upsert": "true"})
    bucket.update("local/a", b"4")
    assert bucket.download("local/a") == b"4"
    assert len(list((project._folder / "objects").iterdir())) == 1


def test_a_file_of_many_megabytes_goes_through_in_pieces(
    supabase_cluster: PostgresCluster, http: httpx.Client, tmp_path: Path
) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        for n in range(48):
            file.write(bytes([n]) * MEGABYTE)
    with SupabaseStack(supabase_cluster, process=True) as project:
        gateway = psutil.Process(project._gateway.pid)
        headers = by(project.service_key)
        url = f"{project.url}/storage/v1/object/{BUCKET}/local/big"
        http.post(f"{url}-warm", headers=headers, content=b"x" * MEGABYTE)
        before = gateway.memory_info().rss
        with big.open("rb") as file:
            assert http.post(url, headers=headers, files={"file": ("big", file)}).status_code == 200
        digest = hashlib.sha256()
        with http.stream("GET", url, headers=headers) as reply:
            for piece in reply.iter_bytes():
                digest.update(piece)
        assert gateway.memory_info().rss - before < 8 * MEGABYTE
    with big.open("rb") as file:
        assert digest.digest() == hashlib.file_digest(file, "sha256").digest()


# ── who may ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_user_reaches_what_is_under_its_own_name_only(project: SupabaseStack, connect: Connect) -> None:
    ann, bob = (connect(project.anon_key, project.user_token(name)).storage.from_(BUCKET) for name in ("ann", "bob"))
    ann.upload("ann/a", b"hers")
    assert ann.download("ann/a") == b"hers"
    denied = ("403", "Unauthorized", "new row violates row-level security policy")
    assert refusal(lambda: bob.upload("ann/b", b"his")) == denied
    missing = ("404", "not_found", "Object not found")
    for forbidden in (bob.download, bob.info, lambda key: bob.create_signed_url(key, 60)):
        assert refusal(lambda: forbidden("ann/a")) == missing  # noqa: B023
    assert bob.list("ann") == []
    assert bob.remove(["ann/a"]) == []
    assert ann.remove(["ann/a"]) == [], "there is no policy for delete"
    assert refusal(lambda: ann.upload("ann/a", b"again", {"upsert": "true"})) == denied, "nor for update"
    assert project.object_bytes(BUCKET, "ann/a") == b"hers"


def test_with_row_security_off_a_user_reads_anybodys(supabase_cluster: PostgresCluster, http: httpx.Client) -> None:
    with SupabaseStack(supabase_cluster, rls=False) as project:
        url = f"{project.url}/storage/v1/object/{BUCKET}/ann/a"
        http.post(url, headers=by(project.service_key), content=b"hers")
        assert http.get(url, headers=by(project.user_token("bob"))).content == b"hers"


def test_where_the_owner_may_not_make_policies_users_reach_nothing(
    supabase_cluster: PostgresCluster, http: httpx.Client
) -> None:
    with SupabaseStack(supabase_cluster, policies=False) as project:
        url = f"{project.url}/storage/v1/object/{BUCKET}/ann/a"
        assert http.post(url, headers=by(project.service_key), content=b"hers").status_code == 200
        assert http.get(url, headers=by(project.user_token("ann"))).json()["message"] == "Object not found"


def test_a_bad_token_reads_no_such_bucket_on_download_and_unauthorized_elsewhere(
    project: SupabaseStack, connect: Connect, http: httpx.Client
) -> None:
    connect().storage.from_(BUCKET).upload("local/a", b"1")
    for token in (project.user_token("local", -60), "sb_secret_wrong", "no.to.ken"):
        bucket = connect(token).storage.from_(BUCKET)
        assert refusal(lambda: bucket.download("local/a")) == ("404", "Bucket not found", "Bucket not found")  # noqa: B023
        for call in (lambda: bucket.list("local"), lambda: bucket.upload("local/b", b"1")):  # noqa: B023
            assert refusal(call)[:2] == ("403", "Unauthorized")
    expired = by(project.user_token("local", -60))
    listed = http.post(f"{project.url}/storage/v1/object/list/{BUCKET}", headers=expired, json={"prefix": ""})
    assert (listed.status_code, listed.json()["message"]) == (400, '"exp" claim timestamp check failed')
    nobody = http.post(f"{project.url}/storage/v1/object/list/{BUCKET}", json={"prefix": ""})
    assert nobody.json()["message"] == "headers must have required property 'authorization'"


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bucket_that_is_not_there_lists_empty_and_refuses_the_rest(connect: Connect) -> None:
    missing = connect().storage.from_("missing")
    for call in (lambda: missing.upload("a", b"1"), lambda: missing.download("a")):
        assert refusal(call) == ("404", "Bucket not found", "Bucket not found")
    assert missing.list() == []
    assert missing.remove(["a"]) == []
    assert refusal(lambda: missing.create_signed_url("a", 60))[0] == "404"
    assert refusal(lambda: connect().storage.get_bucket("missing"))[0] == "404"


@pytest.mark.parametrize("key", ["a/ü", "a\\b", "a\tb", "a#b", 'a"b', "a%b", "a~b", "[a]"])
def test_keys_with_other_characters_are_refused(project: SupabaseStack, http: httpx.Client, key: str) -> None:
    url = f"{project.url}/storage/v1/object/{BUCKET}/" + "".join(f"%{byte:02x}" for byte in key.encode())
    for reply in (http.post(url, headers=by(project.service_key), content=b"1"), http.get(url, headers=by("x"))):
        assert reply.status_code == 400
    refused = http.post(url, headers=by(project.service_key), content=b"1").json()
    assert refused == {
        "statusCode": "400",
        "error": "InvalidKey",
        "message": f"Invalid key: {key}",
        "code": "InvalidKey",
    }


def test_dot_segments_and_long_segments_are_refused(project: SupabaseStack, http: httpx.Client) -> None:
    def refused(key: str) -> httpx.Response:
        url = f"{project.url}/storage/v1/object/{BUCKET}/{key}"
        return http.post(url, headers=by(project.service_key), content=b"1")

    assert refused("a/%2e%2e/b").json()["message"] == "Invalid key: a/../b contains dot path segment"
    assert refused("x" * 256).status_code == 500
    assert refused("x" * 255).status_code == 200
    assert project.execute("select count(*) from storage.objects") == [(1,)]


def test_limits_of_a_bucket_are_413_and_415(project: SupabaseStack, connect: Connect, http: httpx.Client) -> None:
    small = connect().storage.from_("small")
    plain = {"content-type": "text/plain"}
    small.upload("fits", b"x" * 1000, plain)
    too_large = ("413", "Payload too large", "The object exceeded the maximum allowed size")
    assert refusal(lambda: small.upload("large", b"x" * 1001, plain)) == too_large
    url = f"{project.url}/storage/v1/object/small/raw"
    raw = http.post(url, headers=by(project.service_key) | {"Content-Type": "text/plain"}, content=b"x" * 5_000_000)
    assert raw.json()["statusCode"] == "413"
    wrong = ("415", "invalid_mime_type", "mime type image/gif is not supported")
    assert refusal(lambda: small.upload("type", b"x", {"content-type": "image/gif"})) == wrong
    small.upload("type", b"x", {"content-type": "image/png"})
    assert [line["name"] for line in small.list()] == ["fits", "type"]


def test_the_projects_own_limit_holds_in_every_bucket(supabase_cluster: PostgresCluster, http: httpx.Client) -> None:
    with SupabaseStack(supabase_cluster, options=GatewayOptions(file_size_limit=10)) as project:
        url = f"{project.url}/storage/v1/object/{BUCKET}/local/a"
        assert http.post(url, headers=by(project.service_key), content=b"x" * 11).json()["statusCode"] == "413"


def test_what_is_asked_wrongly_is_refused_by_its_form(project: SupabaseStack, http: httpx.Client) -> None:
    def message(method: str, path: str, **kwargs: Any) -> str:
        reply = http.request(method, f"{project.url}/storage/v1/{path}", headers=by(project.service_key), **kwargs)
        return str(reply.json()["message"])

    assert message("DELETE", f"object/{BUCKET}", json={}) == "body must have required property 'prefixes'"
    assert message("POST", f"object/sign/{BUCKET}/a", json={}) == "body must have required property 'expiresIn'"
    assert message("POST", f"object/list/{BUCKET}", content=b"{") == "Body is not valid JSON"
    only_a_field = {"files": {"cacheControl": (None, "1")}}
    assert message("POST", f"object/{BUCKET}/a", **only_a_field) == "No content provided"
    assert message("GET", "elsewhere") == "Route GET:/storage/v1/elsewhere not found"


def test_a_signed_url_ends_and_is_for_one_object_only(supabase_cluster: PostgresCluster, http: httpx.Client) -> None:
    with SupabaseStack(supabase_cluster) as project:
        base = f"{project.url}/storage/v1"
        for key in ("a", "b"):
            http.post(f"{base}/object/{BUCKET}/{key}", headers=by(project.service_key), content=b"1")
        signed = http.post(f"{base}/object/sign/{BUCKET}/a", headers=by(project.service_key), json={"expiresIn": "60"})
        url = base + signed.json()["signedURL"]
        assert http.get(url).content == b"1"
        assert http.get(url.replace("/a?", "/b?")).json()["code"] == "InvalidSignature"
        assert http.get(f"{url}x").json()["code"] == "InvalidJWT"
        project.advance(61)
        assert http.get(url).json()["message"] == '"exp" claim timestamp check failed'


# ── buckets ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_buckets_are_seen_made_and_changed_by_the_service_role_only(project: SupabaseStack, connect: Connect) -> None:
    storage = connect().storage
    assert [bucket.id for bucket in storage.list_buckets()] == [BUCKET, "open", "small"]
    assert (storage.get_bucket(BUCKET).public, storage.get_bucket(BUCKET).file_size_limit) == (False, 52428800)
    storage.create_bucket("made", options={"file_size_limit": "1MB", "public": True})
    assert refusal(lambda: storage.create_bucket("made"))[:2] == ("409", "Duplicate")
    assert refusal(lambda: storage.create_bucket("a/b"))[2] == "Bucket name invalid"
    storage.update_bucket("made", {"public": False})
    made = storage.get_bucket("made")
    assert (made.public, made.file_size_limit) == (False, 1_000_000)
    user = connect(project.anon_key, project.user_token("ann")).storage
    assert user.list_buckets() == []
    assert refusal(lambda: user.get_bucket(BUCKET))[0] == "404"
    assert refusal(lambda: user.create_bucket("mine"))[0] == "403"
    project.execute("set storage.allow_delete_query = 'true'; delete from storage.buckets where id = 'made'")


def test_rows_of_storage_cannot_be_deleted_past_the_api(project: SupabaseStack, connect: Connect) -> None:
    connect().storage.from_(BUCKET).upload("local/a", b"1")
    with pytest.raises(Exception, match="Direct deletion from storage tables is not allowed"):
        project.execute("delete from storage.objects")


def test_what_is_stored_survives_a_restart(project: SupabaseStack, connect: Connect) -> None:
    connect().storage.from_(BUCKET).upload("local/a", b"1")
    project.restart()
    assert connect().storage.from_(BUCKET).download("local/a") == b"1"
