"""A page followed to the letter, from its first block to its last, in an empty directory.

Files that the page names are written, commands are typed into one shell and what is seen is compared, Python is run,
settings are read by perdure's own loader, SQL goes to the page's database, and configurations of clients start.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from documentation.blocks import Block, blocks
from documentation.console import Typed, run, typed
from mcp import Client, StdioServerParameters

from perdure.settings_loader import load_settings

__all__ = ["Stage", "follow"]


@dataclass(frozen=True)
class Stage:
    """What stands around a page while it is followed."""

    home: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    replaced: Mapping[str, str] = field(default_factory=dict)
    """What the page writes for something that every reader has of their own, and what it is here."""
    database_url: str = ""
    programs: Path = Path(sys.executable).parent
    """Where `python` and `perdure` are."""

    @property
    def folder(self) -> Path:
        """Where the reader is."""
        return self.home / "work"

    def variables(self) -> dict[str, str]:
        ours = ("PERDURE_", "SUPABASE_", "XDG_", "PG")
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "TMPDIR": str(self.home / "temp"),
            "COLUMNS": "80",
            **self.environment,
        }

    def as_here(self, text: str) -> str:
        for written, here in self.replaced.items():
            text = text.replace(written, here)
        return text


def follow(page: Path, stage: Stage) -> int:
    """How many blocks were run.

    Raises:
        AssertionError: One does not do what the page says.
    """
    stage.folder.mkdir(parents=True, exist_ok=True)
    (stage.home / "temp").mkdir(exist_ok=True)
    wanted = [block for block in blocks(page) if not block.not_run]
    session = _Session(stage, wanted)
    for ran in run(session.commands(), folder=stage.folder, environment=stage.variables()):
        assert ran.is_as_written, (
            f"{session.at}\n$ {ran.typed.command}\n{os.linesep.join(ran.output)}\n(exit code {ran.code}) where the page"
            f" shows:\n{os.linesep.join(ran.typed.seen)}"
        )
    return len(wanted)


class _Session:
    def __init__(self, stage: Stage, wanted: list[Block]) -> None:
        self._stage = stage
        self._wanted = wanted
        self._typed = "".join(block.text for block in wanted if block.language in ("console", "json"))
        self._folder = stage.folder
        self.at: Block | None = None

    def commands(self) -> Iterator[Typed]:
        """What is to be typed; what stands between is done when the shell has come to it."""
        for block in self._wanted:
            self.at = block
            text = self._stage.as_here(block.text)
            match block.language:
                case "console":
                    yield from self._noting_the_folder(text)
                case "python" if block.file:
                    self._save(text)
                    if block.file not in self._typed:
                        self._python("import runpy, sys; runpy.run_path(sys.argv[1], run_name='read')", block.file)
                case "python":
                    self._python(text)
                case "toml":
                    self._settings(text)
                case "json":
                    self._json(text)
                case "sql":
                    self._sql(text)
                case other:
                    raise AssertionError(f"{block}: nothing is known of how to run {other!r}; say why it is not run")

    def _noting_the_folder(self, text: str) -> Iterator[Typed]:
        found = list(typed(text))
        assert found, f"{self.at}: what is to be typed begins with '$ '"
        for one in found:
            yield one
            if one.command.startswith("cd "):
                self._folder = self._folder / one.command.removeprefix("cd ")

    def _save(self, text: str) -> Path:
        assert self.at is not None
        file = self._folder / self.at.file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def _python(self, *arguments: str) -> None:
        self._run([sys.executable, "-c", *arguments])

    def _settings(self, text: str) -> None:
        assert self.at is not None
        file = self._save(text) if self.at.file else self._stage.home / "shown.toml"
        file.write_text(text)
        load_settings(file)

    def _sql(self, text: str) -> None:
        import psycopg

        with psycopg.connect(self._stage.database_url, autocommit=True) as database:
            database.execute(text)  # type: ignore[call-overload]  # the page's own

    def _json(self, text: str) -> None:
        for server in json.loads(text).get("mcpServers", {}).values():
            started = StdioServerParameters(
                command=server["command"],
                args=server["args"],
                cwd=self._folder,
                env={**self._stage.variables(), **server.get("env", {})},
            )
            assert anyio.run(_tools_of, started), f"{self.at}: the server has no tools"

    def _run(self, command: list[str]) -> None:
        ended = subprocess.run(
            command,
            cwd=self._folder,
            env=self._stage.variables(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, f"{self.at}\n{ended.stdout}\n{ended.stderr}"


async def _tools_of(started: StdioServerParameters) -> list[str]:
    async with Client(started) as client:
        return [tool.name for tool in (await client.list_tools()).tools]
