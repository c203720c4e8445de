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
