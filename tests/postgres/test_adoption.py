"""A database of the founding plan is adopted: it can be read and continued, and its schema is that of a new one."""

import uuid
from collections.abc import Sequence
from datetime import timedelta

import pytest
from postgres.databases import Database
from postgres.founding_plan import MESSAGES, ONE_PAIR, SESSIONS, TABLES, THEN, Message, add_session, say

from perdure.middleware.persistence.turn import Outcome, Turn, Window
from perdure.testing.turns import a_turn, answered

WIDE = Window(turns=1000, tokens=1_000_000)

Told = tuple[str, str | None]
"""A turn's prompt and answer, the answer None if there is none."""


def test_rows_are_kept_as_they_were_and_the_schema_is_that_of_a_new_database(
    database: Database, migrated_schema: str
) -> None:
    database.execute(TABLES)
    session = add_session(database, "old", user_id="alice", metadata='{"topic": "x"}', created_at=THEN, updated_at=THEN)
    messages = [Message("user", "hello", THEN), Message("assistant", "good day", THEN + timedelta(seconds=2))]
    say(database, session, *messages, metadata='{"model": "m"}')
    before = database.execute("select id, role, content, created_at, metadata from chat_messages order by created_at")
    database.migrate()
    assert database.schema() == migrated_schema
    after = database.execute("select id, role, content, created_at, metadata from chat_messages order by part")
    assert after == before
    assert database.execute(
        "select id, continuation_id, user_id, metadata, created_at, updated_at, expires_at, minted from chat_sessions"
    ) == [(session, "old", "alice", {"topic": "x"}, THEN, messages[1].at, None, False)]


def test_an_adopted_conversation_is_listed_read_and_continued(database: Database) -> None:
    database.execute(TABLES)
    session = add_session(database, "old", updated_at=THEN - timedelta(days=1))
    say(database, session, Message("user", "hello"), Message("assistant", "good day"))
    database.migrate()
    store = database.store()
    (turn,) = store.turns("local", "old")
    assert (turn.prompt, turn.answer.text, turn.outcome, turn.place) == ("hello", "good day", Outcome.ANSWERED, 1)
    assert (turn.started_at, turn.ended_at, turn.arguments, turn.tool) == (THEN, THEN, {}, "unknown")
    (line,) = store.conversations("local")
    assert (line.continuation_id, line.turns, line.updated_at) == ("old", 1, THEN)
    more = a_turn("more", continuation_id="old", principal="local")
    begun = store.begin(more, WIDE)
    assert (begun.place, begun.history, begun.omitted) == (2, (turn,), 0)
    store.finish(answered(more, "of course"))
    assert _told(store.turns("local", "old")) == [("hello", "good day"), ("more", "of course")]
    store.close()


def test_the_budget_of_tokens_holds_for_adopted_turns(database: Database) -> None:
    database.execute(TABLES)
    session = add_session(database, "old")
    say(
        database,
        session,
        Message("user", "p" * 4000),
        Message("assistant", "ä" * 2000),
        Message("user", "q"),
        Message("assistant", "a"),
    )
    database.migrate()
    store = database.store()
    assert [turn.tokens for turn in store.turns("local", "old")] == [2000, 1]
    next_turn = a_turn("next", continuation_id="old", principal="local")
    assert _told(store.begin(next_turn, Window(turns=10, tokens=2000)).history) == [("q", "a")]
    assert len(store.begin(next_turn, Window(turns=10, tokens=2001)).history) == 2
    store.close()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("", []),
        ("u", [("0", None)]),
        ("ua", [("0", "1")]),
        ("a", [("", "0")]),
        ("aua", [("", "0"), ("1", "2")]),
        ("uaa", [("0", "1"), ("", "2")]),
        ("uua", [("0", None), ("1", "2")]),
        ("suaus", [("0", None), ("1", "2"), ("3", None), ("4", None)]),
        ("usa", [("0", None), ("1", None), ("", "2")]),
        ("uauaua", [("0", "1"), ("2", "3"), ("4", "5")]),
    ],
)
def test_a_users_message_and_the_assistants_right_after_it_are_one_turn_and_anything_else_is_one_by_itself(
    database: Database, said: str, told: list[Told]
) -> None:
    database.execute(TABLES)
    roles = {"u": "user", "a": "assistant", "s": "system"}
    session = add_session(database, "old")
    # At one moment, as within one transaction: the order is that in which they were written.
    say(database, session, *(Message(roles[role], str(number)) for number, role in enumerate(said)))
    database.migrate()
    store = database.store()
    assert _told(store.turns("local", "old")) == told
    begun = store.begin(a_turn("next", continuation_id="old", principal="local"), WIDE)
    assert begun.place == len(told) + 1
    assert _told(begun.history) == [turn for turn in told if turn[1] is not None]
    store.close()
    assert database.execute("select content from chat_messages where role = 'system'") == [
        (str(number),) for number, role in enumerate(said) if role == "s"
    ]


