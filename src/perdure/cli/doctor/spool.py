"""The spool: what waits on this machine, what was refused, and what was found damaged."""

from collections.abc import Iterator
from contextlib import closing

from perdure.cli.doctor.finding import Finding, Verdict, looked
from perdure.errors import PerdureError
from perdure.middleware.persistence.spool import Spool
from perdure.middleware.persistence.wiring import build
from perdure.settings import Settings

__all__ = ["examined"]


def examined(settings: Settings) -> Iterator[Finding]:
    try:
        built = build(settings)
    except PerdureError:
        return  # Why there are no stores is another line's to say.
    with closing(built.engine.store):
        if (spool := built.spool) is not None:
            with closing(spool):
                yield looked("spool", lambda: _look(spool))


def _look(spool: Spool) -> Finding:
    lines, damaged = spool.status(), spool.set_aside()
    waiting = sum(line.turns + line.files for line in lines)
    quarantined = sum(line.quarantined_turns + line.quarantined_files for line in lines)
    if damaged:
        return Finding(
            "spool",
            Verdict.WARNING,
            f"Damaged files are kept in {spool.folder}: {len(damaged):,}.",
            "`sqlite3 FILE .recover` may get turns out of them; then remove them.",
        )
    if quarantined:
        what = f"The store has refused turns and files: {quarantined:,}."
        return Finding("spool", Verdict.WARNING, what, "see `perdure spool quarantine`.")
    if waiting:
        return Finding(
            "spool", Verdict.WARNING, f"Turns and files that wait: {waiting:,}.", "see `perdure spool status`."
        )
    return Finding("spool", Verdict.OK, "Nothing waits.")
