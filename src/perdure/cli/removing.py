"""`perdure purge` and `perdure conversations delete`: what is gone for good, and what is not."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.text import Text

from perdure.cli.conversations import the_one
from perdure.cli.terminal import console, count, write_json
from perdure.errors import PerdureError
from perdure.middleware.persistence.retention import LetGo, delete_conversation, forget_user, purge_expired
from perdure.middleware.persistence.wiring import Runtime

__all__ = ["delete", "forget", "purge"]


def purge(runtime: Runtime, *, dry_run: bool, at_most: int | None, as_json: bool) -> bool:
    """Remove what has expired. Says whether all of it could be.

    Raises:
        StoreUnavailable: The store is away.
    """
    with _said_meanwhile("Purging …") as progress:
        done = purge_expired(
            runtime.engine.store,
            runtime.keeper.file_store,
            runtime.spool,
            dry_run=dry_run,
            at_most=at_most,
            progress=progress,
        )
    return _tell(done, "would be purged" if dry_run else "purged", as_json=as_json)


def delete(runtime: Runtime, continuation_id: str, *, user: str | None, yes: bool, as_json: bool) -> bool:
    """Delete one conversation. Says whether its files are gone, too.

    Raises:
        PerdureError: There is no such conversation, several users have one, or nobody confirmed it.
    """
    line = the_one(runtime.engine, continuation_id, user)
    _confirm(f"Delete {line.continuation_id} of {line.principal} ({count(line.turns, 'turn')}) for good?", yes=yes)
    done = delete_conversation(
        runtime.engine.store, runtime.keeper.file_store, runtime.spool, line.principal, line.continuation_id
    )
    return _tell(done, "deleted", as_json=as_json)


def forget(runtime: Runtime, user: str, *, yes: bool, as_json: bool) -> bool:
    """Delete all that a user has. Says whether nothing is left.

    Raises:
        PerdureError: The user has nothing here, or nobody confirmed it.
    """
    kept = runtime.engine.store.statistics(user)
    waits = runtime.spool.waiting(user) if runtime.spool is not None else 0
    if not kept.conversations + kept.expired + waits:
        raise PerdureError(f"The user {user!r} has nothing here.", remedy="`perdure conversations list` names users.")
    _confirm(
        f"Delete all of {user} ({count(kept.conversations + kept.expired, 'conversation')},"
        f" {count(kept.files, 'file')}) for good?",
        yes=yes,
    )
    with _said_meanwhile("Deleting …") as progress:
        done = forget_user(runtime.engine.store, runtime.keeper.file_store, runtime.spool, user, progress=progress)
    return _tell(done, "deleted", as_json=as_json)


def _confirm(question: str, *, yes: bool) -> None:
    """
    Raises:
        PerdureError: Nobody can be asked.
        typer.Abort: The answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise PerdureError("Nothing was deleted: nobody can be asked here.", remedy="say --yes.")
    typer.confirm(Text(question).plain, abort=True, err=True)


@contextmanager
def _said_meanwhile(what: str) -> Iterator[Callable[[LetGo], None]]:
    """A line in a terminal that goes on while the work does."""
    if not sys.stdout.isatty():
        yield lambda done: None
        return
    with console().status(what) as status:
        yield lambda done: status.update(f"{what} {count(done.conversations, 'conversation')}")


def _tell(done: LetGo, verb: str, *, as_json: bool) -> bool:
    if as_json:
        write_json(
            {
                "conversations": done.conversations,
                "turns": done.turns,
                "files": done.files,
                "waiting_turns": done.waiting,
                "files_in_use": [name.key for name in done.in_use],
                "files_elsewhere": [f"{name.bucket}/{name.key}" for name in done.elsewhere],
                "files_failed": {name.key: why for name, why in done.failed.items()},
            }
        )
        return not done.failed
    line = (
        f"{count(done.conversations, 'conversation')} with {count(done.turns, 'turn')} and {count(done.files, 'file')}"
    )
    console().print(Text(f"{line} {verb}." if done.conversations else f"Nothing {verb}."), soft_wrap=True)
    if done.waiting:
        console().print(f"{count(done.waiting, 'turn')} that waited in the spool {verb}, too.")
    if done.in_use:
        _warn(f"{count(len(done.in_use), 'file')} stay: they were given out within the last 15 minutes, or wait.")
    if done.elsewhere:
        buckets = ", ".join(sorted({name.bucket for name in done.elsewhere}))
        _warn(f"{count(len(done.elsewhere), 'file')} stay: they are in the bucket {buckets}, which is not this one's.")
    for name, why in done.failed.items():
        _warn(f"{name.key} stays: {why}")
    return not done.failed


def _warn(line: str) -> None:
    sys.stderr.write(f"perdure: {line}\n")
