"""Each fault does what its order says, to whom it says, and as often; what takes place, takes place once."""

import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from servers import gateway_faults as faults
from servers.gateway_faults import Fault, Stranger
from servers.postgres_cluster import PostgresCluster
from servers.supabase_stack import SupabaseStack
from servers.unprivileged import ServerFailed, wait_until
from supabase import ClientOptions, create_client

WRITE = "/rest/v1/rpc/note"
OBJECT = "/storage/v1/object/mcp-files/local/a"


@pytest.fixture(scope="module")
def project(supabase_cluster: PostgresCluster) -> Iterator[SupabaseStack]:
    with SupabaseStack(supabase_cluster) as project:
        project.execute(
            "create table public.notes (id uuid primary key); grant all on public.notes to service_role;"
            "create function public.note(id uuid) returns json language sql as"
            " $$ insert into public.notes values (note.id) on conflict do nothing; select to_json(note.id) $$"
        )
        project.restart()
        yield project


@pytest.fixture(autouse=True)
def _empty(project: SupabaseStack) -> None:
    project.empty()
    project.execute("truncate public.notes")


@pytest.fixture
def http(project: SupabaseStack) -> Iterator[httpx.Client]:
    headers = {"apikey": project.service_key, "Authorization": f"Bearer {project.service_key}"}
    with httpx.Client(base_url=project.url, headers=headers, timeout=5, follow_redirects=False) as http:
        yield http


def note(http: httpx.Client) -> httpx.Response:
    return http.post(WRITE, json={"id": str(uuid.uuid4())})


def notes(project: SupabaseStack) -> int:
    return int(project.execute("select count(*) from public.notes")[0][0])


@pytest.mark.parametrize(
    ("fault", "stored"),
    [(faults.reset(), 0), (faults.drop_reply(), 1), (faults.hang(0.1), 0)],
    ids=lambda x: str(x)[:30],
)
def test_without_a_reply_the_client_sees_a_broken_connection(
    project: SupabaseStack, http: httpx.Client, fault: Fault, stored: int
) -> None:
    project.order(fault.on(WRITE))
    with pytest.raises(httpx.TransportError):
        note(http)
    assert notes(project) == stored
    assert note(http).status_code == 200
    seen = [(line.status, line.fault) for line in project.requests]
    assert seen == [(None, fault.kind), (200, None)]


def test_replies_can_be_anything_while_nothing_takes_place(project: SupabaseStack, http: httpx.Client) -> None:
    project.order(faults.answer(502, body="Bad Gateway"), faults.too_many_requests("7"), faults.html(), faults.empty())
    replies = [note(http) for _ in range(4)]
    assert [(reply.status_code, len(reply.content) > 0) for reply in replies] == [
        (502, True), (429, True), (200, True), (200, False),
    ]  # fmt: skip
    assert replies[1].headers["retry-after"] == "7"
    assert replies[2].headers["content-type"] == "text/html"
    assert notes(project) == 0
    assert note(http).status_code == 200


def test_a_page_or_nothing_with_status_200_looks_like_success_to_the_client(
    project: SupabaseStack, http: httpx.Client
) -> None:
    client = create_client(project.url, project.service_key, ClientOptions(httpx_client=http))
    project.order(faults.html(), faults.empty())
    assert "sign in" in client.rpc("note", {"id": str(uuid.uuid4())}).execute().data
    assert client.rpc("note", {"id": str(uuid.uuid4())}).execute().data == []


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_trickle_outlasts_every_timeout_of_one_read(project: SupabaseStack, http: httpx.Client, part: Any) -> None:
    project.order(faults.trickle(part, 0.01))
    began = time.monotonic()
    reply = http.post(WRITE, json={"id": str(uuid.uuid4())}, timeout=1)
    assert reply.status_code == 200
    size = len(reply.content) + (100 if part == "headers" else 0)
    assert time.monotonic() - began > size * 0.01
    assert notes(project) == 1


def test_a_hung_server_lets_the_client_give_up_and_may_commit_all_the_same(
    project: SupabaseStack, http: httpx.Client
) -> None:
    for after, stored in ((False, 0), (True, 1)):
        project.order(faults.hang(after=after).on(WRITE))
        with pytest.raises(httpx.ReadTimeout):
            http.post(WRITE, json={"id": str(uuid.uuid4())}, timeout=0.3)
        wait_until(lambda: notes(project) == stored, "it was not committed")  # noqa: B023


