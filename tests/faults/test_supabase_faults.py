"""What befalls a Supabase project: for each, the class of the error, words that name the remedy, and no key in them."""

import logging
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from servers.gateway_faults import (
    Fault,
    Stranger,
    answer,
    drop_reply,
    empty,
    hang,
    html,
    redirect,
    reset,
    too_many_requests,
    trickle,
)
from servers.postgres_cluster import PostgresCluster
from servers.supabase_stack import SupabaseStack

from perdure.errors import (
    FileMissing,
    PerdureError,
    SettingsError,
    StoreError,
    StoreMisconfigured,
    StoreTimeout,
    StoreUnavailable,
    TurnRefused,
)
from perdure.middleware.persistence.file_stores.supabase import SupabaseFileStore
from perdure.middleware.persistence.stores.supabase import SupabaseStore
from perdure.middleware.persistence.supabase_api.client import SupabaseApi
from perdure.middleware.persistence.turn import Window
from perdure.testing.turns import a_turn, answered

WINDOW = Window(20, 8_000)
RPC = "/rest/v1/rpc/"
KEY = f"alice/{'0' * 64}/a.txt"
TIMEOUT = 1.5
SLACK = 1.5
"""Seconds that a busy machine may add before a call counts as one that never ends."""


@pytest.fixture(scope="module")
def stack(supabase_cluster: PostgresCluster) -> Iterator[SupabaseStack]:
    with SupabaseStack(supabase_cluster) as made:
        yield made


@pytest.fixture(autouse=True)
def _emptied(stack: SupabaseStack) -> None:
    stack.empty()


@pytest.fixture
def store(stack: SupabaseStack) -> Iterator[SupabaseStore]:
    made = SupabaseStore(SupabaseApi(stack.url, stack.secret_key), timeout=TIMEOUT)
    yield made
    made.close()


def with_key(stack: SupabaseStack, key: str) -> SupabaseStore:
    return SupabaseStore(SupabaseApi(stack.url, key), timeout=TIMEOUT)


def file_store(
    stack: SupabaseStack, folder: Path, key: str | None = None, bucket: str = "mcp-files"
) -> SupabaseFileStore:
    return SupabaseFileStore(SupabaseApi(stack.url, key or stack.secret_key), bucket, folder, timeout=TIMEOUT)


def error_of(work: Callable[[], object]) -> StoreError:
    with pytest.raises(StoreError) as caught:
        work()
    return caught.value


def begin(store: SupabaseStore) -> object:
    return store.begin(a_turn("hello", continuation_id="c"), WINDOW)


OPERATIONS: dict[str, Callable[[SupabaseStore], object]] = {
    "begin": begin,
    "finish": lambda store: store.finish(answered(a_turn("hello", continuation_id="c"))),
    "turns": lambda store: store.turns("alice", "c"),
    "conversations": lambda store: store.conversations("alice"),
    "file": lambda store: store.file("alice", KEY),
    "files": lambda store: store.files("alice"),
}
every_operation = pytest.mark.parametrize("operation", OPERATIONS)


# ── what an operator has to mend ─────────────────────────────────────────────────────────────────────────────


def test_a_wrong_host_is_said_to_be_out_of_reach() -> None:
    error = error_of(lambda: begin(SupabaseStore(SupabaseApi("http://127.0.0.1:9", "k"), timeout=TIMEOUT)))
    assert type(error) is StoreUnavailable
    assert "127.0.0.1:9 cannot be reached" in error.what
    assert "SUPABASE_URL" in error.remedy


@pytest.mark.parametrize("url", ["", "project.supabase.co", "postgresql://h/d", "https://", "https://user:pw@h"])
def test_an_address_that_is_none_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SettingsError, match="SUPABASE_URL is not the address") as caught:
        SupabaseApi(url, "k")
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("pasted", ["/", "/rest/v1", "/rest/v1/", "/storage/v1"])
def test_the_address_of_one_of_its_services_will_do(stack: SupabaseStack, pasted: str) -> None:
    store = SupabaseStore(SupabaseApi(f"{stack.url}{pasted}", stack.secret_key))
    begin(store)
    store.close()


def test_an_address_with_nothing_of_supabase_behind_it_names_the_setting(
    store: SupabaseStore, stack: SupabaseStack
) -> None:
    stack.order(answer(404, body="<html>not found</html>", headers={"Content-Type": "text/html"}).on(RPC, times=None))
    error = error_of(lambda: begin(store))
    assert isinstance(error, StoreMisconfigured)
    assert "SUPABASE_URL" in error.remedy


def test_a_wrong_key_is_said_to_be_refused(stack: SupabaseStack) -> None:
    error = error_of(lambda: begin(with_key(stack, "sb_secret_wrong")))
    assert isinstance(error, StoreMisconfigured)
    assert "refused the key" in error.what
    assert "SUPABASE_KEY" in error.remedy
    assert "sb_secret_wrong" not in str(error)


