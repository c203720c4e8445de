"""A store over a database that an older perdure migrated: it uses what functions are there, at little cost."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from conftest import MakeDatabase
from psycopg import connect
from servers.postgres_cluster import PostgresCluster

from perdure.errors import FunctionMissing, StoreMisconfigured
from perdure.middleware.persistence.migrations.postgres_files import postgres_migrations
from perdure.middleware.persistence.stores import migrated_functions
from perdure.middleware.persistence.stores.postgres.functions import PostgresFunctions
from perdure.middleware.persistence.stores.sql_functions import SqlFunctionStore
from perdure.middleware.persistence.turn import Json, Window
from perdure.testing.turns import a_turn, answered

WITHIN = Window(turns=10, tokens=1000, last_place=5)


class Overheard(PostgresFunctions):
    """Real calls, each remembered."""

    def __init__(self, url: str) -> None:
        super().__init__(url, timeout=30.0, max_connections=1)
        self.called: list[str] = []

    def call(self, function: str, arguments: Mapping[str, Json], **how: Any) -> Json:
        self.called.append(function)
        return super().call(function, arguments, **how)


class Refusing:
    """Its key is wrong."""

    where = "somewhere"
    timeout = 5.0

    def __init__(self) -> None:
        self.called: list[str] = []

    def call(self, function: str, arguments: Mapping[str, Json], **how: Any) -> Json:
        self.called.append(function)
        raise StoreMisconfigured("The project refused the key.", remedy="mend it.")

    def close(self) -> None: ...


def without(url: str, *functions: str) -> None:
    with connect(url, autocommit=True) as connection:
        for function in functions:
            connection.execute(f"drop function public.{function}")  # type: ignore[call-overload]


def test_a_function_that_is_missing_is_asked_for_once_in_a_while_and_turns_are_kept_by_an_older_one(
    make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_database()
    without(url, "begin_turns", "begin_turn_up_to", "begin_turn_in_line", "read_turns_in_line", "finish_turns")
    heard = Overheard(url)
    store = SqlFunctionStore(heard)
    for place in (1, 2, 3):
        turn = a_turn("x", continuation_id="c")
        assert store.begin(turn, WITHIN).place == place
        store.finish(answered(turn))
    assert len(store.turns("alice", "c")) == 3
    newer = ("begin_turns", "begin_turn_up_to", "begin_turn_in_line")
    assert [heard.called.count(function) for function in newer] == [1, 1, 1]
    assert heard.called.count("begin_turn") == 3
    monkeypatch.setattr(migrated_functions, "_ASK_AGAIN_AFTER", 0.0)
    store.begin(a_turn("x", continuation_id="c"), WITHIN)
    assert heard.called.count("begin_turn_up_to") == 2
    store.close()


def test_one_that_is_there_again_is_used(make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    url = make_database()
    with connect(url, autocommit=True) as connection:
        connection.execute("alter function public.begin_turns rename to away")
        heard = Overheard(url)
        store = SqlFunctionStore(heard)
        store.begin(a_turn("x", continuation_id="c"), WITHIN)
        connection.execute("alter function public.away rename to begin_turns")
    monkeypatch.setattr(migrated_functions, "_ASK_AGAIN_AFTER", 0.0)
    store.begin(a_turn("x", continuation_id="c"), WITHIN)
    assert heard.called == ["begin_turns", "begin_turn_up_to", "begin_turns"]
    store.close()


def test_what_is_refused_for_another_reason_is_not_asked_again() -> None:
    refusing = Refusing()
    store = SqlFunctionStore(refusing)
    for _ in range(2):
        with pytest.raises(StoreMisconfigured, match="refused the key"):
            store.begin(a_turn("x", continuation_id="c"), WITHIN)
        with pytest.raises(StoreMisconfigured):
            store.turns("alice", "c")
    assert refusing.called == ["begin_turns", "read_turns_in_line"] * 2


def test_where_there_are_none_at_all_it_is_said_that_somebody_must_migrate(make_database: MakeDatabase) -> None:
    url = make_database()
    without(url, "begin_turns", "begin_turn_up_to", "begin_turn_in_line", "begin_turn")
    store = SqlFunctionStore(Overheard(url))
    with pytest.raises(FunctionMissing) as refused:
        store.begin(a_turn("x", continuation_id="c"), WITHIN)
    assert "perdure migrate" in refused.value.remedy
    store.close()


def test_a_database_that_tells_no_versions_of_what_is_written_keeps_turns_as_it_did(postgres: PostgresCluster) -> None:
    url = postgres.url(postgres.create_database("before_0012"))
    with connect(url, autocommit=True) as connection:
        for migration in postgres_migrations():
            if migration.version < 12:
                connection.execute(migration.sql.encode())
    heard = Overheard(url)
    store = SqlFunctionStore(heard)
    for place in (1, 2, 3, 4):
        turn = a_turn(f"{place}", continuation_id="c")
        begun = store.begin(turn, WITHIN)
        assert [earlier.prompt for earlier in begun.history] == [f"{before}" for before in range(1, place)]
        store.finish(answered(replace(turn, place=begun.place)))
    assert heard.called == ["begin_turns", "finish_turns"] * 4
    store.close()
