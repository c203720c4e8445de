"""Files of a Supabase project on their way up and down: cut off, forgotten, restarted, at once, and whole after all."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from servers.gateway import GatewayOptions
from servers.gateway_faults import (
    Fault,
    Stranger,
    answer,
    cut_reply,
    cut_upload,
    drop_reply,
    foreign_location,
    hang,
    reset,
    trickle,
)
from servers.gateway_tus import CHUNK, TusRules
from servers.postgres_cluster import PostgresCluster
from servers.supabase_stack import SupabaseStack
from soak.upload_kills import kill_uploads

from perdure.errors import (
    FileMissing,
    PerdureError,
    StoreMisconfigured,
    StoreTimeout,
    StoreUnavailable,
    TurnRefused,
)
from perdure.middleware.persistence.file_stores.supabase import SupabaseFileStore
from perdure.middleware.persistence.files.keeper import FileKeeper
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.supabase_api.client import SupabaseApi
from perdure.middleware.persistence.turn import StoredFile
from perdure.testing.turns import a_turn, answered

BUCKET = "mcp-files"
TUS = "/storage/v1/upload/resumable"
UPLOAD = f"{TUS}/"
PLAIN = f"/storage/v1/object/{BUCKET}/"
READ = f"/storage/v1/object/authenticated/{BUCKET}/"
INFO = f"/storage/v1/object/info/{BUCKET}/"
SLACK = 1.5
CONTENT = os.urandom(2 * CHUNK + 500_000)
KEY = f"alice/{hashlib.sha256(CONTENT).hexdigest()}/large.bin"
NAME = f"{BUCKET}/{KEY}"


class Project:
    """A stack, and stores over it of processes that come one after the other: all over one folder."""

    def __init__(self, stack: SupabaseStack, folder: Path, until_the_end: ExitStack) -> None:
        self.stack = stack
        self.folder = folder
        self.snapshot = folder / "snapshot"
        self.snapshot.write_bytes(CONTENT)
        self._until_the_end = until_the_end

    def store(self, *, timeout: float = 30.0, folder: str = "data", url: str = "") -> SupabaseFileStore:
        api = SupabaseApi(url or self.stack.url, self.stack.secret_key)
        self._until_the_end.callback(api.close)
        return SupabaseFileStore(api, BUCKET, self.folder / folder, timeout=timeout)

    def put(self, store: SupabaseFileStore | None = None) -> None:
        (store or self.store()).put(KEY, self.snapshot, media_type="application/octet-stream")

    def is_whole(self) -> bool:
        return self.stack.object_bytes(BUCKET, KEY) == CONTENT

    @property
    def sent(self) -> int:
        """Bytes of the file that have arrived at the server, those that did not count among them."""
        return sum(chunk.received for chunk in self.stack.chunks(NAME))

    def asked(self, method: str, path: str = UPLOAD) -> list[int | None]:
        """The status of each such request."""
        return [one.status for one in self.stack.requests if one.method == method and one.path.startswith(path)]

    @property
    def notes(self) -> list[str]:
        """What is left in the folder."""
        return [path.name for path in (self.folder / "data").rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def stacks(supabase_cluster: PostgresCluster) -> Iterator[Callable[[TusRules], SupabaseStack]]:
    made: dict[TusRules, SupabaseStack] = {}
    with ExitStack() as until_the_end:

        def stack(rules: TusRules) -> SupabaseStack:
            if rules not in made:
                options = GatewayOptions(tus=rules, file_size_limit=1 << 30)
                made[rules] = until_the_end.enter_context(SupabaseStack(supabase_cluster, options=options))
            made[rules].empty()
            return made[rules]

        yield stack


Make = Callable[[TusRules], Project]


@pytest.fixture
def make(stacks: Callable[[TusRules], SupabaseStack], tmp_path: Path) -> Iterator[Make]:
    with ExitStack() as until_the_end:
        yield lambda rules: Project(stacks(rules), tmp_path, until_the_end)


@pytest.fixture
def project(make: Make) -> Project:
    return make(TusRules())


KINDS = {
    "keeps": TusRules(),
    "forgets": TusRules(keeps_partial=False),
    "hands over": TusRules(keeps_partial=False, locking="hand-over", drain=0.2, patience=1.0),
}


@pytest.fixture(params=KINDS)
def of_each_kind(make: Make, request: pytest.FixtureRequest) -> Project:
    """A server that counts what arrived of a chunk, one that does not, and one that ends the first of two at once."""
    return make(KINDS[request.param])


def error_of(work: Callable[[], object]) -> PerdureError:
    with pytest.raises(PerdureError) as caught:
        work()
    return caught.value


# ── two ways up ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_large_file_goes_up_in_chunks_of_6_mib_and_the_rest(project: Project) -> None:
    project.put()
    assert [(chunk.offset, chunk.received) for chunk in project.stack.chunks(NAME)] == [
        (0, CHUNK),
        (CHUNK, CHUNK),
        (2 * CHUNK, 500_000),
    ]
    assert project.is_whole()
    assert project.notes == []


@pytest.mark.parametrize(("size", "ways"), [(CHUNK, (1, 0)), (CHUNK + 1, (0, 1)), (2 * CHUNK, (0, 1))])
def test_6_mib_go_the_plain_way_and_more_does_not(project: Project, size: int, ways: tuple[int, int]) -> None:
    project.snapshot.write_bytes(CONTENT[:size])
    project.put()
    assert (len(project.asked("POST", PLAIN)), len(project.asked("POST", TUS))) == ways
    assert project.stack.object_bytes(BUCKET, KEY) == CONTENT[:size]


def test_what_is_there_is_not_sent_again(project: Project) -> None:
    project.put()
    before = project.sent
    project.put()
    assert project.sent == before
    assert project.is_whole()


def test_an_object_of_another_size_is_refused_with_a_remedy(project: Project) -> None:
    project.snapshot.write_bytes(CONTENT[:-1])
    project.put()
    project.snapshot.write_bytes(CONTENT)
    error = error_of(project.put)
    assert isinstance(error, StoreUnavailable)
    assert f"{len(CONTENT) - 1} bytes where {len(CONTENT)} belong" in error.what
    assert "delete that object" in error.remedy
    project.stack.execute("set storage.allow_delete_query = 'true'; delete from storage.objects")
    project.put()
    assert project.is_whole()


# ── cut off ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("chunk", [1, 2])
def test_a_chunk_that_is_cut_off_costs_one_chunk_at_most(of_each_kind: Project, chunk: int) -> None:
    of_each_kind.stack.order(cut_upload(300_000).on(UPLOAD, method="PATCH", skip=chunk))
    of_each_kind.put()
    assert of_each_kind.is_whole()
    assert of_each_kind.sent <= len(CONTENT) + CHUNK
    assert len(of_each_kind.asked("POST", TUS)) == 1


def test_many_cuts_cost_one_chunk_each_at_most(of_each_kind: Project) -> None:
    of_each_kind.stack.order(cut_upload(3_000_000).on(UPLOAD, method="PATCH", times=3))
    of_each_kind.put()
    assert of_each_kind.is_whole()
    assert of_each_kind.sent <= len(CONTENT) + 3 * CHUNK
    assert len(of_each_kind.asked("POST", TUS)) == 1


def test_a_line_that_is_cut_for_ever_goes_on_as_long_as_each_piece_brings_it_further(project: Project) -> None:
    project.stack.order(cut_upload(1_000_000).on(UPLOAD, method="PATCH", times=12))
    project.put()
    assert project.is_whole()
    assert len(project.asked("PATCH")) >= 12


@pytest.mark.parametrize("fault", [cut_upload(3_000_000), answer(500), answer(503)], ids=["cut", "500", "503"])
def test_a_server_that_never_takes_a_chunk_is_not_sent_it_for_ever(make: Make, fault: Fault) -> None:
    project = make(TusRules(keeps_partial=False))
    project.stack.order(fault.on(UPLOAD, method="PATCH", times=None))
    started = time.monotonic()
    assert isinstance(error_of(project.put), StoreUnavailable)
    assert len(project.asked("PATCH")) <= 5
    assert time.monotonic() - started < 10
    project.stack.clear_faults()
    project.put()
    assert project.is_whole()


@pytest.mark.parametrize("skip", [0, 2])
def test_a_lost_reply_of_a_chunk_sends_nothing_twice(of_each_kind: Project, skip: int) -> None:
    of_each_kind.stack.order(drop_reply().on(UPLOAD, method="PATCH", skip=skip))
    of_each_kind.put()
    assert of_each_kind.is_whole()
    assert of_each_kind.sent == len(CONTENT)


@pytest.mark.parametrize("lost", [reset(), drop_reply(), answer(503), answer(423)])
def test_a_lost_or_refused_head_is_asked_again(project: Project, lost: Fault) -> None:
    project.stack.order(
        cut_upload(300_000).on(UPLOAD, method="PATCH", skip=1), lost.on(UPLOAD, method="HEAD", skip=1, times=2)
    )
    project.put()
    assert project.is_whole()
    assert project.sent <= len(CONTENT) + CHUNK


def test_a_lost_reply_of_the_beginning_costs_nothing_but_another_beginning(project: Project) -> None:
    project.stack.order(drop_reply().on(TUS, method="POST"))
    project.put()
    assert project.is_whole()
    assert project.sent == len(CONTENT)


def test_a_gateway_that_starts_again_in_the_middle_goes_on(of_each_kind: Project) -> None:
    of_each_kind.stack.order(cut_upload(300_000).on(UPLOAD, method="PATCH", skip=1))
    of_each_kind.stack.order(hang(5).on(UPLOAD, method="HEAD", skip=1))
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(of_each_kind.put)
        _until(lambda: len(of_each_kind.stack.chunks(NAME)) >= 2)
        of_each_kind.stack.restart()
        put.result()
    assert of_each_kind.is_whole()
    assert of_each_kind.sent <= len(CONTENT) + CHUNK
    assert len(of_each_kind.asked("POST", TUS)) == 1


def test_a_process_that_starts_again_goes_on_where_the_one_before_it_ended(of_each_kind: Project) -> None:
    of_each_kind.stack.order(answer(401).on(UPLOAD, method="PATCH", skip=1))
    assert isinstance(error_of(of_each_kind.put), StoreMisconfigured)
    assert of_each_kind.sent == CHUNK
    of_each_kind.put(of_each_kind.store())
    assert of_each_kind.is_whole()
    assert of_each_kind.sent == len(CONTENT)
    assert len(of_each_kind.asked("POST", TUS)) == 1
    assert of_each_kind.notes == []


def test_a_deadline_ends_the_upload_and_the_next_one_goes_on(project: Project) -> None:
    project.stack.order(hang().on(UPLOAD, method="PATCH", skip=1))
    started = time.monotonic()
    assert isinstance(error_of(lambda: project.put(project.store(timeout=2))), StoreTimeout)
    assert time.monotonic() - started < 2 + SLACK
    project.stack.clear_faults()
    project.put()
    assert project.is_whole()
    assert project.sent <= len(CONTENT) + CHUNK
    assert len(project.asked("POST", TUS)) == 1


def test_a_server_that_stops_reading_amid_a_chunk_is_given_up_by_the_deadline(project: Project) -> None:
    """The bytes that a socket's buffers hold are gone at once; the rest waits."""
    project.stack.order(hang().on(UPLOAD, method="PATCH"))
    started = time.monotonic()
    assert isinstance(error_of(lambda: project.put(project.store(timeout=1))), StoreTimeout)
    assert time.monotonic() - started < 1 + SLACK


