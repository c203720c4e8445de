"""What Postgres refuses, and how: each time a `StoreUnavailable` that names the remedy, and never a password."""

import logging
import re
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import psycopg
import pytest
from servers.postgres_cluster import PostgresCluster
from servers.unprivileged import free_port

from perdure.errors import (
    FunctionMissing,
    PerdureError,
    SettingsError,
    StoreFailed,
    StoreMisconfigured,
    StoreTimeout,
    StoreUnavailable,
    TurnRefused,
)
from perdure.middleware.persistence.migrations import postgres as migrations
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.turn import Window
from perdure.testing.store_bench import at_once
from perdure.testing.turns import a_turn, answered

WINDOW = Window(20, 8_000)
SECRET = "plaice@trout/shark:eel?#%41"


@dataclass(frozen=True)
class Case:
    url: Callable[["Databases"], str]
    what: str
    remedy: str
    kind: type[StoreUnavailable] = StoreMisconfigured


class Databases:
    """One server, and on it a database in each state that a store may find it in."""

    def __init__(self, cluster: PostgresCluster) -> None:
        self.cluster = cluster
        for role in ("keeper", "guest", "limited"):
            cluster.execute(f"create role {role} login password '{SECRET}'")
        cluster.execute("alter role limited connection limit 0")
        cluster.create_database("kept", owner="keeper")
        migrations.apply(self.of("kept"), "kept", lambda _: None)
        for name in ("read_only", "hasty", "torn", "untold", "closed"):
            cluster.create_database(name, owner="keeper", template="kept")
        cluster.create_database("empty", owner="keeper")
        cluster.execute("alter database read_only set default_transaction_read_only = on")
        cluster.execute("alter database hasty set statement_timeout = '1ms'")
        cluster.execute("drop table chat_files, chat_messages, chat_sessions cascade", database="torn")
        cluster.execute("revoke select on chat_sessions from keeper", database="untold")
        cluster.execute("revoke connect on database closed from public, keeper")

    def of(self, database: str, user: str = "keeper", password: str = SECRET) -> str:
        return self.cluster.url(database, user=user, password=password)


@pytest.fixture(scope="module")
def databases() -> Iterator[Databases]:
    with PostgresCluster(max_connections=12) as cluster:
        yield Databases(cluster)


