"""Conversations that share the turns of another up to a place. The statements are in `sql/sqlite/forks.sql`.

Only what reads a fork comes here: any other conversation is read as if there were none.
"""

import json
import sqlite3
from typing import NamedTuple

from perdure.errors import ForkRefused
from perdure.middleware.persistence.sql_files import named_queries
from perdure.middleware.persistence.turn import Window

__all__ = ["add_fork", "history_of", "needed_of", "parent_that_is_gone", "trim", "turns_of"]

_SQL = named_queries("sqlite/forks.sql")


class _Segment(NamedTuple):
    session_id: int
    upto: int
    """The last place that is of it."""


def history_of(connection: sqlite3.Connection, session_id: int, place: int, window: Window) -> list[sqlite3.Row]:
    """The newest answered turns before `place` within the window, oldest first."""
    ids: list[int] = []
    spent = 0
    for segment in _line(connection, session_id):
        wanted = {
            "session_id": segment.session_id,
            "below": min(place, segment.upto + 1),
            "limit": window.turns - len(ids),
        }
        for row in connection.execute(_SQL["answered"], wanted):
            spent += row["tokens"]
            if spent > window.tokens:
                return _turns_at(connection, ids)
            ids.append(_prompt_id(segment.session_id, row["turn_seq"]))
        if len(ids) == window.turns:
            break
    return _turns_at(connection, ids)


def turns_of(
    connection: sqlite3.Connection, principal: str, continuation_id: str, now: str, *, after: int, limit: int
) -> list[sqlite3.Row] | None:
    """A page of a fork's turns by place; None if there is no such conversation, or it is no fork."""
    named = {"user_id": principal, "continuation_id": continuation_id, "now": now}
    fork = connection.execute(_SQL["named_fork"], named).fetchone()
    if fork is None:
        return None
    ids: list[int] = []
    for segment in reversed(_line(connection, fork["id"])):
        wanted = {**segment._asdict(), "after": after, "limit": limit - len(ids)}
        ids += [row["id"] for row in connection.execute(_SQL["prompts"], wanted)]
        if len(ids) == limit:
            break
        after = max(after, segment.upto)
    return _turns_at(connection, ids)


def add_fork(
    connection: sqlite3.Connection,
    set_aside: str,
    principal: str,
    continuation_id: str,
    place: int,
    new_id: str,
    *,
    minted: bool,
    now: str,
) -> None:
    """`set_aside` is the statement that frees the name of a conversation that has expired.

    Raises:
        ForkRefused: There is no such conversation or no turn at that place, or the new id is taken.
    """
    named = {"user_id": principal, "continuation_id": continuation_id, "now": now}
    found = connection.execute(_SQL["forkable"], named).fetchone()
    if found is None or not 1 <= place <= found["last_place"]:
        raise ForkRefused(
            f"There is no turn {place} in the conversation {continuation_id!r}.",
            remedy=f"`perdure conversations show {continuation_id}` shows its turns.",
        )
    connection.execute(set_aside, {**named, "continuation_id": new_id})
    if connection.execute(_SQL["forkable"], {**named, "continuation_id": new_id}).fetchone() is not None:
        raise ForkRefused(f"There is a conversation {new_id!r} already.", remedy="choose another id for the fork.")
    made = connection.execute(
        _SQL["add_fork"],
        {
            "user_id": principal,
            "new_id": new_id,
            "minted": minted,
            "place": place,
            "now": now,
            "expires_at": found["expires_at"],
        },
    ).lastrowid
    owner = next(segment for segment in reversed(_line(connection, found["id"])) if place <= segment.upto)
    tied = {"session_id": made, "parent_id": owner.session_id, "place": place}
    connection.execute(_SQL["tie_fork"], tied)
    connection.execute(_SQL["name_files"], {**tied, "from_id": found["id"]})


def needed_of(connection: sqlite3.Connection, session_id: int) -> int:
    """Up to which place forks need the turns of a conversation; 0 if not at all."""
    return int(connection.execute(_SQL["needed"], {"id": session_id}).fetchone()["place"])


def parent_that_is_gone(connection: sqlite3.Connection, session_id: int) -> int | None:
    """Of a fork: the conversation that it came from, if nobody but its forks needs that any more."""
    row = connection.execute(_SQL["parent"], {"id": session_id}).fetchone()
    return int(row["parent_id"]) if row is not None and row["is_gone"] else None


def trim(connection: sqlite3.Connection, session_id: int, place: int) -> None:
    """Of a conversation that is gone for everybody but its forks: its end is at `place` now."""
    connection.execute(_SQL["cut"], {"id": session_id, "place": place})
    connection.execute(_SQL["drop_files"], {"id": session_id})


def _line(connection: sqlite3.Connection, session_id: int) -> list[_Segment]:
    """A conversation and those that it was forked from, the nearest first."""
    return [
        _Segment(row["session_id"], row["upto"]) for row in connection.execute(_SQL["line"], {"session_id": session_id})
    ]


def _turns_at(connection: sqlite3.Connection, ids: list[int]) -> list[sqlite3.Row]:
    return connection.execute(_SQL["turns_at"], {"ids": json.dumps(ids)}).fetchall()


def _prompt_id(session_id: int, place: int) -> int:
    return session_id << 32 | place << 1