def test_the_anon_key_is_said_to_have_no_right(stack: SupabaseStack) -> None:
    for key in (stack.anon_key, stack.publishable_key):
        error = error_of(lambda key=key: begin(with_key(stack, key)))
        assert isinstance(error, StoreMisconfigured)
        assert "service_role" in error.remedy
        assert key not in str(error)


def test_an_expired_token_is_said_to_be_refused(stack: SupabaseStack) -> None:
    error = error_of(lambda: begin(with_key(stack, stack.user_token("alice", expires_in=-3600))))
    assert isinstance(error, StoreMisconfigured)
    assert "refused the key" in error.what


@every_operation
def test_a_project_that_was_not_migrated_says_what_to_run(supabase_cluster: PostgresCluster, operation: str) -> None:
    with SupabaseStack(supabase_cluster, migrated=False) as bare:
        error = error_of(lambda: OPERATIONS[operation](with_key(bare, bare.secret_key)))
    assert isinstance(error, StoreMisconfigured)
    assert "perdure migrate" in error.remedy


def test_a_missing_bucket_is_not_a_missing_file(stack: SupabaseStack, tmp_path: Path) -> None:
    files = file_store(stack, tmp_path, bucket="no-such-bucket")
    for work in (lambda: files.holds(KEY), lambda: files.read(KEY).__enter__(), files.most_bytes):
        error = error_of(work)
        assert isinstance(error, StoreMisconfigured)
        assert "bucket" in error.what


def test_a_bad_key_is_not_a_missing_file(stack: SupabaseStack, tmp_path: Path) -> None:
    files = file_store(stack, tmp_path, key=stack.user_token("alice", expires_in=-3600))
    for work in (lambda: files.holds(KEY), lambda: files.read(KEY).__enter__()):
        assert not isinstance(error_of(work), FileMissing)


def test_a_missing_file_is_one(stack: SupabaseStack, tmp_path: Path) -> None:
    files = file_store(stack, tmp_path)
    assert isinstance(error_of(lambda: files.read(KEY).__enter__()), FileMissing)
    assert files.holds(KEY) is False


# ── what will pass ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "fault",
    [
        reset(),
        drop_reply(),
        answer(503),
        answer(502, body="<html>"),
        answer(500),
        html(),
        empty(),
        too_many_requests("0"),
    ],
    ids=["reset", "reply lost", "503", "502", "500", "html", "empty", "429"],
)
@every_operation
def test_one_fault_that_passes_is_not_noticed(
    store: SupabaseStore, stack: SupabaseStack, fault: Fault, operation: str
) -> None:
    stack.order(fault.on(RPC))
    OPERATIONS[operation](store)
    assert any(request.fault for request in stack.requests)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (reset(), "cannot be reached"),
        (answer(503, body='{"code":"PGRST002","message":"schema cache"}'), "cannot reach its database"),
        (answer(500, body='{"code":"57014","message":"statement timeout"}'), "cancelled"),
        (answer(500, body='{"code":"55P03","message":"lock timeout"}'), "locked for too long"),
        (answer(504), "error of its own"),
        (html(), "none of Supabase's"),
        (empty(), "none of Supabase's"),
        (too_many_requests("60"), "busy"),
    ],
    ids=["reset", "PGRST002", "57014", "55P03", "504", "html", "empty", "429"],
)
@every_operation
def test_a_fault_that_lasts_is_unavailable_and_never_an_empty_answer(
    store: SupabaseStore, stack: SupabaseStack, fault: Fault, words: str, operation: str
) -> None:
    stack.order(fault.on(RPC, times=None))
    started = time.monotonic()
    error = error_of(lambda: OPERATIONS[operation](store))
    assert time.monotonic() - started < TIMEOUT + SLACK
    assert isinstance(error, StoreUnavailable)
    assert not isinstance(error, StoreMisconfigured)
    assert words in error.what
    assert error.remedy


@pytest.mark.parametrize("code", ["55P03", "57014", "XX001"])
def test_where_the_database_fails_at_one_of_several_turns_each_is_asked_about_by_itself(
    store: SupabaseStore, stack: SupabaseStack, code: str
) -> None:
    turns = [a_turn(f"{number}", continuation_id=f"c {number}") for number in range(3)]
    stack.order(answer(500, body=f'{{"code":"{code}","message":"one of them"}}').on(RPC, times=1))
    assert list(store.begin_together([(turn, WINDOW) for turn in turns])) == [None] * 3
    assert [store.begin(turn, WINDOW).place for turn in turns] == [1] * 3


def test_the_time_that_a_server_asks_for_is_given(store: SupabaseStore, stack: SupabaseStack) -> None:
    stack.order(too_many_requests("1").on(RPC))
    started = time.monotonic()
    begin(store)
    assert time.monotonic() - started >= 1.0