CASES = {
    "wrong password": Case(
        lambda its: its.of("kept", password=f"not {SECRET}"), "refused the user or the password", "mend"
    ),
    "no password": Case(
        lambda its: its.of("kept").replace(":" + its.of("kept").split(":")[2].split("@")[0], ""),
        "refused the user or the password",
        "mend",
    ),
    "unknown user": Case(lambda its: its.of("kept", user="nobody_there"), "refused the user", "mend"),
    "unknown database": Case(lambda its: its.of("not_there"), "does not exist", "create it"),
    "closed database": Case(lambda its: its.of("closed"), "refused this user", "mend the user"),
    "not migrated": Case(lambda its: its.of("empty"), "no functions of perdure", "perdure migrate", FunctionMissing),
    "no tables": Case(lambda its: its.of("torn"), "no tables of perdure", "perdure migrate"),
    "no right to the functions": Case(lambda its: its.of("kept", user="guest"), "not let this user", "migrated it"),
    "no right to a table": Case(lambda its: its.of("untold"), "not let this user", "migrated it"),
    "read only": Case(lambda its: its.of("read_only"), "read-only, as a replica", "primary"),
    "statement_timeout": Case(
        lambda its: its.of("hasty"), "cancelled the statement", "statement_timeout", kind=StoreFailed
    ),
    "too many for the role": Case(
        lambda its: its.of("kept", user="limited"), "no more connections", "max_connections", kind=StoreUnavailable
    ),
    "refused": Case(
        lambda its: its.of("kept").replace(f":{its.cluster.port}/", f":{free_port()}/"),
        "cannot be reached .*Connection refused",
        "whether the server runs",
        kind=StoreUnavailable,
    ),
    "unknown host": Case(
        lambda its: its.of("kept").replace("127.0.0.1", "no-such-host.invalid"),
        "cannot be reached .*no-such-host.invalid",
        "the address",
        kind=StoreUnavailable,
    ),
    "no TLS": Case(
        lambda its: its.of("kept") + "?sslmode=require", "cannot be reached .*SSL", "the address", kind=StoreUnavailable
    ),
    "bad option": Case(
        lambda its: its.of("kept") + "?sslmode=perhaps",
        "cannot be reached .*perhaps",
        "the address",
        kind=StoreUnavailable,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_refusal_comes_at_once_names_the_database_its_reason_and_a_remedy(
    databases: Databases, case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = PostgresStore(case.url(databases), timeout=5)
    started = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        store.begin(a_turn("q " * 100_000, continuation_id="c"), WINDOW)  # takes a millisecond on any server
    took = time.monotonic() - started
    store.close()
    error = caught.value
    assert took < 1
    assert type(error) is case.kind
    assert re.search(case.what, error.what)
    assert re.search(case.remedy, error.remedy)
    assert "127.0.0.1" in error.what or "no-such-host" in error.what
    assert_no_secret(error, store, caplog.text)


def test_a_server_that_is_full_says_so_and_takes_calls_again_when_others_have_gone(databases: Databases) -> None:
    store = PostgresStore(databases.of("kept"), max_connections=1)
    others: list[psycopg.Connection] = []
    with suppress(psycopg.OperationalError):
        while True:
            others.append(psycopg.connect(databases.of("kept")))
    with pytest.raises(StoreUnavailable, match="accepts no more connections") as caught:
        store.turns("alice", "c")
    assert "max_connections" in caught.value.remedy
    assert_no_secret(caught.value, store)
    for other in others:
        other.close()
    wait_until_works(lambda: store.turns("alice", "c"))
    store.close()


def test_a_replica_can_be_read(databases: Databases) -> None:
    store = PostgresStore(databases.of("read_only"))
    assert store.turns("alice", "c") == []
    assert store.conversations("alice") == []
    store.close()


def test_what_is_refused_by_one_call_is_granted_to_the_next_once_the_remedy_was_applied(databases: Databases) -> None:
    databases.cluster.create_database("later", owner="keeper")
    store = PostgresStore(databases.of("later"))
    with pytest.raises(StoreUnavailable, match="perdure migrate"):
        store.begin(a_turn("q", continuation_id="c"), WINDOW)
    migrations.apply(databases.of("later"), "later", lambda _: None)
    assert store.begin(a_turn("q", continuation_id="c"), WINDOW).place == 1
    store.close()


# ── a lock ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def store(databases: Databases) -> Iterator[PostgresStore]:
    """A store with a conversation "locked", which `held` may hold."""
    made = PostgresStore(databases.of("kept"), timeout=2.2, max_connections=4)
    made.begin(a_turn("first", continuation_id="locked"), WINDOW)
    yield made
    made.close()


@pytest.fixture
def held(databases: Databases, store: PostgresStore) -> Iterator[psycopg.Connection]:
    with psycopg.connect(databases.of("kept")) as connection:
        connection.execute("select from chat_sessions where continuation_id = 'locked' for update")
        yield connection


def test_a_conversation_that_somebody_keeps_locked_is_named_as_locked_and_others_go_on_meanwhile(
    store: PostgresStore, held: psycopg.Connection
) -> None:
    def work(number: int) -> float | StoreTimeout:
        """How long the slowest of 20 turns took; or, of the first two, how the one was refused."""
        if number < 2:
            with pytest.raises(StoreTimeout) as caught:
                store.begin(a_turn("waiting", continuation_id="locked"), WINDOW)
            return caught.value
        slowest = 0.0
        for _ in range(20):
            started = time.monotonic()
            store.finish(answered(a_turn("q", continuation_id=f"open {number}")))
            slowest = max(slowest, time.monotonic() - started)
        return slowest

    started = time.monotonic()
    *refused, one, two = at_once(work, range(4))
    assert time.monotonic() - started < 2.2 + 0.5
    # Whoever came second waits behind the first, and may hear of no lock before its time is over.
    assert any("kept a conversation locked for too long" in str(error) for error in refused)
    assert any("long transaction" in str(error) for error in refused)
    assert max(one, two) < 1  # type: ignore[type-var]
    held.rollback()
    assert store.begin(a_turn("afterwards", continuation_id="locked"), WINDOW).history == ()


def test_a_lock_that_ends_in_time_costs_only_the_wait(
    store: PostgresStore, held: psycopg.Connection, databases: Databases
) -> None:
    def work(number: int) -> int:
        if number == 0:
            time.sleep(1.7)  # more than the functions wait at a time
            held.rollback()
            return 0
        return store.begin(a_turn("waiting", continuation_id="locked"), WINDOW).place

    _, place = at_once(work, range(2))
    assert place > 1


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://keeper:trout@eel@host:5432/db",
        "postgresql://keeper:trout/eel@host:5432/db",
        "postgresql://keeper:1234/trouteel@host/db",
        "postgresql://keeper:a@trouteel/x@host/db",
        "postgresql://keeper:a@b:trouteel@host/db",
        "postgresql://keeper:@trouteel:x@host/db",
        "postgresql://keeper:trout%zzeel@host/db",
        "postgresql://keeper:x?trouteel=1/x@host/db",
        "postgresql://keeper:trouteel@host:port/db",
        "mysql://keeper:trouteel@host/db",
        "host=db.example password=trout eel",
        "password='trouteel",
        "trouteel",
    ],
)
def test_a_url_that_cannot_be_read_as_it_was_meant_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(SettingsError, match="PERDURE_DATABASE_URL") as caught:
        PostgresStore(url)
    told = "".join(traceback.format_exception(caught.value, limit=0)) + str(caught.value) + repr(caught.value)
    assert not re.search("trout|eel|1234", told)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://keeper:trout%40eel%2F@host:6543/db", "keeper@host:6543/db"),
        ("postgresql://some%40tenant:x?y#z@host/db?options=a@b", "some@tenant@host:5432/db"),
        ("postgresql://host/d%40b", "host:5432/d@b"),
        ("postgresql://keeper:x@one:1,two:2/db", "keeper@one,two:1,2/db"),
        ("host=host user=keeper password='a b@c' dbname=db", "keeper@host:5432/db"),
    ],
)
def test_a_url_that_can_be_read_names_the_database_without_its_password(url: str, name: str) -> None:
    assert database_name_of(url) == name


def database_name_of(url: str) -> str:
    return PostgresStore(url)._functions.where


def assert_no_secret(error: PerdureError, *others: object) -> None:
    chain = "".join(traceback.format_exception(error))
    for told in (str(error), repr(error), chain, *map(str, others), *map(repr, others)):
        for part in re.findall(r"[a-z]+", SECRET):
            assert part not in told


def wait_until_works(work: Callable[[], object]) -> None:
    """A server counts a client for a moment longer than it is there."""
    deadline = time.monotonic() + 5
    while True:
        try:
            work()
        except StoreUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


def test_a_turn_that_breaks_a_rule_of_the_tables_is_refused_for_good(database_url: str) -> None:
    store = PostgresStore(database_url)
    with pytest.raises(TurnRefused, match="cannot hold something in this turn"):
        store.begin(a_turn("q", continuation_id="x" * 201), WINDOW)
    store.close()
