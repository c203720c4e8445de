"""The words of messages are made when somebody searches, and whoever searches finds the same before and after."""

import time
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from postgres.databases import Database, Functions

from perdure.errors import SearchNotReady, StoreUnavailable
from perdure.middleware.persistence.migrations.postgres_files import postgres_migrations
from perdure.middleware.persistence.question import question_of
from perdure.middleware.persistence.stores import kept_words, search_upkeep
from perdure.middleware.persistence.stores.postgres.functions import PostgresFunctions
from perdure.middleware.persistence.stores.sql_functions import SqlFunctionStore
from perdure.middleware.persistence.turn import Json
from perdure.testing.turns import a_turn, answered

NOW = datetime(2026, 1, 1, tzinfo=UTC)

WAITING = "select count(*) from chat_words_due"
KEPT = "select count(*) from chat_words"


@pytest.fixture
def told(migrated: Database) -> Database:
    """Three turns of which nobody has searched."""
    with closing(migrated.store()) as store:
        for number in range(3):
            tell(store, number)
    return migrated


def tell(store: SqlFunctionStore, number: int) -> None:
    store.finish(answered(a_turn(f"question {number}", continuation_id="c"), f"answer {number} needle"))


def found(store: SqlFunctionStore, words: str = "needle") -> list[str]:
    return [hit.excerpt.text for hit in store.search(question_of(words, NOW))]


def test_who_never_searches_gets_no_words(told: Database) -> None:
    assert (told.one(WAITING), told.one(KEPT)) == (6, 0)


def test_who_searches_makes_the_words_of_all_that_waits(told: Database) -> None:
    with closing(told.store()) as store:
        assert sorted(found(store)) == [f"answer {number} needle" for number in range(3)]
        assert (told.one(WAITING), told.one(KEPT)) == (0, 6)
        tell(store, 3)
        assert told.one(WAITING) == 2
        assert len(found(store)) == 4


def test_a_question_without_words_makes_none(told: Database) -> None:
    with closing(told.store()) as store:
        assert len(store.search(question_of("tool:chat", NOW))) == 3
    assert told.one(KEPT) == 0


def test_what_still_waits_is_found_as_well(mine: Functions, server: Functions) -> None:
    for number in range(3):
        mine.store.finish(answered(mine.turn(f"needle {number}"), "straw"))
    server.store.finish(answered(server.turn("needle of another"), "straw"))
    of_none = mine("search_messages", query="needle")
    server.call("keep_words", {"max_messages": 3})
    of_some = mine("search_messages", query="needle")
    server.call("keep_words", {})
    assert of_none == of_some == mine("search_messages", query="needle")
    assert len(of_none["hits"]) == 3


def test_a_token_makes_no_words(project: Database) -> None:
    with closing(Functions(project, "authenticated", "alice")) as alice:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="keep_words"):
            alice.call("keep_words", {})


def test_the_words_go_with_their_message(told: Database) -> None:
    with closing(told.store()) as store:
        found(store)
        tell(store, 3)
        store.delete("alice", "c")
        assert told.one(KEPT) == 0
        assert found(store) == []
    assert told.one(WAITING) == 0


def test_a_text_that_was_changed_by_hand_is_found_by_its_new_words(told: Database) -> None:
    with closing(told.store()) as store:
        found(store)
        told.execute("update chat_messages set content = 'pin' where content like '%0 needle'")
        assert (len(found(store)), found(store, "pin")) == (2, ["pin"])


def test_a_text_that_is_being_changed_while_words_are_made_is_found_by_its_new_words(told: Database) -> None:
    with told.connect() as somebody, closing(told.store()) as store:
        with somebody.transaction():
            somebody.execute("update chat_messages set content = 'pin' where content like '%0 needle'")
            assert len(found(store)) == 3
        assert (len(found(store)), found(store, "pin")) == (2, ["pin"])


def test_messages_that_somebody_gives_to_another_user_are_found_there(told: Database) -> None:
    with closing(told.store()) as store:
        assert len(found(store, "needle user:alice")) == 3
        for table in ("chat_sessions", "chat_messages"):
            told.execute(f"update {table} set user_id = 'bob'")
        assert (len(found(store, "needle user:bob")), found(store, "needle user:alice")) == (3, [])
    assert len(told.one("select search_messages('bob', 'needle')")["hits"]) == 3