def test_a_redirect_goes_to_a_stranger_who_sees_what_it_is_sent(project: SupabaseStack, http: httpx.Client) -> None:
    with Stranger() as stranger:
        project.order(faults.redirect(stranger.url).on(WRITE, times=2))
        refused = note(http)
        assert (refused.status_code, refused.headers["location"]) == (307, f"{stranger.url}{WRITE}")
        assert stranger.seen == []
        http.post(WRITE, json={"id": str(uuid.uuid4())}, follow_redirects=True)
    method, target, headers = stranger.seen[0]
    assert (method, target, headers["apikey"]) == ("POST", WRITE, project.service_key), "httpx leaks it; we shall not"
    assert notes(project) == 0


def test_an_upload_is_cut_in_its_middle_and_leaves_nothing(project: SupabaseStack, http: httpx.Client) -> None:
    project.order(faults.cut_upload(300_000).on(OBJECT))
    with pytest.raises(httpx.TransportError):
        http.post(OBJECT, content=b"x" * 2_000_000)
    assert project.object_bytes("mcp-files", "local/a") is None
    assert list((project._folder / "objects").iterdir()) == []
    assert http.post(OBJECT, content=b"x" * 2_000_000).status_code == 200


def test_a_download_is_cut_after_some_bytes(project: SupabaseStack, http: httpx.Client) -> None:
    http.post(OBJECT, content=b"x" * 100_000)
    project.order(faults.cut_reply(40_000).on(OBJECT, method="GET"))
    pieces: list[bytes] = []
    with http.stream("GET", OBJECT) as reply, pytest.raises(httpx.RemoteProtocolError):
        pieces.extend(reply.iter_raw())
    assert sum(map(len, pieces)) == 40_000


def test_orders_name_a_path_a_method_how_many_and_which(project: SupabaseStack, http: httpx.Client) -> None:
    project.order(faults.answer(503).on(WRITE, skip=1, times=2), faults.answer(500).on("/storage", method="GET"))
    assert [note(http).status_code for _ in range(4)] == [200, 503, 503, 200]
    assert http.post(OBJECT, content=b"x").status_code == 200
    assert http.get(OBJECT).status_code == 500
    assert http.get(OBJECT).status_code == 200
    project.order(faults.answer(503).on("/", times=None))
    assert [note(http).status_code for _ in range(3)] == [503] * 3
    project.clear_faults()
    assert note(http).status_code == 200


def test_chance_is_the_same_with_the_same_seed(project: SupabaseStack, http: httpx.Client) -> None:
    def dropped() -> list[int]:
        project.clear_faults()
        project.order(faults.drop_reply().on(WRITE, times=None, probability=0.3, seed=5))
        lost = []
        for n in range(40):
            try:
                note(http)
            except httpx.TransportError:
                lost.append(n)
        return lost

    first = dropped()
    assert 4 < len(first) < 25
    assert dropped() == first
    assert notes(project) == 80


def test_a_gateway_of_its_own_process_takes_orders_and_can_be_killed(supabase_cluster: PostgresCluster) -> None:
    with SupabaseStack(supabase_cluster, process=True) as project:
        url, headers = f"{project.url}/storage/v1/bucket", {"Authorization": f"Bearer {project.secret_key}"}
        project.order(faults.answer(503).on("/storage"))
        assert [httpx.get(url, headers=headers).status_code for _ in range(2)] == [503, 400]
        project.kill()
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
        project.restart()
        assert [line.status for line in project.requests] == [503, 400]
        project.stop()
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)


def test_only_a_process_can_be_killed(project: SupabaseStack) -> None:
    with pytest.raises(ServerFailed):
        project.kill()


def test_closing_ends_what_hangs(supabase_cluster: PostgresCluster) -> None:
    with SupabaseStack(supabase_cluster, migrated=False) as project:
        project.order(faults.hang())
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(project.url, timeout=0.1)
        began = time.monotonic()
    assert time.monotonic() - began < 9, "a thread was waited for in vain"