def test_a_locked_upload_is_waited_for(project: Project) -> None:
    project.stack.order(answer(423).on(UPLOAD, times=3))
    project.put()
    assert project.is_whole()


# ── forgotten ────────────────────────────────────────────────────────────────────────────────────────────────


def _begun(project: Project) -> None:
    """One chunk is there; then the process ends."""
    project.stack.order(answer(401).on(UPLOAD, method="PATCH", skip=1))
    error_of(project.put)
    assert project.sent == CHUNK


@pytest.mark.parametrize("how", ["410", "404"])
def test_an_upload_that_the_server_has_forgotten_begins_anew(project: Project, how: str) -> None:
    _begun(project)
    if how == "410":
        project.stack.advance(25 * 3600)
    else:
        project.stack.order(answer(404).on(UPLOAD))
    project.put()
    if how == "410":
        project.stack.advance(-25 * 3600)
    assert project.is_whole()
    assert project.sent == CHUNK + len(CONTENT)
    assert len(project.asked("POST", TUS)) == 2
    assert project.notes == []


@pytest.mark.parametrize(("method", "status"), [("PATCH", 404), ("HEAD", 410)])
def test_an_upload_that_is_forgotten_while_it_goes_begins_anew(project: Project, status: int, method: str) -> None:
    if method == "HEAD":
        project.stack.order(drop_reply().on(UPLOAD, method="PATCH"))
    project.stack.order(answer(status).on(UPLOAD, method=method, skip=1))
    project.put()
    assert project.is_whole()
    assert len(project.asked("POST", TUS)) == 2
    assert project.notes == []


