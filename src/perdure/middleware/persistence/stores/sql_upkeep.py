"""Searching, removing and counting over the SQL functions of `sql/postgres`, whatever carries the calls."""

import re

from perdure.errors import ForkRefused
from perdure.middleware.persistence.excerpts import Excerpt, marked
from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.question import Question, Term
from perdure.middleware.persistence.stores.faults import decoded
from perdure.middleware.persistence.stores.kept_words import KeptWords
from perdure.middleware.persistence.stores.known_windows import KnownWindows
from perdure.middleware.persistence.stores.sql_calls import SqlFunctions, asked
from perdure.middleware.persistence.stores.sql_lines import time_of
from perdure.middleware.persistence.turn import Json, JsonObject, Outcome
from perdure.middleware.persistence.upkeep import FileName, Hit, HitPosition, Removed, Statistics

__all__ = ["SqlUpkeep", "tsquery"]

_FOUND, _END = "\ue000", "\ue001"
"""Around what was found, in an excerpt."""

_REPEATED = re.compile(r"([^\w\s])\1+")


class SqlUpkeep:
    _functions: SqlFunctions
    _clock: Clock
    _known: KnownWindows[tuple[str, str]]
    _words: KeptWords

    def search(self, question: Question, *, before: HitPosition | None = None, limit: int = 20) -> list[Hit]:
        before_at, before_turn, before_part = (before[0].isoformat(), *before[1:]) if before else (None, None, None)
        if question.every:
            self._words.add_all()
        reply = self._asked(
            "find_messages",
            "hits",
            user_id=question.principal,
            words=tsquery(question),
            continuation_id=question.continuation_id,
            tool=question.tool,
            outcome=question.outcome and question.outcome.value,
            since=question.since and question.since.isoformat(),
            until=question.until and question.until.isoformat(),
            before_at=before_at,
            before_turn=before_turn,
            before_part=before_part,
            max_hits=limit,
            at=self._now(),
        )
        with decoded(self._functions.where):
            return [_hit(line, has_words=bool(question.every)) for line in reply["hits"]]

    def tie_fork(self, principal: str, continuation_id: str, place: int, new_id: str, *, minted: bool) -> None:
        """Make the fork.

        Raises:
            ForkRefused: There is no such conversation or no turn at that place, or the new id is taken.
        """
        reply = self._asked(
            "fork_conversation",
            "status",
            user_id=principal,
            continuation_id=continuation_id,
            fork_place=place,
            new_id=new_id,
            minted=minted,
            at=self._now(),
        )
        if reply["status"] == "missing":
            raise ForkRefused(
                f"There is no turn {place} in the conversation {continuation_id!r}.",
                remedy=f"`perdure conversations show {continuation_id}` shows its turns.",
            )
        if reply["status"] == "taken":
            raise ForkRefused(f"There is a conversation {new_id!r} already.", remedy="choose another id for the fork.")

    def delete(self, principal: str, continuation_id: str) -> Removed:
        return self._removed("remove_conversation", user_id=principal, continuation_id=continuation_id, at=self._now())

    def purge(self, *, limit: int = 100, dry_run: bool = False) -> Removed:
        return self._removed("remove_expired", max_conversations=limit, dry_run=dry_run, at=self._now())

    def forget(self, principal: str, *, limit: int = 100) -> Removed:
        return self._removed("forget_user", user_id=principal, max_conversations=limit)

    def statistics(self, principal: str | None = None) -> Statistics:
        counted = self._asked("store_statistics", "conversations", user_id=principal, at=self._now())
        with decoded(self._functions.where):
            return Statistics(
                users=counted["users"],
                conversations=counted["conversations"],
                turns=sum(line["turns"] for line in counted["outcomes"]),
                outcomes={line["outcome"]: line["turns"] for line in counted["outcomes"]},
                files=counted["files"],
                file_bytes=counted["bytes"],
                expired=counted["expired"],
                oldest=time_of(counted["oldest"]) if counted["oldest"] else None,
                newest=time_of(counted["newest"]) if counted["newest"] else None,
            )

    def _removed(self, function: str, **arguments: Json) -> Removed:
        reply = self._asked(function, "conversations", **arguments)
        self._known.forget_all()  # What is gone is gone from the memory, too.
        with decoded(self._functions.where):
            return Removed(
                conversations=reply["conversations"],
                turns=reply["turns"],
                files=tuple(FileName(line["bucket"], line["key"], line["shared"]) for line in reply["files"]),
            )

    def _asked(self, function: str, expected: str, **arguments: Json) -> JsonObject:
        return asked(self._functions, function, expected, arguments)

    def _now(self) -> str:
        return self._clock.now().isoformat()


def tsquery(question: Question) -> str | None:
    """`question`'s words as Postgres writes a tsquery, with everything of a caller's in quotes; None if it has none."""
    if not question.every:
        return None
    wanted = [f"({' | '.join(map(_quoted, group))})" for group in question.every]
    return " & ".join([*wanted, *(f"!{_quoted(term)}" for term in question.none)])


def _quoted(term: Term) -> str:
    # Of many hyphens in a row, which are no words, its parser makes an error.
    text = _REPEATED.sub(r"\1", term.text).replace("\\", "\\\\").replace("'", "''")
    return f"'{text}'{':*' if term.prefix else ''}"


def _hit(line: JsonObject, *, has_words: bool) -> Hit:
    excerpt: str = line["excerpt"]
    return Hit(
        principal=line["user_id"],
        continuation_id=line["continuation_id"],
        turn_id=line["turn_id"],
        place=line["place"],
        part=line["part"],
        tool=line["tool"],
        outcome=Outcome(line["outcome"]),
        created_at=time_of(line["created_at"]),
        excerpt=marked(excerpt, _FOUND, _END) if has_words else Excerpt(excerpt),
    )
