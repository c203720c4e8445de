"""`perdure conversations fork`: a conversation that goes on from a turn of another."""

from rich.text import Text

from perdure.cli.conversations import the_one
from perdure.cli.terminal import console, count, printable, write_json
from perdure.errors import PerdureError
from perdure.middleware.call_reader import is_usable_id
from perdure.middleware.persistence.engine import Engine
from perdure.middleware.persistence.turn import new_continuation_id

__all__ = ["fork_conversation"]


def fork_conversation(
    engine: Engine, continuation_id: str, *, at: int | None, new_id: str | None, user: str | None, as_json: bool
) -> None:
    """
    Raises:
        PerdureError: There is no such conversation or turn, or the new id is taken or none that a client may send.
    """
    if new_id is not None and not is_usable_id(new_id):
        raise PerdureError(
            f"{new_id!r} cannot be a conversation's id.", remedy="take 1 to 200 characters, and no control characters."
        )
    line = the_one(engine, continuation_id, user)
    made = engine.store.fork(
        line.principal,
        line.continuation_id,
        line.turns if at is None else at,
        new_id or new_continuation_id(),
        minted=new_id is None,
    )
    if as_json:
        write_json({"continuation_id": made.continuation_id, "user": made.principal, "turns": made.turns})
        return
    text = Text.assemble((printable(made.continuation_id).plain, "bold cyan"))
    text.append(f" goes on from {count(made.turns, 'turn')} of {printable(line.continuation_id)}.")
    console().print(text, soft_wrap=True)
