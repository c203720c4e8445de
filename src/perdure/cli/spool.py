"""`perdure spool`: what waits on this machine for a store that is away, and what the store refused."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime

from rich.filesize import decimal
from rich.text import Text

from perdure.cli.terminal import ago, console, count, excerpt, printable, write_json
from perdure.errors import PerdureError
from perdure.middleware.persistence.ports import Waiting
from perdure.middleware.persistence.spool import Spool
from perdure.middleware.persistence.spool.spool import Quarantined
from perdure.middleware.persistence.wiring import Runtime

__all__ = ["flush_spool", "show_quarantine", "show_spool"]


def show_spool(runtime: Runtime, *, as_json: bool) -> None:
    with _spool_of(runtime) as spool:
        found = spool.status()
        damaged = [str(path) for path in spool.set_aside()]
        if as_json:
            lines = [asdict(line) | {"current": line.destination == spool.destination} for line in found]
            write_json({"destination": spool.destination, "spools": lines, "damaged": damaged})
            return
        if not any(line.turns or line.files for line in found):
            console().print("Nothing waits.")
        for line in found:
            _show(line, runtime.engine.clock.now(), current=line.destination == spool.destination)
        for path in damaged:
            _warn(f"A damaged spool is kept as {path}: `sqlite3 FILE .recover` may get turns out of it.")


def flush_spool(runtime: Runtime, *, seconds: float) -> bool:
    """Send what waits, for so long at most. Says whether all of it went."""
    with _spool_of(runtime) as spool:
        before = _waiting(spool)
        if not before:
            console().print("Nothing waits.")
            return True
        deadline = time.monotonic() + seconds
        with console().status("Sending …") if sys.stdout.isatty() else console().capture():
            spool.flush(seconds)
            while (left := _waiting(spool)) and time.monotonic() < deadline and not spool.breaker.is_open:
                time.sleep(0.2)  # another process may be sending it
                spool.flush(max(deadline - time.monotonic(), 0))
        sent = before - left
        console().print(f"{sent:,} sent.")
        if not left:
            return True
        wait = "waits" if left == 1 else "wait"
        _warn(f"{left:,} still {wait}. The store, {spool.destination}, takes nothing now: try `perdure doctor`.")
        return False


def show_quarantine(runtime: Runtime, *, retry: str | None, discard: str | None, as_json: bool) -> None:
    """
    Raises:
        PerdureError: What `retry` or `discard` names is not there.
    """
    with _spool_of(runtime) as spool:
        if retry is not None:
            done = spool.retry(None if retry == "all" else retry)
            if not done and retry != "all":
                raise _unknown(retry)
            console().print(f"{done:,} will be sent again.")
        elif discard is not None:
            if not spool.discard(discard):
                raise _unknown(discard)
            console().print(f"{printable(discard)} is gone for good.")
        elif as_json:
            write_json({"quarantine": [asdict(found) for found in spool.quarantine()]})
        else:
            found = spool.quarantine()
            if not found:
                console().print("Nothing is in quarantine.")
            for one in found:
                _show_quarantined(one, runtime.engine.clock.now())


@contextmanager
def _spool_of(runtime: Runtime) -> Iterator[Spool]:
    """
    Raises:
        PerdureError: This backend has none.
    """
    if runtime.spool is None:
        raise PerdureError(
            "The backend memory has no spool: it keeps nothing on a disk.",
            remedy="run this with the settings of the server (--config, PERDURE_CONFIG, PERDURE_BACKEND).",
        )
    try:
        yield runtime.spool
    finally:
        runtime.spool.close()
        runtime.engine.store.close()


def _show(line: Waiting, now: datetime, *, current: bool) -> None:
    waits = f"{count(line.turns, 'turn')} of {count(line.conversations, 'conversation')}"
    if line.files:
        waits += f" and {count(line.files, 'file')} ({decimal(line.file_bytes)})"
    text = Text.assemble(("Waiting for ", ""), (printable(line.destination).plain, "bold cyan"), f": {waits}")
    if line.oldest:
        text.append(f", the oldest from {ago(datetime.fromisoformat(line.oldest), now)}", style="dim")
    console().print(text, soft_wrap=True)
    if not current and (line.turns or line.files):
        console().print("  These settings name another store; with those of this one they are sent.", style="dim")
    quarantined = line.quarantined_turns + line.quarantined_files
    if quarantined:
        console().print(f"  {quarantined:,} in quarantine: see `perdure spool quarantine`.", style="yellow")


def _show_quarantined(found: Quarantined, now: datetime) -> None:
    line = Text.assemble((f"{found.kind} ", ""), (printable(found.id).plain, "bold cyan"))
    line.append(f"  {ago(datetime.fromisoformat(found.at), now)}  for {printable(found.destination)}", style="dim")
    console().print(line, soft_wrap=True)
    if found.continuation_id is not None:
        of = f"  conversation {printable(found.continuation_id)} of {printable(found.principal or '')}"
        console().print(Text(of), soft_wrap=True)
    console().print(Text.assemble(("  refused: ", "red"), printable(found.reason)), soft_wrap=True)
    if found.record:
        prompt = json.loads(found.record).get("prompt", "")
        console().print(Text.assemble("  prompt: ", excerpt(prompt)), soft_wrap=True)


def _waiting(spool: Spool) -> int:
    return sum(line.turns + line.files for line in spool.status() if line.destination == spool.destination)


def _unknown(what: str) -> PerdureError:
    return PerdureError(f"{what} is not in quarantine.", remedy="`perdure spool quarantine` lists what is.")


def _warn(line: str) -> None:
    sys.stderr.write(f"perdure: {line}\n")
