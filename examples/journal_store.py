"""A store of one's own: a journal with a line of JSON for each change, read again at the start.

    backend = "journal_store:open_store"      # in perdure.toml, with this file on the server's PYTHONPATH

A line is written before its change is made, and is on the disk before anything finished is acknowledged; one that a
crash cut short was never acknowledged, and the next start takes it off. Not for much (all is in memory as well, and the
journal only grows), nor for several processes (a second one keeps nothing, and says so in each result)."""

import fcntl
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from threading import RLock
from typing import Any

from perdure.stores import (
    BegunTurn,
    Clock,
    ConversationSummary,
    FinishedTurn,
    MemoryStore,
    Removed,
    StoreError,
    StoreUnavailable,
    Turn,
    Window,
    read_turn,
    write_turn,
)


def open_store(clock: Clock, folder: Path) -> "JournalStore":
    return JournalStore(folder / "journal.jsonl", clock)


class JournalStore(MemoryStore):
    blocking = True

    def __init__(self, path: Path, clock: Clock) -> None:
        self._time = _Time(clock)
        super().__init__(self._time)
        self._change, self._journal = RLock(), _Journal(path)
        for at, what, how, options in self._journal.lines():  # what was refused then is refused again
            with self._time.standing_still(datetime.fromisoformat(at)), suppress(StoreError):
                self._made_again(what, how, options)

    def begin(self, turn: Turn, window: Window) -> BegunTurn:
        # An intent has to outlive the process, not the power.
        with self._noted("begin", write_turn(turn), window.last_place, synced=False):
            return super().begin(turn, window)

    def finish(self, turn: Turn) -> FinishedTurn:
        with self._noted("finish", write_turn(turn)):
            return super().finish(turn)

    def renew(self, turns: Mapping[str, Collection[str]], lease_until: datetime) -> None:
        ids = {principal: list(some) for principal, some in turns.items()}
        with self._noted("renew", ids, lease_until.isoformat(), synced=False):
            super().renew(turns, lease_until)

    def fork(self, principal: str, of: str, place: int, new_id: str, *, minted: bool = False) -> ConversationSummary:
        with self._noted("fork", principal, of, place, new_id, minted=minted):
            return super().fork(principal, of, place, new_id, minted=minted)

    def delete(self, principal: str, continuation_id: str) -> Removed:
        with self._noted("delete", principal, continuation_id):
            return super().delete(principal, continuation_id)

    def purge(self, *, limit: int = 100, dry_run: bool = False) -> Removed:
        with self._noted("purge", limit=limit, dry_run=dry_run):
            return super().purge(limit=limit, dry_run=dry_run)

    def forget(self, principal: str, *, limit: int = 100) -> Removed:
        with self._noted("forget", principal, limit=limit):
            return super().forget(principal, limit=limit)

    def close(self) -> None:
        self._journal.close()

    @contextmanager
    def _noted(self, what: str, *how: Any, synced: bool = True, **options: Any) -> Iterator[None]:
        """Around a change: its line comes first, and both have the same time."""
        with self._change, self._time.standing_still(self._time.now()):
            self._journal.append([self._time.now().isoformat(), what, how, options], synced=synced)
            yield

    def _made_again(self, what: str, how: list[Any], options: dict[str, Any]) -> None:
        match what, how:
            case "begin", (turn, last_place):
                super().begin(read_turn(turn), Window(0, 0, last_place))
            case "finish", (turn,):
                super().finish(read_turn(turn))
            case "renew", (ids, lease_until):
                super().renew(ids, datetime.fromisoformat(lease_until))
            case _:
                getattr(super(), what)(*how, **options)


class _Journal:
    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path, self._file = path, os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreUnavailable(f"Another process has {path}.", remedy="end it first.") from error
        os.sync()  # the file's name has to be on the disk as well

    def lines(self) -> Iterator[list[Any]]:
        self._file.seek(0)
        for line in self._file:
            if not line.endswith(b"\n"):
                self._file.truncate(self._file.tell() - len(line))  # cut short by a crash
                return
            yield json.loads(line)

    def append(self, line: list[Any], *, synced: bool) -> None:
        try:
            self._file.write(json.dumps(line).encode("ascii") + b"\n")
            self._file.flush()
            if synced:
                os.fsync(self._file.fileno())
        except (OSError, ValueError) as error:
            self.close()  # What is in the file now is not known: nothing more is written until it is read again.
            raise StoreUnavailable(f"{self._path} cannot be written: {error}.", remedy="start again.") from error

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()


class _Time:  # stands still while a change is made, and at that change's own time when it is made again
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._still: datetime | None = None

    def now(self) -> datetime:
        return self._still or self._clock.now()

    @contextmanager
    def standing_still(self, at: datetime) -> Iterator[None]:
        self._still = at
        try:
            yield
        finally:
            self._still = None
