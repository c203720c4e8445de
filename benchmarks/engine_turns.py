"""Turns through the engine, as a seam would drive them: begun, answered, finished; and the proof that they are kept."""

from collections.abc import Sequence
from itertools import count

from benchmarks.content import answer_to, prompt_of, result_of
from perdure.middleware.call_steps import CallSteps
from perdure.middleware.persistence import wiring
from perdure.middleware.persistence.copied_turns import shared
from perdure.middleware.persistence.engine import Engine
from perdure.middleware.persistence.ports import Store
from perdure.middleware.persistence.redaction import Redactor
from perdure.middleware.persistence.runtime import redactor_for
from perdure.middleware.persistence.turn import DEFAULT_LEASE, Answer, BegunTurn, Outcome, Turn, Window, new_turn_id
from perdure.middleware.persistence.wiring import Runtime
from perdure.settings import Settings

__all__ = ["PRINCIPAL", "WINDOW", "KeptTurns", "one_turn", "one_turn_of_a_call"]

WINDOW = Window(turns=20, tokens=1_000_000)
"""40 messages, with a budget of tokens that never decides."""

PRINCIPAL = "local"


def one_turn(runtime: Runtime, redactor: Redactor, continuation_id: str, number: int) -> Turn:
    """The turn as it was acknowledged. `number` makes its prompt and its answer its own."""
    engine = runtime.engine
    turn, begun = engine.begin(_asked(engine, continuation_id, number), WINDOW, redactor)
    turn = _answered(engine, turn, begun)
    finished = engine.finish(turn, redactor)
    return turn.changed(place=finished.place)


async def one_turn_of_a_call(runtime: Runtime, redactor: Redactor, continuation_id: str, number: int) -> Turn:
    """The same by the steps of a call, which waits on an event loop while others go on."""
    engine = runtime.engine
    steps = CallSteps(runtime, file_seconds=1, meta={})
    turn, begun = await steps.begin(_asked(engine, continuation_id, number), WINDOW, redactor)
    turn = _answered(engine, turn, begun)
    finished = await steps.finish(turn, redactor)
    return turn.changed(place=finished.place)


def _asked(engine: Engine, continuation_id: str, number: int) -> Turn:
    prompt = prompt_of(number)
    now = engine.clock.now()
    return Turn(
        id=new_turn_id(now),
        principal=PRINCIPAL,
        continuation_id=continuation_id,
        tool="chat",
        prompt=prompt,
        arguments={"prompt": prompt},
        started_at=now,
        lease_until=now + DEFAULT_LEASE,
        metadata={"protocol_version": "2026-07-28"},
    )


def _answered(engine: Engine, turn: Turn, begun: BegunTurn) -> Turn:
    _look_at(begun.history)
    turn = turn.changed(continuation_id=begun.continuation_id, place=begun.place)
    answer = answer_to(turn.prompt)
    return turn.ended(Outcome.ANSWERED, engine.clock.now(), Answer(text=answer, result=result_of(answer)))


def _look_at(history: Sequence[Turn]) -> None:
    """At its oldest and its newest turn: all are there, as texts.

    Raises:
        AssertionError: A prompt stands beside another's answer.
    """
    turns = shared(history)
    for turn in (turns[0], turns[-1]) if turns else ():
        if turn.answer is None or turn.prompt[:20] not in turn.answer.text[:30]:
            raise AssertionError(f"{turn.prompt!r} was not answered with {turn.answer!r}")


class KeptTurns:
    """Turns through the engine into one store, and what was acknowledged of them. For many threads, and many tasks."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._runtime = wiring.build(Settings(), store=self._store)
        self._redactor = redactor_for(True, ())
        self._numbers = count(1)
        self._acknowledged: list[tuple[str, int, str]] = []

    def turn(self, continuation_id: str) -> None:
        self._note(continuation_id, one_turn(self._runtime, self._redactor, continuation_id, next(self._numbers)))

    async def turn_of_a_call(self, continuation_id: str) -> None:
        number = next(self._numbers)
        self._note(continuation_id, await one_turn_of_a_call(self._runtime, self._redactor, continuation_id, number))

    def _note(self, continuation_id: str, turn: Turn) -> None:
        self._acknowledged.append((continuation_id, turn.place or 0, turn.prompt))

    def verified(self) -> int:
        """
        Raises:
            AssertionError: An acknowledged turn is not where it was said to be.
        """
        for continuation_id, place, prompt in self._acknowledged:
            (found,) = self._store.turns(PRINCIPAL, continuation_id, after=place - 1, limit=1)
            if (found.place, found.prompt, found.answer and found.answer.text) != (place, prompt, answer_to(prompt)):
                raise AssertionError(f"The turn {place} of {continuation_id!r} is lost")
        return len(self._acknowledged)

    def close(self) -> None:
        self._store.close()