def test_messages_of_no_session_are_kept_in_a_conversation_of_their_own(database: Database) -> None:
    database.execute(TABLES)
    add_session(database, "messages-without-a-session")
    say(database, None, Message("user", "lost"), Message("assistant", "found"))
    database.migrate()
    store = database.store()
    assert store.turns("local", "messages-without-a-session") == []  # somebody's own, who may have called it that
    (name,) = [line.continuation_id for line in store.conversations("local") if line.turns]
    assert name.startswith("messages-without-a-session~")
    assert _told(store.turns("local", name)) == [("lost", "found")]
    store.close()


def test_a_message_without_a_time_stands_first_and_has_its_sessions(database: Database) -> None:
    database.execute(TABLES)
    session = add_session(database, "old", created_at=THEN - timedelta(hours=1))
    say(
        database,
        session,
        Message("user", "later"),
        Message("assistant", "second", None),
        Message("user", "first", None),
    )
    database.migrate()
    store = database.store()
    turns = store.turns("local", "old")
    assert _told(turns) == [("", "second"), ("first", None), ("later", None)]
    assert [turn.started_at for turn in turns] == [THEN - timedelta(hours=1)] * 2 + [THEN]
    store.close()


def test_a_session_without_times_is_as_old_as_its_adoption(database: Database) -> None:
    database.execute(TABLES)
    add_session(database, "old", created_at=None, updated_at=None)
    database.migrate()
    assert database.one(
        "select created_at = updated_at and now() - created_at < interval '1 minute' from chat_sessions"
    )


def test_no_two_conversations_have_one_name_and_each_name_is_one_that_a_client_can_send(database: Database) -> None:
    database.execute(TABLES.replace("unique not null", ""))
    names = ["twice", "twice", "", None, "x" * 200, "y" * 201, "tab\t and line\u2028", "twice"]
    sessions = [
        add_session(database, name, user_id="bob" if number == 7 else None, updated_at=THEN + timedelta(days=number))
        for number, name in enumerate(names)
    ]
    for number, session in enumerate(sessions):
        say(database, session, Message("user", f"of {number}"))
    database.migrate()
    found = dict(
        database.execute(
            "select m.content, s.continuation_id from chat_messages m join chat_sessions s on s.id = m.session_id"
        )
    )
    assert found == {
        "of 0": f"twice~{sessions[0]}",
        "of 1": "twice",  # the newest keeps the name
        "of 2": f"~{sessions[2]}",
        "of 3": f"~{sessions[3]}",
        "of 4": "x" * 200,
        "of 5": f"{'y' * 160}~{sessions[5]}",
        "of 6": f"tab and line~{sessions[6]}",
        "of 7": "twice",  # another user's
    }


@pytest.mark.parametrize("user_id", [None, "", "local"])
def test_sessions_of_no_user_are_those_of_the_local_user(database: Database, user_id: str | None) -> None:
    database.execute(TABLES + ONE_PAIR)
    database.execute("update chat_sessions set user_id = %s", [user_id])
    database.migrate()
    assert database.execute("select distinct user_id from chat_messages union select user_id from chat_sessions") == [
        ("local",)
    ]


def test_other_spellings_of_the_founding_tables_are_adopted(database: Database, migrated_schema: str) -> None:
    varied = (
        TABLES.replace("timestamptz", "timestamp").replace("jsonb", "json").replace("role text", "role varchar(20)")
    )
    database.execute(varied.replace("continuation_id text", "continuation_id varchar(255)") + ONE_PAIR)
    database.execute("""update chat_messages set metadata = '{"b": 1, "a": 2}'""")
    database.migrate()
    assert database.schema() == migrated_schema
    assert database.one("select metadata from chat_messages where part = 0") == {"a": 2, "b": 1}


@pytest.mark.parametrize("tables", [SESSIONS, MESSAGES.replace(" references chat_sessions (id) on delete cascade", "")])
def test_one_of_the_two_tables_alone_is_adopted(database: Database, migrated_schema: str, tables: str) -> None:
    database.execute(tables)
    if "chat_messages" in tables:
        say(database, uuid.uuid4(), Message("user", "of a session that is gone"))
    else:
        add_session(database, "old")
    database.migrate()
    assert database.schema() == migrated_schema
    assert database.one("select count(*) from chat_sessions") == 1


@pytest.mark.parametrize("forced", [False, True], ids=["on", "forced"])
def test_row_security_on_the_old_tables_hides_no_row_from_an_owner_who_is_no_superuser(
    database: Database, forced: bool
) -> None:
    owner = f"owner_of_{database.name}"
    database.execute(f"create role {owner} login password 'secret'; alter database {database.name} owner to {owner}")
    owned = database.seen_by(owner, "secret")
    owned.execute(TABLES + ONE_PAIR)
    for table in ("chat_sessions", "chat_messages"):
        owned.execute(f"alter table {table} enable row level security")
        owned.execute(f"create policy mine on {table} using (current_user = 'somebody')")
        if forced:
            owned.execute(f"alter table {table} force row level security")
    owned.migrate()
    store = owned.store()
    assert _told(store.turns("local", "old")) == [("hello", "good day")]
    store.close()


def _told(turns: Sequence[Turn]) -> list[Told]:
    return [(turn.prompt, turn.answer and turn.answer.text) for turn in turns]
