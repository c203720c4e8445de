"""`perdure files`: what tools gave out, and how to get it back."""

import os
import sys
from pathlib import Path

from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.text import Text

from perdure.cli.terminal import ago, console, printable, write_json
from perdure.errors import PerdureError
from perdure.middleware.persistence.turn import JsonObject, StoredFile
from perdure.middleware.persistence.wiring import Runtime

__all__ = ["get_file", "list_files"]


def list_files(
    runtime: Runtime, *, user: str | None, conversation: str | None, name: str | None, limit: int, as_json: bool
) -> None:
    found = runtime.engine.files(_whose(runtime, user), conversation, name, limit=limit)
    if as_json:
        write_json({"files": [_as_json(file) for file in found]})
        return
    if not found:
        console().print("No files." if name is None else Text(f"No file {printable(name)}."))
        return
    now = runtime.engine.clock.now()
    for file in found:
        line = Text.assemble((printable(file.name).plain, "bold cyan"), f"  version {file.version}  ")
        line.append(f"{decimal(file.size)}  {printable(file.media_type)}  ")
        line.append(ago(file.created_at, now) if file.created_at else "")
        line.append(f"  in {printable(file.continuation_id)}", style="dim")
        console().print(line, soft_wrap=True)
        console().print(Text(f"  {file.uri}\n"), soft_wrap=True)  # in one piece, to be copied


def get_file(runtime: Runtime, uri: str, output: Path, *, user: str | None) -> None:
    """Write what `uri` names to `output`, checked by its hash; with a bar in a terminal if it is large.

    Raises:
        PerdureError: There is no such file, or `output` cannot be written.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console(), transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("Getting the file", total=None)
        try:
            descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError as error:
            raise PerdureError(
                f"{output} cannot be written: {error.strerror}.", remedy="name a file that is not there yet."
            ) from error
        try:
            with os.fdopen(descriptor, "wb") as out:
                stored = runtime.keeper.copy_to(
                    out,
                    _whose(runtime, user),
                    uri,
                    progress=lambda done, size: bar.update(task, completed=done, total=size),
                )
        except BaseException:
            output.unlink(missing_ok=True)
            raise
    console().print(Text(f"{printable(stored.name)}: {decimal(stored.size)} written to {output}"), soft_wrap=True)


def _whose(runtime: Runtime, user: str | None) -> str:
    return user or runtime.settings.user_id or "local"


def _as_json(file: StoredFile) -> JsonObject:
    return {
        "uri": file.uri,
        "name": file.name,
        "version": file.version,
        "size": file.size,
        "media_type": file.media_type,
        "sha256": file.sha256,
        "continuation_id": file.continuation_id,
        "turn_id": file.turn_id,
        "created_at": file.created_at.isoformat() if file.created_at else None,
    }
