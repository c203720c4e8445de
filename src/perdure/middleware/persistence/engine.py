"""Keeps turns: makes them fit to be stored, begins them, finishes them, reads them back. Knows no MCP."""

from dataclasses import replace
from datetime import datetime

from perdure.middleware.persistence.history import TokenCounter, estimate_tokens, without_transcripts
from perdure.middleware.persistence.ports import Clock, Store
from perdure.middleware.persistence.redaction import Redactor
from perdure.middleware.persistence.serialization import digest
from perdure.middleware.persistence.turn import (
    Answer,
    BegunTurn,
    ConversationSummary,
    FinishedTurn,
    StoredFile,
    Turn,
    Window,
)

__all__ = ["Engine"]


class Engine:
    """Every method blocks for as long as the store does, and raises `StoreError` when nothing can be said."""

    def __init__(self, store: Store, clock: Clock, count_tokens: TokenCounter = estimate_tokens) -> None:
        self.store = store
        self.clock = clock
        self._count_tokens = count_tokens

    def begin(self, turn: Turn, window: Window, redactor: Redactor) -> BegunTurn:
        """Make `turn` known before its tool's body runs, and read the history it continues."""
        return self.store.begin(self._stored_form(turn, redactor), window)

    def finish(self, turn: Turn, redactor: Redactor) -> FinishedTurn:
        """Make `turn`, which has ended, durable."""
        return self.store.finish(self._stored_form(turn, redactor))

    def turns(self, principal: str, continuation_id: str, *, after: int = 0, limit: int = 100) -> list[Turn]:
        now = self.clock.now()
        found = self.store.turns(principal, continuation_id, after=after, limit=limit)
        return [turn.seen_at(now) for turn in found]

    def conversations(
        self,
        principal: str | None = None,
        continuation_id: str | None = None,
        *,
        before: tuple[datetime, str, str] | None = None,
        limit: int = 100,
    ) -> list[ConversationSummary]:
        return self.store.conversations(principal, continuation_id, before=before, limit=limit)

    def files(
        self, principal: str, continuation_id: str | None = None, name: str | None = None, *, limit: int = 1000
    ) -> list[StoredFile]:
        return self.store.files(principal, continuation_id, name, limit=limit)

    def _stored_form(self, turn: Turn, redactor: Redactor) -> Turn:
        if turn.stored_form:
            return turn
        arguments = redactor.json(turn.arguments)
        prompt = redactor.text(turn.prompt)
        answer = turn.answer and _redacted(turn.answer, redactor)
        return replace(
            turn,
            prompt=prompt,
            arguments=arguments,
            answer=answer,
            digest=digest(turn.tool, arguments),
            tokens=self._tokens(prompt) + self._tokens(answer.text) if answer else 0,
            stored_form=True,
        )

    def _tokens(self, text: str) -> int:
        """What `text` costs in a history, which shows it without the transcripts in it."""
        return self._count_tokens(without_transcripts(text))


def _redacted(answer: Answer, redactor: Redactor) -> Answer:
    return Answer(
        text=redactor.text(answer.text), result=redactor.json(answer.result), error=redactor.json(answer.error)
    )
