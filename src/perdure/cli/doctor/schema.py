"""Looks at a database by its own functions, over a connection or through PostgREST alike."""

import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from perdure.cli.doctor.finding import Finding, Verdict, looked
from perdure.errors import PerdureError, StoreUnavailable
from perdure.middleware.persistence.migrations.postgres_files import postgres_migrations
from perdure.middleware.persistence.stores.sql_functions import SqlFunctions, SqlFunctionStore
from perdure.middleware.persistence.turn import Answer, JsonObject, Outcome, Turn, Window, new_turn_id

__all__ = ["examined"]

_PRINCIPAL = "perdure-doctor"
_ROUNDS = 5
_MOST_SKEW = 60.0
"""Seconds between two clocks, beyond which times in listings would puzzle people."""

_SECONDS_TO_BE_KNOWN = 10.0
"""For which PostgREST may still answer as before a migration: it is told of new functions, and looks a bit later."""


def examined(functions: SqlFunctions, fix: Callable[[], str] | None) -> Iterator[Finding]:
    """`fix` brings the schema up to date, and says what it did; None where it may not."""
    reached = looked("schema", lambda: _schema(functions))
    if reached.verdict is Verdict.FAILED and fix is not None and "migrate" in reached.remedy:
        reached = looked("schema", lambda: _mended(functions, fix))
    yield reached
    if reached.verdict is Verdict.FAILED:
        return
    yield looked("row security", lambda: _row_security(functions))
    yield looked("clock", lambda: _clock(functions))
    yield looked("round trip", lambda: _round_trip(functions))
    yield looked("write and read", lambda: _written_and_read(functions))


def _status(functions: SqlFunctions) -> JsonObject:
    status = functions.call("store_status", {})
    if not isinstance(status, dict):
        raise StoreUnavailable(
            f"{functions.where} answered with something that is not perdure's.",
            remedy="look at what stands between: a proxy, a login page, a gateway of another version.",
        )
    return status


def _schema(functions: SqlFunctions) -> Finding:
    there, newest = _status(functions)["schema_version"], postgres_migrations()[-1].version
    if there == newest:
        return Finding("schema", Verdict.OK, f"Version {there} at {functions.where}, as this perdure needs it.")
    if there > newest:
        return Finding(
            "schema",
            Verdict.FAILED,
            f"Version {there}, of a newer perdure; this one knows up to {newest}.",
            "upgrade perdure on this machine.",
        )
    return Finding("schema", Verdict.FAILED, f"Version {there}; this perdure needs {newest}.", "run `perdure migrate`.")


def _mended(functions: SqlFunctions, fix: Callable[[], str]) -> Finding:
    said = fix()
    until = time.monotonic() + _SECONDS_TO_BE_KNOWN
    while True:
        found = looked("schema", lambda: _schema(functions))
        if found.verdict is Verdict.OK:
            return Finding("schema", Verdict.FIXED, f"{said} {found.what}")
        if "migrate" not in found.remedy or time.monotonic() > until:
            return found
        time.sleep(0.1)


def _row_security(functions: SqlFunctions) -> Finding:
    if _status(functions)["row_security"]:
        return Finding("row security", Verdict.OK, "On and forced on every table.")
    return Finding(
        "row security",
        Verdict.FAILED,
        "Off on a table: whoever has any key of this project may read every user's conversations.",
        "in the SQL editor: alter table chat_sessions enable row level security, force row level security; "
        "and the same for chat_messages and chat_files.",
    )


def _clock(functions: SqlFunctions) -> Finding:
    before = datetime.now(UTC)
    there = datetime.fromisoformat(str(_status(functions)["now"]))
    after = datetime.now(UTC)
    skew = (there - (before + (after - before) / 2)).total_seconds()
    if abs(skew) <= _MOST_SKEW:
        return Finding("clock", Verdict.OK, f"{abs(skew):.1f} s between this machine's clock and the database's.")
    return Finding(
        "clock",
        Verdict.WARNING,
        f"This machine's clock is {abs(skew):,.0f} s {'behind' if skew > 0 else 'ahead of'} the database's.",
        "set it right (NTP): tokens expire by it, and listings show its times.",
    )


def _round_trip(functions: SqlFunctions) -> Finding:
    taken = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        _status(functions)
        taken.append((time.perf_counter() - started) * 1000)
    median = sorted(taken)[_ROUNDS // 2]
    what = f"{median:.1f} ms, the median of {_ROUNDS}; a turn takes two."
    if median < 250:
        return Finding("round trip", Verdict.OK, what)
    return Finding("round trip", Verdict.WARNING, what, "choose a region that is nearer to this server.")


def _written_and_read(functions: SqlFunctions) -> Finding:
    """A turn of a user of its own, which is deleted again."""
    store = SqlFunctionStore(functions)
    now = datetime.now(UTC)
    name = f"doctor-{uuid.uuid4()}"
    turn = Turn(
        id=new_turn_id(now),
        principal=_PRINCIPAL,
        continuation_id=name,
        tool="doctor",
        prompt="Is this kept?",
        started_at=now,
        lease_until=now,
        digest="doctor",
        stored_form=True,
    )
    try:
        begun = store.begin(turn, Window(turns=1, tokens=1000))
        ended = turn.ended(Outcome.ANSWERED, now, Answer(text="It is: ☃"))
        store.finish(ended)
        kept = store.turns(_PRINCIPAL, name)
    finally:
        deleted = functions.call("delete_conversation", {"user_id": _PRINCIPAL, "continuation_id": name})
    if [(found.place, found.prompt, found.answer) for found in kept] != [(begun.place, turn.prompt, ended.answer)]:
        raise PerdureError("What was read is not what was written.", remedy="report this, with the database's version.")
    if not isinstance(deleted, dict) or store.turns(_PRINCIPAL, name):
        raise PerdureError("The turn that was written could not be deleted again.", remedy=f"delete {name!r} by hand.")
    return Finding("write and read", Verdict.OK, "A turn was written, read back equal, and deleted.")