@pytest.mark.parametrize(
    "fault",
    [hang(), hang(after=True), trickle("headers", 0.3), trickle("body", 0.3)],
    ids=["hangs", "hangs after", "headers", "body"],
)
def test_a_server_that_is_slower_than_the_deadline_is_given_up(
    store: SupabaseStore, stack: SupabaseStack, fault: Fault
) -> None:
    stack.order(fault.on(RPC, times=None))
    started = time.monotonic()
    error = error_of(lambda: begin(store))
    assert time.monotonic() - started < TIMEOUT + SLACK
    assert isinstance(error, StoreTimeout)
    assert "operation_timeout" in error.remedy
    stack.clear_faults()
    begin(store)


# ── what never will ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "fault",
    [
        answer(413, body="<html>too large</html>"),
        answer(400, body='{"code":"22P05","message":"unsupported Unicode escape sequence"}'),
        answer(400, body='{"code":"54000","message":"string is too long for tsvector"}'),
        answer(400, body='{"code":"23514","message":"violates check constraint"}'),
    ],
    ids=["413", "22P05", "54000", "23514"],
)
def test_a_turn_that_the_project_will_never_take_is_refused_at_once(
    store: SupabaseStore, stack: SupabaseStack, fault: Fault
) -> None:
    stack.order(fault.on(RPC, times=None))
    assert isinstance(error_of(lambda: begin(store)), TurnRefused)
    assert len(stack.requests) == 1


def test_a_text_that_no_request_can_carry_is_refused(store: SupabaseStore) -> None:
    error = error_of(lambda: store.turns("alice\ud800", "c"))
    assert not isinstance(error, StoreUnavailable)


def test_a_file_over_the_buckets_limit_is_refused(stack: SupabaseStack, tmp_path: Path) -> None:
    stack.execute("update storage.buckets set file_size_limit = 1000 where id = 'mcp-files'")
    try:
        files = file_store(stack, tmp_path)
        assert files.most_bytes() == 1000
        snapshot = tmp_path / "snapshot"
        snapshot.write_bytes(b"x" * 1001)
        error = error_of(lambda: files.put(KEY, snapshot, media_type="text/plain"))
        assert isinstance(error, TurnRefused)
        assert "too large" in error.what or "so large" in error.what
    finally:
        stack.execute("update storage.buckets set file_size_limit = 52428800 where id = 'mcp-files'")


# ── keys go nowhere ──────────────────────────────────────────────────────────────────────────────────────────


@every_operation
def test_a_redirect_is_not_followed_and_takes_no_key_anywhere(
    store: SupabaseStore, stack: SupabaseStack, operation: str
) -> None:
    with Stranger() as stranger:
        stack.order(redirect(stranger.url).on("/", times=None))
        error = error_of(lambda: OPERATIONS[operation](store))
        assert stranger.seen == []
    assert isinstance(error, StoreMisconfigured)
    assert "redirect" in error.what
    assert "SUPABASE_URL" in error.remedy


def test_no_key_is_in_any_error_log_or_name(
    stack: SupabaseStack, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    faults = [
        reset(),
        answer(500),
        answer(401),
        answer(403),
        html(),
        hang(),
        redirect("http://127.0.0.1:9"),
        answer(413),
    ]
    written: list[str] = []
    for key in (stack.secret_key, stack.service_key):
        api = SupabaseApi(stack.url, key)
        store = SupabaseStore(api, timeout=0.5)
        files = SupabaseFileStore(api, "mcp-files", tmp_path, timeout=0.5)
        written += [repr(api), repr(store), repr(files), str(vars(files))]
        for fault in faults:
            stack.order(fault.on("/rest", times=None), fault.on("/storage", times=None))
            written += [_said_of(begin, store), _said_of(store.conversations)]
            written += [_said_of(files.holds, KEY), _said_of(partial(files.signed_url, seconds=5), KEY)]
            stack.clear_faults()
        store.close()
    assert sum(map(bool, written)) > 30
    everything = "\n".join([*written, caplog.text, *(str(record.__dict__) for record in caplog.records)])
    for key in (stack.secret_key, stack.service_key):
        assert key not in everything
        assert key[12:40] not in everything


def _said_of(work: Callable[..., object], *given: object) -> str:
    try:
        work(*given)
    except PerdureError as error:
        return "".join(traceback.format_exception(error))
    return ""


def test_a_signed_address_is_in_no_log(stack: SupabaseStack, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    files = file_store(stack, tmp_path)
    snapshot = tmp_path / "snapshot"
    snapshot.write_bytes(b"x")
    files.put(KEY, snapshot, media_type="text/plain")
    address = files.signed_url(KEY, seconds=60)
    assert address
    assert "token=" in address
    assert address.rpartition("token=")[2] not in caplog.text


def test_the_applications_own_requests_are_logged_as_before(
    stack: SupabaseStack, store: SupabaseStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    begin(store)
    assert "HTTP Request" not in caplog.text
    httpx.get(f"{stack.url}/rest/v1/")
    assert "HTTP Request" in caplog.text
