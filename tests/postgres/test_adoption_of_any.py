"""Any conversations of the founding plan at all, and however many, are adopted by the same few rules."""

import time
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres.databases import Database
from postgres.founding_plan import TABLES, THEN, Message, insert
from servers.postgres_cluster import PostgresCluster

from perdure.middleware.persistence.migrations.postgres_files import as_one_text

Told = tuple[str, str | None]
"""A turn's prompt and answer, the answer None if there is none."""


def test_fifty_thousand_messages_are_adopted_in_a_few_times_what_writing_them_took(
    database: Database, record_property: Callable[[str, object], None]
) -> None:
    database.execute(TABLES)
    began = time.monotonic()
    database.execute("""
        insert into chat_sessions (continuation_id) select 'c' || n from generate_series(1, 50000) n;
        insert into chat_messages (session_id, role, content) select id, 'user', repeat('word ', 20) from chat_sessions;
    """)
    written = time.monotonic()
    database.migrate()
    adopted = time.monotonic()
    record_property("seconds", adopted - written)
    assert database.execute("select count(*), count(distinct session_id), max(turn_seq) from chat_messages") == [
        (50_000, 50_000, 1)
    ]
    assert adopted - written < 10 * (written - began)  # it is three times that; where a step is quadratic, thirty


@pytest.fixture(scope="module")
def scratch(plain: PostgresCluster) -> Database:
    return Database.new(plain)


CONVERSATIONS = {f"c{number}": uuid.UUID(int=number) for number in range(1, 6)} | {"messages-without-a-session": None}

messages = st.lists(
    st.builds(
        Message,
        st.sampled_from(["user", "assistant", "assistant", "system"]),
        st.text("ab", max_size=2),
        st.sampled_from([None, THEN, THEN + timedelta(seconds=1), THEN + timedelta(seconds=2)]),
        st.sampled_from(list(CONVERSATIONS.values())),
    ),
    max_size=60,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(messages)
def test_every_message_is_there_once_in_its_order_and_in_its_turn(scratch: Database, said: list[Message]) -> None:
    with scratch.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute(TABLES.encode())
        for name, session in CONVERSATIONS.items():
            if session:
                connection.execute("insert into chat_sessions (id, continuation_id) values (%s, %s)", [session, name])
        ids = [insert(connection, message) for message in said]
        connection.execute(as_one_text().encode())
        kept = connection.execute("select id, role, content from chat_messages where id = any (%s)", [ids]).fetchall()
        assert sorted(kept) == sorted((known, m.role, m.content) for known, m in zip(ids, said, strict=True))
        found = dict(connection.execute("select continuation_id, last_place from chat_sessions").fetchall())
        for name, session in CONVERSATIONS.items():
            ordered = sorted(  # stable: where times tie, as they were written
                (message for message in said if message.session == session),
                key=lambda message: (message.at is not None, message.at or THEN),
            )
            (page,) = connection.execute("select read_turns('local', %s)", [name]).fetchone() or ({},)
            lines = page["turns"]
            assert [line["place"] for line in lines] == list(range(1, found.get(name, 0) + 1))
            assert [(line["prompt"], line["answer"]) for line in lines] == _turns_of(ordered)


def _turns_of(ordered: Sequence[Message]) -> list[Told]:
    """What the rules say: the same in other words than the migration's."""
    turns: list[Told] = []
    before = ""
    for message in ordered:
        if message.role != "assistant":
            turns.append((message.content, None))
        elif before == "user":
            turns[-1] = (turns[-1][0], message.content)
        else:
            turns.append(("", message.content))
        before = message.role
    return turns