def test_a_server_that_forgets_each_upload_is_unavailable(project: Project) -> None:
    project.stack.order(answer(404).on(UPLOAD, times=None))
    error = error_of(project.put)
    assert isinstance(error, StoreUnavailable)
    assert "None" not in error.what
    assert error.remedy
    assert len(project.asked("POST", TUS)) <= 3
    project.stack.clear_faults()
    project.put()
    assert project.is_whole()


@pytest.mark.parametrize("status", [404, 410])
def test_a_lost_last_reply_of_an_upload_that_is_gone_afterwards_is_still_right(project: Project, status: int) -> None:
    project.stack.order(
        drop_reply().on(UPLOAD, method="PATCH", skip=2),
        answer(status).on(UPLOAD, method="HEAD", skip=1, times=None),
    )
    project.put()
    assert project.is_whole()
    assert project.sent == len(CONTENT)
    assert project.notes == []


def test_an_upload_that_is_complete_without_an_object_is_unavailable_and_is_repaired_by_the_next(
    project: Project,
) -> None:
    """A server that died between the last byte and its record."""
    project.stack.execute(
        "create function lose() returns trigger language plpgsql as"
        " 'begin delete from storage.objects where id = new.id; return null; end';"
        " create trigger lost after insert on storage.objects for each row execute function lose()"
    )
    try:
        error = error_of(project.put)
    finally:
        project.stack.execute("drop trigger lost on storage.objects; drop function lose()")
    assert type(error) is StoreUnavailable
    assert "is not there" in error.what
    assert error.remedy
    assert project.stack.object_bytes(BUCKET, KEY) is None
    assert project.notes == []
    project.put()
    assert project.is_whole()


