"""`perdure export` and `perdure import`: from any backend to any other."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from perdure.cli.terminal import console, count
from perdure.errors import PerdureError
from perdure.middleware.persistence.archive.exporting import export_to
from perdure.middleware.persistence.archive.importing import ArchiveClock, import_from, manifest_of
from perdure.middleware.persistence.archive.transcript import write_transcripts
from perdure.middleware.persistence.turn import JsonObject
from perdure.middleware.persistence.wiring import Runtime, build
from perdure.settings import Settings

__all__ = ["export_archive", "export_transcripts", "import_archive"]


def export_archive(runtime: Runtime, folder: Path, *, user: str | None) -> None:
    """
    Raises:
        PerdureError: The folder is not empty, or something cannot be read.
    """
    with _bar("Exporting conversations") as (bar, task), _written_to(folder):
        manifest = export_to(
            folder,
            runtime.engine.store,
            runtime.keeper.file_store,
            principal=user,
            at=runtime.engine.clock.now(),
            progress=lambda done, known: bar.update(task, completed=done, total=known),
        )
    _tell(f"{_counted(manifest)} written to {folder}")
    _say_what_is_not_in_it(runtime, manifest["missing_files"])


def export_transcripts(runtime: Runtime, folder: Path, *, user: str | None) -> None:
    """
    Raises:
        PerdureError: The folder is not empty, or something cannot be read.
    """
    with _bar("Writing conversations") as (bar, task), _written_to(folder):
        done = write_transcripts(
            folder,
            runtime.engine.store,
            runtime.keeper.file_store,
            principal=user,
            at=runtime.engine.clock.now(),
            progress=lambda written, known: bar.update(task, completed=written, total=known),
        )
    _tell(
        f"{count(done.conversations, 'conversation')} with {count(done.turns, 'turn')} and {count(done.files, 'file')}"
        f" written to {folder}: begin at {folder / 'index.md'}"
    )
    _say_what_is_not_in_it(runtime, done.missing)


def import_archive(settings: Settings, folder: Path) -> None:
    """
    Raises:
        PerdureError: It is no archive, or not whole, or the backend cannot be used.
    """
    manifest = manifest_of(folder)
    clock = ArchiveClock()
    runtime = build(settings, clock=clock)
    if settings.backend == "memory":
        raise PerdureError("The backend is memory, which forgets at once.", remedy="set PERDURE_BACKEND to another.")
    with _bar("Importing turns") as (bar, task):
        bar.update(task, total=manifest["turns"])
        done = import_from(
            folder,
            runtime.engine.store,
            runtime.keeper.file_store,
            clock,
            progress=lambda turns: bar.update(task, completed=turns),
        )
    were = "was" if done.known == 1 else "were"
    known = f", {count(done.known, 'turn')} {were} here already" if done.known else ""
    _tell(f"{count(done.turns, 'turn')} and {count(done.files, 'file')} imported into {settings.backend}{known}.")
    for turn_id in done.conflicts:
        _warn(f"The turn {turn_id} was left out: its id is here for another call.")
    for bucket in manifest["buckets"]:
        if bucket != settings.bucket:
            _warn(
                f"Results in the archive name files as storage://{bucket}/…, and the bucket here is {settings.bucket}:"
                f" those names lead nowhere. Set the bucket to {bucket}, and import again."
            )


def _say_what_is_not_in_it(runtime: Runtime, missing: Iterable[str]) -> None:
    if runtime.spool is not None and (waiting := sum(line.turns for line in runtime.spool.status())):
        wait = "waits for its store and is" if waiting == 1 else "wait for their store and are"
        _warn(f"{count(waiting, 'turn')} still {wait} not in it: `perdure spool flush`, and export again.")
    for uri in missing:
        _warn(f"The content of {uri} is not there any more: the export names it, and has no copy.")


def _counted(manifest: JsonObject) -> str:
    return (
        f"{count(manifest['conversations'], 'conversation')}, {count(manifest['turns'], 'turn')}"
        f" and {count(manifest['files'], 'file')} ({decimal(manifest['bytes'])})"
    )


@contextmanager
def _written_to(folder: Path) -> Iterator[None]:
    """
    Raises:
        PerdureError: In place of what the system says of a file in it.
    """
    try:
        yield
    except OSError as error:
        raise PerdureError(
            f"{error.filename or folder} cannot be written: {error.strerror}. The export is not whole.",
            remedy="free some space there, or name another folder.",
        ) from error


@contextmanager
def _bar(what: str) -> Iterator[tuple[Progress, TaskID]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(), transient=True, disable=not sys.stdout.isatty()) as bar:
        yield bar, bar.add_task(what, total=None)


def _tell(line: str) -> None:
    console().print(Text(line), soft_wrap=True)


def _warn(line: str) -> None:
    sys.stderr.write(f"perdure: {line}\n")