def test_words_are_made_where_somebody_publishes_all_tables(told: Database) -> None:
    told.execute("create publication everything for all tables")
    with closing(told.store()) as store:
        assert len(found(store)) == 3
    assert told.one(WAITING) == 0


def test_who_waits_long_while_others_make_words_goes_on(told: Database) -> None:
    with told.connect() as another, closing(told.store(timeout=10)) as store:
        with another.transaction():
            another.execute("select pg_advisory_xact_lock(7305437215021183093)")
            (answer,) = told.execute("select keep_words(), keep_words(only_if_wanted => true)")
            assert answer == ({"left": True, "after": "(0,0)"}, {"left": False, "after": "(0,0)"})
        assert len(found(store)) == 3


def test_beside_turns_nobody_waits_for_who_makes_words_or_works_on_their_table(told: Database) -> None:
    with told.connect() as another, closing(told.store()) as store:
        found(store)
        tell(store, 3)
        with told.connect() as keeper:
            keeper.execute("set statement_timeout = '1s'")
            with another.transaction():
                another.execute("select pg_advisory_xact_lock(7305437215021183093)")
                (answer,) = keeper.execute("select keep_words(only_if_wanted => true)").fetchone() or (None,)
                assert answer == {"left": False, "after": "(0,0)"}
            with another.transaction():
                another.execute("lock table chat_words in exclusive mode")  # as vacuum full would
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    keeper.execute("select keep_words(only_if_wanted => true)")
    assert told.one(WAITING) == 2


def test_a_token_that_fills_the_queue_keeps_nobody_from_searching(project: Database, server: Functions) -> None:
    _calls_to_make_all(server)  # of other tests' turns
    with closing(Functions(project, "authenticated", "mallory")) as mallory:
        mallory.store.finish(answered(mallory.turn("long " * 20_000), "short"))
        again = "insert into chat_words_due select id from chat_messages, generate_series(1, 5000) where part = 0"
        mallory.connection.execute(again)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            mallory.connection.execute("insert into chat_words_due select id, true from chat_messages")
    assert _calls_to_make_all(server) < 10, "a text of 100 KB has its words made once, and not ten times in each call"
    assert project.one(WAITING) == 0


def _calls_to_make_all(server: Functions) -> int:
    calls = 0
    given: dict[str, Json] = {}
    while True:
        reply = server.call("keep_words", given)
        assert isinstance(reply, dict)
        calls, given = calls + 1, {"after": reply["after"]}
        if not reply["left"]:
            return calls


@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
def test_no_search_goes_through_all_messages_because_many_have_waited(migrated: Database, plans: str) -> None:
    """What is off the queue lies there until a vacuum, and the planner thinks that it waits."""
    for table in ("chat_messages", "chat_words_due"):  # and what a vacuum of the server's own reads would be counted
        migrated.execute(f"alter table {table} set (autovacuum_enabled = false)")
    migrated.execute("""
        insert into chat_sessions (continuation_id, user_id, last_place)
          select 'c' || n, 'alice', case n when 1 then 5000 else 10 end from generate_series(1, 100) n
    """)
    migrated.execute("""
        insert into chat_messages (id, session_id, turn_id, turn_seq, part, role, content, user_id, tool, digest)
          select gen_random_uuid(), s.id, gen_random_uuid(), n, 0, 'user', 'needle' || n, 'alice', 'chat', 'd'
            from chat_sessions s, generate_series(1, s.last_place) n
    """)
    migrated.execute("analyze")
    most = {
        "select find_messages(words => '''needle700''')": 100,
        "select search_messages('alice', 'needle700', since => '2020-01-01', until => '2099-01-01')": 100,
    }
    blocks = (
        "select sum(seq_scan), sum(heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read)"
        " from pg_stat_user_tables join pg_statio_user_tables using (relid) where relid = 'chat_messages'::regclass"
    )
    with migrated.connect() as connection:
        connection.execute(f"set plan_cache_mode = {plans}".encode())
        connection.execute("select keep_words(10000)")
        for search, blocks_at_most in most.items():
            before = _counted(connection, blocks)
            for _ in range(3):
                (answer,) = connection.execute(search.encode()).fetchone() or (None,)
                assert len(answer["hits"]) == 1
            scans, read = (now - then for now, then in zip(_counted(connection, blocks), before, strict=True))
            assert scans == 0, search
            assert read < blocks_at_most, search