def test_an_object_that_was_deleted_while_a_note_of_its_upload_lived_is_sent_anew(project: Project) -> None:
    """The process ended between the last byte and the note's removal."""
    project.stack.order(answer(401).on(UPLOAD, method="PATCH", skip=1))
    error_of(project.put)
    (note,) = (project.folder / "data").rglob("*.json")
    kept = note.read_bytes()
    project.put()
    note.write_bytes(kept)
    project.stack.execute("set storage.allow_delete_query = 'true'; delete from storage.objects")
    for _ in range(2):
        try:
            project.put()
        except StoreUnavailable:
            continue
    assert project.is_whole()
    assert project.notes == []


def test_a_note_of_an_upload_that_somebody_else_has_finished_is_removed(project: Project) -> None:
    _begun(project)
    project.put(project.store(folder="another machine"))
    before = project.sent
    project.put()
    assert project.sent == before
    assert project.notes == []


def test_notes_of_uploads_that_nobody_goes_on_with_are_removed(project: Project) -> None:
    _begun(project)
    (note,) = (project.folder / "data").rglob("*.json")
    fresh = note.with_name("fresh.json")
    fresh.write_bytes(note.read_bytes())
    abandoned = note.with_name("abandoned.json")
    abandoned.write_bytes(note.read_bytes())
    os.utime(abandoned, (time.time() - 25 * 3600,) * 2)
    project.put()
    assert project.notes == ["fresh.json"]


@pytest.mark.parametrize("damage", ["{", "[]", "\ud800"])
def test_a_note_that_is_none_begins_anew(project: Project, damage: str) -> None:
    _begun(project)
    for note in (project.folder / "data").rglob("*.json"):
        note.write_bytes(damage.encode("utf-8", "surrogatepass"))
    project.put()
    assert project.is_whole()


# ── keys go nowhere ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_foreign_location_is_not_followed_and_the_upload_works_all_the_same(project: Project) -> None:
    with Stranger() as stranger:
        project.stack.order(foreign_location(stranger.url).on(TUS, times=None))
        project.put()
        assert stranger.seen == []
    assert project.is_whole()


def test_the_note_of_an_upload_to_another_project_takes_no_key_there(project: Project) -> None:
    with Stranger() as stranger:
        _begun(project)
        for note in (project.folder / "data").rglob("*.json"):
            note.write_text(note.read_text().replace(project.stack.url, stranger.url))
        project.put()
        assert stranger.seen == []
    assert project.is_whole()


