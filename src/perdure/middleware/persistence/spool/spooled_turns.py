"""The turns that wait: kept durably, handed out in order for each conversation, dropped when the store has them."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from perdure.middleware.persistence.spool.database import SpoolDatabase
from perdure.middleware.persistence.spool.leases import Lease, lease
from perdure.middleware.persistence.spool.turn_record import read_turn, write_file, write_turn
from perdure.middleware.persistence.turn import Outcome, StoredFile, Turn, WaitingHistory, Window

__all__ = ["ConversationKey", "Room", "SpooledTurn", "SpooledTurns"]

_AT_ONCE = 20


class ConversationKey(NamedTuple):
    """A conversation, as its turns name it."""

    principal: str
    continuation_id: str


@dataclass(frozen=True, slots=True)
class SpooledTurn:
    seq: int
    turn_id: str
    ended: bool
    attempts: int
    record: str

    def turn(self) -> Turn:
        """
        Raises:
            ValueError, TypeError, KeyError: The record is not one of ours.
        """
        return read_turn(self.record)


Room: TypeAlias = Callable[[sqlite3.Connection, int], None]
"""Called before so many bytes more are kept; raises `SpoolFull`."""


class SpooledTurns:
    def __init__(self, database: SpoolDatabase, destination: str, room: Room) -> None:
        self._database = database
        self._destination = destination
        self._room = room

    def keep(self, turn: Turn) -> None:
        """Durable on return; an intent outlives the process, not a power loss. A turn that has ended takes the place of
        its intent; the first ending wins.

        Raises:
            SpoolFull: Nothing more is taken.
            StoreUnavailable: It cannot be written.
            StoreError: The turn cannot be written down.
        """
        ended = turn.outcome is not Outcome.RUNNING
        record = write_turn(turn)
        wanted = {
            "turn_id": turn.id,
            "destination": self._destination,
            "user_id": turn.principal,
            "continuation_id": turn.continuation_id,
            "ended": ended,
            "turn": record,
            "now": self._database.now().isoformat(),
        }

        def keep(connection: sqlite3.Connection) -> None:
            self._room(connection, len(record))
            connection.execute(self._database.sql["keep_turn"], wanted)
            for file in turn.files:
                connection.execute(
                    self._database.sql["keep_turn_file"],
                    {"turn_id": turn.id, "user_id": turn.principal, "key": file.key, "file": write_file(file)},
                )

        # Nobody was told of an intent: to wait for the disk twice in one call would buy nothing.
        self._database.write(keep, durable=ended)

    def waiting(self, conversation: ConversationKey, *, most: int = _AT_ONCE) -> int:
        """How many turns of it wait, counted up to `most`."""
        rows = self._database.read("holds_turns", self._of(conversation) | {"most": most})
        return int(rows[0]["turns"]) if rows else 0

    def history(self, conversation: ConversationKey, window: Window, before: str) -> WaitingHistory:
        """What a tool can be told while the store is away. `before`: the id of the turn that asks."""
        first = self._database.read("first_turn", self._of(conversation))
        if not first:
            return WaitingHistory()
        began = read_turn(first[0]["turn"])
        rows = self._database.read("newest_answers", self._of(conversation) | {"most": window.turns + 1})
        ended = [turn for row in rows if (turn := read_turn(row["turn"])).id != before]
        answered = [turn for turn in ended if turn.outcome is Outcome.ANSWERED]
        shown: list[Turn] = []
        tokens = 0
        for turn in answered[: window.turns]:
            tokens += turn.tokens
            if tokens > window.tokens:
                break
            shown.append(turn)
        return WaitingHistory(
            turns=tuple(reversed(shown)), complete=began.minted and began.place is None, omitted=len(ended) - len(shown)
        )

    def file(self, principal: str, key: str) -> StoredFile | None:
        """The file that a turn which waits gave out under `key`."""
        rows = self._database.read("find_turn_file", {"user_id": principal, "key": key})
        return StoredFile(**json.loads(rows[0]["file"])) if rows else None

    def conversations(self) -> Iterator[ConversationKey]:
        """Those with turns that wait, by name."""
        at = ConversationKey("", "")
        while rows := self._database.read("next_conversation", self._of(at)):
            at = ConversationKey(rows[0]["user_id"], rows[0]["continuation_id"])
            yield at

    def next(self, conversation: ConversationKey, *, most: int = _AT_ONCE) -> list[SpooledTurn]:
        """In their order."""
        rows = self._database.read("next_turns", self._of(conversation) | {"most": most})
        return [
            SpooledTurn(row["seq"], row["turn_id"], bool(row["ended"]), row["attempts"], row["turn"]) for row in rows
        ]

    def leased(self, conversation: ConversationKey) -> AbstractContextManager[Lease | None]:
        """While nobody else works on it; None if somebody does."""
        return lease(self._database, f"{self._destination}\0turns\0{conversation[0]}\0{conversation[1]}")

    def drop(self, spooled: SpooledTurn) -> None:
        """The store has it, as it was handed out; if it has ended meanwhile, it stays."""
        # A deletion that a power loss undoes sends the turn twice, which is once.
        self._change("drop_turn", durable=False, seq=spooled.seq, ended=spooled.ended)

    def failed(self, spooled: SpooledTurn, reason: str) -> None:
        self._change("turn_failed", durable=False, seq=spooled.seq, reason=reason)

    def quarantine(self, spooled: SpooledTurn, reason: str) -> None:
        self._change("quarantine_turn", seq=spooled.seq, reason=reason, now=self._database.now().isoformat())

    def _change(self, query: str, *, durable: bool = True, **wanted: object) -> None:
        self._database.write(lambda connection: connection.execute(self._database.sql[query], wanted), durable=durable)

    def _of(self, conversation: ConversationKey) -> dict[str, object]:
        return {
            "destination": self._destination,
            "user_id": conversation.principal,
            "continuation_id": conversation.continuation_id,
        }