def _counted(connection: psycopg.Connection[Any], what: str) -> list[int]:
    connection.execute("select pg_stat_force_next_flush()")
    return [int(value) for value in connection.execute(what.encode()).fetchone() or ()]


def test_a_call_takes_no_more_than_a_megabyte_of_text(migrated: Database) -> None:
    with closing(migrated.store()) as store:
        for number in range(30):
            store.finish(answered(a_turn(f"{number} " * 30_000, continuation_id="c"), "needle"))
        ((first,),) = migrated.execute("select keep_words()")
        assert first["left"]
        assert 20 < migrated.one(KEPT) < 30
        assert len(found(store)) == 20
    assert migrated.one(WAITING) == 0


def test_nobody_is_waited_for_who_removes_a_message(told: Database) -> None:
    with told.connect() as connection, connection.transaction():
        connection.execute("delete from chat_messages where content like '%0%'")
        with closing(told.store(timeout=2)) as store:
            assert len(found(store)) == 3
        assert told.one(KEPT) == 4
        raise psycopg.Rollback
    with closing(told.store()) as store:
        assert len(found(store)) == 3
    assert told.one(KEPT) == 6


def test_a_replica_is_searched_without_making_words(told: Database) -> None:
    with closing(
        PostgresFunctions(f"{told.url}?options=-c%20default_transaction_read_only%3Don", timeout=5, max_connections=1)
    ) as functions:
        assert len(found(SqlFunctionStore(functions))) == 3
    assert told.one(KEPT) == 0


def test_a_database_of_an_older_perdure_is_searched_as_before(database: Database) -> None:
    for migration in postgres_migrations()[:10]:
        database.execute(migration.sql)
    with closing(database.store()) as store:
        for number in range(3):
            tell(store, number)
        assert len(found(store)) == 3
        database.migrate()
        assert len(found(store)) == 3
    assert (database.one(WAITING), database.one(KEPT)) == (0, 6)


def test_who_would_wait_for_long_is_told_and_goes_on_where_it_was(
    told: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_words, "_AT_ONCE", 4)
    monkeypatch.setattr(kept_words, "_LONGEST_SECONDS", 0.0)
    with closing(told.store()) as store:
        with pytest.raises(SearchNotReady, match="made ready for search") as said:
            found(store)
        assert "search again" in str(said.value.remedy)
        assert told.one(KEPT) == 4
        assert len(found(store)) == 3


def test_turns_have_their_words_before_the_next_search(told: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_upkeep, "_WORTH_IT", 4)
    monkeypatch.setattr(kept_words, "_BESIDE_TURNS", 3)
    monkeypatch.setattr(kept_words.KeptWords, "rest", 0.0)
    with closing(told.store()) as store:
        for number in range(4):
            tell(store, number)
        store._words_upkeep.stop()
        assert told.one(KEPT) == 0, "nobody has searched yet"
        found(store)
        for number in range(4):
            tell(store, number)
        until = time.monotonic() + 10
        while told.one(WAITING) and time.monotonic() < until:
            time.sleep(0.02)
        assert (told.one(WAITING), told.one(KEPT)) == (0, 22)


def test_what_is_no_answer_is_no_search(told: Database) -> None:
    class Broken(PostgresFunctions):
        def call(self, function: str, arguments: Mapping[str, Json], **how: Any) -> Json:
            return [] if function == "keep_words" else super().call(function, arguments, **how)

    with closing(Broken(told.url, timeout=5, max_connections=1)) as functions:
        with pytest.raises(StoreUnavailable, match="keep_words"):
            found(SqlFunctionStore(functions))