def test_a_folder_that_has_notes_of_another_project_sends_that_project_nothing(
    project: Project, supabase_cluster: PostgresCluster
) -> None:
    _begun(project)
    before = len(project.stack.requests)
    with SupabaseStack(supabase_cluster) as other:
        api = SupabaseApi(other.url, other.secret_key)
        SupabaseFileStore(api, BUCKET, project.folder / "data").put(KEY, project.snapshot, media_type="text/plain")
        api.close()
        assert other.object_bytes(BUCKET, KEY) == CONTENT
    assert len(project.stack.requests) == before
    project.put()
    assert project.is_whole()
    assert project.sent == len(CONTENT)


def test_no_note_has_a_key_in_it(project: Project) -> None:
    _begun(project)
    for note in (project.folder / "data").rglob("*.json"):
        assert project.stack.secret_key not in note.read_text()


# ── refused ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_over_the_buckets_limit_is_refused_at_once(project: Project) -> None:
    project.stack.execute("update storage.buckets set file_size_limit = 7000000 where id = 'mcp-files'")
    try:
        error = error_of(project.put)
    finally:
        project.stack.execute("update storage.buckets set file_size_limit = 52428800 where id = 'mcp-files'")
    assert isinstance(error, TurnRefused)
    assert "limit of the bucket" in error.remedy
    assert project.sent == 0


@pytest.mark.parametrize("size", [1000, len(CONTENT)])
def test_an_address_with_nothing_behind_it_is_not_a_missing_file(project: Project, size: int) -> None:
    project.snapshot.write_bytes(CONTENT[:size])
    project.stack.order(answer(404, body="<html>not found", headers={"Content-Type": "text/html"}).on("/", times=None))
    error = error_of(project.put)
    assert isinstance(error, StoreUnavailable)
    assert error.remedy


# ── at once ──────────────────────────────────────────────────────────────────────────────────────────────────

PUT = """
import sys
from pathlib import Path
from perdure.middleware.persistence.file_stores.supabase import SupabaseFileStore
from perdure.middleware.persistence.supabase_api.client import SupabaseApi

url, secret, key, snapshot, folder = sys.argv[1:]
api = SupabaseApi(url, secret)
api.client
print("ready", flush=True)
sys.stdin.readline()
SupabaseFileStore(api, "mcp-files", Path(folder)).put(key, Path(snapshot), media_type="text/plain")
print("done", flush=True)
"""


@pytest.mark.parametrize(
    ("kind", "folders", "size"),
    [
        ("keeps", ("one", "two"), 1_000_000),
        ("keeps", ("one", "two"), len(CONTENT)),
        ("hands over", ("same", "same"), len(CONTENT)),
    ],
)
def test_two_processes_that_upload_the_same_at_once_make_one_object(
    make: Make, kind: str, folders: tuple[str, str], size: int
) -> None:
    project = make(KINDS[kind])
    project.snapshot.write_bytes(CONTENT[:size])
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                PUT,
                project.stack.url,
                project.stack.secret_key,
                KEY,
                str(project.snapshot),
                str(project.folder / folder),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=40) for process in processes]
    assert [out for out, _ in said] == ["done\n"] * 2, said
    assert project.stack.object_bytes(BUCKET, KEY) == CONTENT[:size]
    ((count,),) = project.stack.execute("select count(*) from storage.objects")
    assert count == 1


def test_eight_threads_that_upload_the_same_send_it_once(project: Project) -> None:
    store = project.store()
    with ThreadPoolExecutor(8) as pool:
        for put in [pool.submit(project.put, store) for _ in range(8)]:
            put.result()
    assert project.is_whole()
    assert project.sent == len(CONTENT)
    assert project.notes == []


def test_whoever_waits_for_another_upload_of_the_same_waits_no_longer_than_its_deadline(project: Project) -> None:
    project.stack.order(hang(6).on(UPLOAD, method="PATCH"))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(project.put, project.store())
        _until(lambda: project.notes != [])
        started = time.monotonic()
        assert isinstance(error_of(lambda: project.put(project.store(timeout=0.5))), StoreTimeout)
        assert time.monotonic() - started < 0.5 + SLACK
        project.stack.restart()
        first.result()
    assert project.is_whole()


