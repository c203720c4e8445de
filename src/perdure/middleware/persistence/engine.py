"""Keeps turns: makes them fit to be stored, begins them, finishes them, reads them back. Knows no MCP."""

from collections.abc import Callable, Sequence
from contextvars import Context
from datetime import datetime, timedelta
from typing import TypeVar

from perdure.errors import StoreError, StoreUnavailable
from perdure.logs import OnceAMinute, log
from perdure.middleware.persistence.history import TokenCounter, estimate_tokens, without_transcripts
from perdure.middleware.persistence.ports import Clock, Spool, Store, grouping_of, makes_digests
from perdure.middleware.persistence.redaction import Redactor
from perdure.middleware.persistence.running_turns import RunningTurns
from perdure.middleware.persistence.serialization import digest
from perdure.middleware.persistence.telemetry import Operation, Telemetry
from perdure.middleware.persistence.turn import (
    DEFAULT_LEASE,
    LEASE_OF_A_QUESTION,
    Answer,
    BegunTurn,
    ConversationSummary,
    FinishedTurn,
    Outcome,
    StoredFile,
    Turn,
    WaitingHistory,
    Window,
    copied,
)

__all__ = ["Engine"]

G = TypeVar("G")
T = TypeVar("T")

_CONVERSATIONS_KNOWN = 4096
"""Whose last places are remembered, to be written beside a turn that is deferred."""


