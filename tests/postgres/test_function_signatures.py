"""What the store calls is there, under the very names of arguments: PostgREST, too, finds a function by them."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from postgres.databases import Database

from perdure.middleware.persistence.question import question_of
from perdure.middleware.persistence.stores.postgres.functions import PostgresFunctions
from perdure.middleware.persistence.stores.sql_functions import SqlFunctionStore
from perdure.middleware.persistence.turn import Json, StoredFile, Window
from perdure.testing.turns import a_turn, answered

SIGNATURES = {
    "search_messages": (
        "user_id text, query text, tool text DEFAULT NULL::text, outcome text DEFAULT NULL::text, "
        "since timestamp with time zone DEFAULT NULL::timestamp with time zone, "
        "until timestamp with time zone DEFAULT NULL::timestamp with time zone, max_hits integer DEFAULT 20, "
        "at timestamp with time zone DEFAULT NULL::timestamp with time zone"
    ),
    "purge_expired": (
        "max_conversations integer DEFAULT 100, at timestamp with time zone DEFAULT NULL::timestamp with time zone"
    ),
}
"""Of what others than our store call as well: a change of these is a change for whoever wrote against them."""


class Overheard(PostgresFunctions):
    """Real calls, each remembered."""

    def __init__(self, url: str) -> None:
        super().__init__(url, timeout=5, max_connections=1)
        self.calls: list[tuple[str, frozenset[str]]] = []

    def call(self, function: str, arguments: Mapping[str, Json], **how: Any) -> Json:
        self.calls.append((function, frozenset(arguments)))
        return super().call(function, arguments, **how)


def test_every_argument_that_the_store_names_is_an_argument_of_that_function(migrated: Database) -> None:
    heard = Overheard(migrated.url)
    _do_everything(SqlFunctionStore(heard))
    declared = dict(
        migrated.execute("""
            select proname, proargnames from pg_proc
             where pronamespace = 'public'::regnamespace and proname not like 'chat\\_%'
        """)
    )
    called = {function for function, _ in heard.calls}
    expected = {"begin_turn_in_line", "finish_turn", "renew_turns", "list_conversations_with_ends", "list_files"}
    expected |= {"find_messages", "remove_expired", "remove_conversation", "forget_user", "store_statistics"}
    expected |= {"read_turns_in_line", "fork_conversation", "begin_turn_up_to", "begin_turns", "finish_turns"}
    assert expected <= called <= declared.keys()
    for function, arguments in heard.calls:
        assert arguments <= set(declared[function]), function
    given = {
        function: frozenset().union(*(names for name, names in heard.calls if name == function))
        for function in declared
    }
    for function in ("begin_turn_in_line", "begin_turn_up_to", "finish_turn"):
        assert set(declared[function]) - given[function] <= {"expires_at"}, f"{function} is never given all it takes"


@pytest.mark.parametrize("function", SIGNATURES)
def test_the_signature_is_the_one_that_others_call(migrated: Database, function: str) -> None:
    found = migrated.one(f"select pg_get_function_arguments('public.{function}'::regproc)")
    assert found == SIGNATURES[function]


def test_each_function_has_one_signature_only_since_postgrest_cannot_choose(migrated: Database) -> None:
    assert migrated.one("""
        select count(*) = count(distinct proname) and bool_and(prorettype = 'json'::regtype or proname like 'chat\\_%')
          from pg_proc where pronamespace = 'public'::regnamespace
    """)


def _do_everything(store: SqlFunctionStore) -> None:
    """Every operation in every form that it has."""
    turn = replace(
        a_turn("hello", continuation_id="c", metadata={"protocol_version": "x"}),
        minted=True,
        adopt=False,
        fresh_id="fresh",
        deferred=True,
        after_place=1,
        files=(StoredFile(key="k", bucket="b", name="n", sha256="0" * 64, size=1, media_type="text/plain"),),
    )
    begun = store.begin(turn, Window(turns=1, tokens=1))
    store.begin(turn, Window(turns=1, tokens=1, last_place=1))  # again: an older function has to answer
    store.begin(replace(turn, place=begun.place), Window(turns=1, tokens=1))
    store.renew({"alice": [turn.id]}, turn.lease_until)
    ending = answered(turn, "hello")
    store.finish(replace(ending, place=begun.place))  # the ending alone
    store.finish(replace(ending, place=begun.place, files=()))  # and as one of several
    store.finish(ending)  # whole
    (found,) = store.turns("alice", "c", after=0, limit=1)
    assert found.prompt == "hello"
    (line,) = store.conversations("alice", "c", limit=1)
    store.conversations("alice", "c", before=(line.updated_at, line.principal, line.continuation_id))
    assert store.file("alice", "k")
    assert store.files("alice", "c", "n", limit=1)
    now = found.started_at + timedelta(days=1)
    asked = question_of("hello user:alice in:c tool:chat outcome:answered since:3650d until:0d", now)
    (_, hit) = store.search(asked)
    store.search(asked, before=hit.position, limit=1)
    assert store.statistics("alice").turns == 1
    store.purge(limit=1, dry_run=True)
    store.fork("alice", "c", 1, "fork", minted=True)
    assert store.delete("alice", "c").conversations == 1
    assert store.forget("alice", limit=1).conversations == 1
    store.close()