def _until(seen: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not seen():
        assert time.monotonic() < ends
        threading.Event().wait(0.01)


# ── down ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _read(store: SupabaseFileStore) -> bytes:
    with store.read(KEY) as source:
        return b"".join(iter(lambda: source.read(100_000), b""))


def test_a_download_comes_in_pieces(project: Project) -> None:
    project.put()
    assert _read(project.store()) == CONTENT
    with project.store().read(KEY) as source:
        assert source.read(10) == CONTENT[:10]


@pytest.mark.parametrize("after", [0, 3_000_000, len(CONTENT) - 1])
def test_a_download_that_is_cut_off_never_looks_like_its_end(project: Project, after: int) -> None:
    project.put()
    project.stack.order(cut_reply(after).on(READ))
    error = error_of(lambda: _read(project.store()))
    assert isinstance(error, StoreUnavailable)
    assert _read(project.store()) == CONTENT


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_download_that_trickles_is_over_by_the_deadline(project: Project, part: str) -> None:
    project.put()
    project.stack.order(trickle(part, 0.3).on(READ, times=None))  # type: ignore[arg-type]
    store = project.store(timeout=1.5)
    started = time.monotonic()
    assert isinstance(error_of(lambda: _read(store)), StoreTimeout)
    assert time.monotonic() - started < 1.5 + SLACK


@pytest.mark.parametrize("stored", [CONTENT[:-1] + b"?", CONTENT[:-1], CONTENT + b"?"], ids=["other", "less", "more"])
def test_bytes_that_are_not_what_was_kept_are_refused_and_leave_no_copy(project: Project, stored: bytes) -> None:
    files = project.store()
    store = MemoryStore()
    keeper = FileKeeper(store, files, project.folder / "data")
    file = StoredFile(
        key=KEY, bucket=BUCKET, name="large.bin", sha256=KEY.split("/")[1], size=len(CONTENT), media_type="text/plain"
    )
    turn = answered(a_turn("hello", continuation_id="c", principal="alice"))
    store.finish(replace(turn, files=(file,)))
    project.snapshot.write_bytes(stored)
    project.put()

    def bring_back() -> Path:
        return keeper.bring_back("alice", file.uri, max_bytes=1 << 30, progress=lambda *_: None)

    error = error_of(bring_back)
    assert isinstance(error, FileMissing)
    assert "not what was kept" in error.what
    assert list(keeper.copies.iterdir()) == []
    project.stack.empty()
    project.snapshot.write_bytes(CONTENT)
    project.put()
    assert bring_back().read_bytes() == CONTENT


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────

UP_AND_DOWN = """
import hashlib, json, sys
from pathlib import Path
from perdure.middleware.persistence.file_stores.supabase import SupabaseFileStore
from perdure.middleware.persistence.supabase_api.client import SupabaseApi

url, secret, folder, size = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
hungry = sys.argv[5] == "hungry"
store = SupabaseFileStore(SupabaseApi(url, secret), "mcp-files", folder / "data", timeout=60)


def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def up_and_down(size):
    snapshot = folder / "snapshot"
    with snapshot.open("wb") as file:
        file.truncate(size)
    with snapshot.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    key = f"alice/{digest}/sparse"
    store.put(key, snapshot, media_type="text/plain")
    with store.read(key) as source:
        return digest == (
            hashlib.sha256(source.read()).hexdigest() if hungry else hashlib.file_digest(source, "sha256").hexdigest()
        )


up_and_down(7_000_000)
before = peak()
print(json.dumps([up_and_down(size), peak() - before]))
"""


def _up_and_down(project: Project, size: int, kind: str) -> tuple[bool, int]:
    project.stack.execute("update storage.buckets set file_size_limit = 1000000000 where id = 'mcp-files'")
    given = [project.stack.url, project.stack.secret_key, str(project.folder), str(size), kind]
    try:
        done = subprocess.run([sys.executable, "-c", UP_AND_DOWN, *given], capture_output=True, text=True, check=True)
    finally:
        project.stack.execute("update storage.buckets set file_size_limit = 52428800 where id = 'mcp-files'")
        project.stack.empty()
    equal, grown = json.loads(done.stdout)
    return equal, grown


def test_200_mb_up_and_down_stay_within_50_mb_of_memory(project: Project) -> None:
    equal, grown = _up_and_down(project, 200_000_000, "modest")
    assert equal
    assert grown < 50_000_000


def test_a_reader_that_takes_it_all_at_once_is_noticed(project: Project) -> None:
    """The control: this way of measuring sees what it must."""
    assert _up_and_down(project, 60_000_000, "hungry")[1] > 50_000_000


# ── killed ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_uploads_whose_processes_are_killed_become_whole_and_cost_one_chunk_a_kill(
    supabase_cluster: PostgresCluster,
) -> None:
    found = kill_uploads(supabase_cluster, kills=5, size=13_000_000, seed=3)
    assert list(found.violations) == []
    assert found.kills == 5