class Engine:
    """Every method blocks for as long as the store does, and raises `StoreError` when nothing can be said."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        count_tokens: TokenCounter = estimate_tokens,
        spool: Spool | None = None,
        lease: timedelta = DEFAULT_LEASE,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.store = store
        self.grouping = grouping_of(store)
        """The store, if it takes several turns at once."""
        self.most_together = self.grouping.most_together if self.grouping is not None else 1
        self.clock = clock
        self.spool = spool
        self.running = RunningTurns(store, clock, lease)
        """Those whose tools run in this process."""
        self._count_tokens = count_tokens
        self._digests_can_wait = spool is None and makes_digests(store)
        self.telemetry = telemetry or Telemetry("none", clock.now)
        self._last_places: dict[tuple[str, str], int] = {}
        self._said = OnceAMinute()

    def begin(self, turn: Turn, window: Window, redactor: Redactor) -> tuple[Turn, BegunTurn]:
        """Make `turn` known before its tool's body runs, and read the history it continues.

        Returns it as it is stored as well, so that its end need not make that of it again.

        Raises:
            StoreUnavailable: … or earlier turns of the conversation wait in the spool, and could not be sent now.
            ConversationFull: `turn` is not kept; `newest` gives it its history all the same.
        """
        turn = self.prepared(turn, redactor)
        begin = self.store.begin if self.spool is None else self._settled_and_begun
        begun = self.telemetry.around("begin_turn", turn, begin, turn, window)
        self._note_place(turn, begun)
        return turn, begun

    def begin_together(
        self, wanted: Sequence[tuple[Turn, Window, Redactor]], contexts: Sequence[Context]
    ) -> Sequence[tuple[Turn, BegunTurn] | None]:
        """As `begin` for each, which its caller asked for in its context. None: `begin` has to be asked for that one.

        Raises:
            StoreError: It holds of them all.
        """
        prepared: dict[int, tuple[Turn, Window]] = {}
        for number, (asked, window, redactor) in enumerate(wanted):
            if asked.is_new and not self._is_held_up(asked):
                turn = _unless_it_fails(self.prepared, asked, redactor)
                if turn is not None:
                    prepared[number] = turn, window
        results: list[tuple[Turn, BegunTurn] | None] = [None] * len(wanted)
        if self.grouping is None or len(prepared) < 2:
            return results
        told = [(turn, contexts[number]) for number, (turn, _) in prepared.items()]
        together = self._together("begin_turn", told, self.grouping.begin_together, [*prepared.values()])
        for (number, (turn, _)), begun in zip(prepared.items(), together, strict=True):
            if begun is not None:
                self._note_place(turn, begun)
                results[number] = turn, begun
        return results

    def _is_held_up(self, turn: Turn) -> bool:
        """By what waits of its conversation; or nobody can say, and `begin` will."""
        try:
            return self.spool is not None and self.spool.holds_up(turn.principal, turn.continuation_id)
        except StoreError:
            return True

    def _note_place(self, turn: Turn, begun: BegunTurn) -> None:
        if self.spool is None:
            return  # Nothing is ever deferred.
        if len(self._last_places) >= _CONVERSATIONS_KNOWN:
            self._last_places.clear()
        self._last_places[turn.principal, begun.continuation_id] = begun.place

    def _settled_and_begun(self, turn: Turn, window: Window) -> BegunTurn:
        if self.spool is not None:
            self.spool.settle(turn.principal, turn.continuation_id)
        return self.store.begin(turn, window)

    def newest(self, turn: Turn, last_place: int, window: Window) -> tuple[Turn, ...]:
        """What `begin` would have read for `turn` in a conversation that is full, from its last few places."""
        looked_at = 2 * window.turns  # Some of them may have no answer.
        found = self.store.turns(
            turn.principal, turn.continuation_id, after=max(last_place - looked_at, 0), limit=looked_at
        )
        kept: list[Turn] = []
        left = window.tokens
        for earlier in reversed(found):
            if earlier.outcome is not Outcome.ANSWERED:
                continue
            left -= earlier.tokens
            if left < 0 or len(kept) == window.turns:
                break
            kept.append(earlier)
        return tuple(reversed(kept))

    def finish(self, turn: Turn, redactor: Redactor) -> FinishedTurn:
        """Make `turn`, which has ended, durable."""
        turn = self._ended(turn, redactor)
        finished = self.telemetry.around("finish_turn", turn, self.store.finish, turn)
        self.telemetry.kept(turn, "store")
        return finished

    def finish_together(
        self, ended: Sequence[tuple[Turn, Redactor]], contexts: Sequence[Context]
    ) -> Sequence[FinishedTurn | None]:
        """As `finish` for each. None: `finish` has to be asked for that one.

        Raises:
            StoreError: It holds of them all.
        """
        made = {
            number: turn
            for number, (asked, redactor) in enumerate(ended)
            if (turn := _unless_it_fails(self._ended, asked, redactor))
        }
        results: list[FinishedTurn | None] = [None] * len(ended)
        if self.grouping is None or len(made) < 2:
            return results
        told = [(turn, contexts[number]) for number, turn in made.items()]
        together = self._together("finish_turn", told, self.grouping.finish_together, [*made.values()])
        for (number, turn), finished in zip(made.items(), together, strict=True):
            if finished is not None:
                self.telemetry.kept(turn, "store")
                results[number] = finished
        return results

    def _together(
        self,
        name: Operation,
        told: Sequence[tuple[Turn, Context]],
        work: Callable[[Sequence[G]], Sequence[T | None]],
        given: Sequence[G],
    ) -> Sequence[T | None]:
        """What `work` gives for each. Where it fails as no store should, it may be for one of them: then None for all.

        Raises:
            StoreError: It holds of them all.
        """
        try:
            results = self.telemetry.around_all(name, told, work, given)
            if len(results) != len(given):
                raise ValueError(f"{len(given)} turns have {len(results)} results")
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - each is told what is wrong with its own
            what = f"The store failed at several turns at once ({type(error).__name__}: {error})."
            if self._said.is_due(what):
                log.error("store.failed_together", what=what, remedy="report this; each is given to it by itself.")
            return [None] * len(given)
        return results

    def leave_to_client(self, turn: Turn) -> None:
        """`turn` has asked its client something: no process runs it until the answer comes, to any of them."""
        self.store.renew({turn.principal: [turn.id]}, self.clock.now() + LEASE_OF_A_QUESTION)

    def defer(self, turn: Turn, redactor: Redactor) -> None:
        """Make `turn` durable in the spool, from where it goes to the store later: begun, ended, or both.

        Raises:
            StoreError: There is no spool, or it could not be kept there either.
        """
        if self.spool is None:
            raise StoreUnavailable("There is no spool.", remedy="none: this backend keeps nothing on a disk.")
        if turn.place is None:
            last_place = self._last_places.get((turn.principal, turn.continuation_id))
            turn = turn.changed(deferred=True, after_place=turn.after_place or last_place)
        turn = self._ended(turn, redactor)
        self.telemetry.around("spool_turn", turn, self.spool.keep, turn)
        if turn.outcome is not Outcome.RUNNING:
            self.telemetry.kept(turn, "spool")

    def waiting_history(self, turn: Turn, window: Window) -> WaitingHistory:
        """What can be told of the conversation of `turn` without its store: the turns that wait here."""
        return self.spool.history(turn, window) if self.spool is not None else WaitingHistory()

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

    def prepared(self, turn: Turn, redactor: Redactor) -> Turn:
        """`turn` as it is stored, but for its answer: prompt and arguments without secrets, and their digest."""
        if turn.stored_form:
            return turn
        if redactor.finds_nothing_in(turn.prompt, turn.arguments):
            prompt, arguments = turn.prompt, copied(turn.arguments)  # the tool gets the others, and may change them
        else:
            redacted = redactor.remembering()
            prompt, arguments = redacted(turn.prompt), redactor.json(turn.arguments, redacted)
        needs_none = self._digests_can_wait and turn.is_new  # nobody else can come with its id
        own = "" if needs_none else digest(turn.tool, arguments)
        return turn.stored(prompt, arguments, own, stored_form=True)

    def _ended(self, turn: Turn, redactor: Redactor) -> Turn:
        """`turn`, which has ended, as it is stored."""
        if not turn.stored_form:
            turn = self.prepared(turn, redactor)
        if turn.answer is None:
            return turn
        answer = _redacted(turn.answer, redactor)
        # What they cost in a history, which shows them without the transcripts in them.
        count = self._count_tokens
        tokens = count(without_transcripts(turn.prompt)) + count(without_transcripts(answer.text))
        return turn.counted(answer, tokens)


def _unless_it_fails(make: Callable[[Turn, Redactor], Turn], turn: Turn, redactor: Redactor) -> Turn | None:
    """What `make` gives; None where it cannot: made by itself, that is said to its own caller alone."""
    try:
        return make(turn, redactor)
    except Exception:  # noqa: BLE001 - see above
        return None


def _redacted(answer: Answer, redactor: Redactor) -> Answer:
    if redactor.finds_nothing_in(answer.text, answer.result, answer.error):
        return answer
    redacted = redactor.remembering()
    return Answer(
        text=redacted(answer.text),
        result=redactor.json(answer.result, redacted),
        error=redactor.json(answer.error, redacted),
    )
