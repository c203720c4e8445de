"""The two tables of the founding plan, as databases have them that were made before perdure had migrations."""

import uuid
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psycopg
from postgres.databases import Database

THEN = datetime(2025, 6, 1, 12, tzinfo=UTC)

SESSIONS = """
create table chat_sessions (
  id uuid primary key default gen_random_uuid(),
  continuation_id text unique not null,
  created_at timestamptz default now(),
  updated_at timestamptz default now(),
  user_id text,
  metadata jsonb
);
create index idx_sessions_continuation on chat_sessions (continuation_id);
"""

MESSAGES = """
create table chat_messages (
  id uuid primary key default gen_random_uuid(),
  session_id uuid references chat_sessions (id) on delete cascade,
  role text not null check (role in ('user', 'assistant', 'system')),
  content text not null,
  created_at timestamptz default now(),
  metadata jsonb
);
create index idx_messages_session on chat_messages (session_id, created_at);
"""

TABLES = SESSIONS + MESSAGES

ONE_PAIR = """
insert into chat_sessions (continuation_id) values ('old');
insert into chat_messages (session_id, role, content) select id, 'user', 'hello' from chat_sessions;
insert into chat_messages (session_id, role, content) select id, 'assistant', 'good day' from chat_sessions;
"""


class Message(NamedTuple):
    role: str
    content: str
    at: datetime | None = THEN
    session: uuid.UUID | None = None


def add_session(database: Database, name: str | None, **columns: Any) -> uuid.UUID:
    new = uuid.uuid4()
    given = {"id": new, "continuation_id": name, **columns}
    marks = ", ".join(["%s"] * len(given))
    database.execute(f"insert into chat_sessions ({', '.join(given)}) values ({marks})", list(given.values()))
    return new


def say(database: Database, session: uuid.UUID | None, *messages: Message, metadata: str | None = None) -> None:
    with database.connect() as connection:
        for message in messages:
            insert(connection, message._replace(session=session), metadata)


def insert(connection: psycopg.Connection[Any], message: Message, metadata: str | None = None) -> uuid.UUID:
    new = uuid.uuid4()
    connection.execute(
        """insert into chat_messages (id, session_id, role, content, created_at, metadata)
           values (%s, %s, %s, %s, %s, %s)""",
        [new, message.session, message.role, message.content, message.at, metadata],
    )
    return new
