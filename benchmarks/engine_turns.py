"""One turn through the engine, as a seam would drive it: begun, answered, finished."""

from dataclasses import replace

from benchmarks.content import answer_to, prompt_of, result_of
from perdure.middleware.persistence.redaction import Redactor
from perdure.middleware.persistence.turn import DEFAULT_LEASE, Answer, Outcome, Turn, Window, new_turn_id
from perdure.middleware.persistence.wiring import Runtime

__all__ = ["PRINCIPAL", "WINDOW", "one_turn"]

WINDOW = Window(turns=20, tokens=1_000_000)
"""40 messages, with a budget of tokens that never decides."""

PRINCIPAL = "local"


def one_turn(runtime: Runtime, redactor: Redactor, continuation_id: str, number: int) -> Turn:
    """The turn as it was acknowledged. `number` makes its prompt and its answer its own."""
    engine = runtime.engine
    prompt = prompt_of(number)
    answer = answer_to(prompt)
    now = engine.clock.now()
    turn = Turn(
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
    begun = engine.begin(turn, WINDOW, redactor)
    turn = replace(turn, continuation_id=begun.continuation_id, place=begun.place)
    turn = turn.ended(Outcome.ANSWERED, engine.clock.now(), Answer(text=answer, result=result_of(answer)))
    finished = engine.finish(turn, redactor)
    return replace(turn, place=finished.place)
