"""What perdure adds before the first call: a stdio server is started anew for every session."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypedDict

from benchmarks.harness import ALARM, Candidate, Comparison, Goal, Result, interleaved

__all__ = ["run"]

_ONLY_WHEN_USED = ("supabase", "psycopg", "typer", "rich")
"""What `import perdure` must not import by itself."""

_SDK = "import mcp"
_SERVER = "import mcp.server.mcpserver"
_PERDURE = "import perdure"

_FIRST_CALL = """
import anyio
from mcp import Client
from mcp.server.mcpserver import MCPServer
{decorate}
server = MCPServer("benchmark", log_level="ERROR")

@server.tool()
@decorate
async def chat(prompt: str) -> str:
    "Answers at once."
    return prompt

async def call_once():
    async with Client(server) as client:
        result = await client.call_tool("chat", {{"prompt": "Hello"}})
        assert not result.is_error and (result.meta or {{}}).get("perdure/persisted", False) is {persisted}, result

anyio.run(call_once)
"""

_CHILD = """
import sys, time
before, reached = set(sys.modules), [time.perf_counter()]
{stages}
import json
seconds = [later - earlier for earlier, later in zip(reached, reached[1:])]
print(json.dumps({{"seconds": seconds, "modules": sorted(set(sys.modules) - before)}}))
"""

_REACHED = "\nreached.append(time.perf_counter())\n"


class _Found(TypedDict):
    seconds: list[float]
    """Of each stage by itself."""
    modules: list[str]


def run(rounds: int, folder: Path) -> list[Result]:
    bare_call = _FIRST_CALL.format(decorate="decorate = lambda handler: handler", persisted=False)
    kept_call = _FIRST_CALL.format(decorate="from perdure import persisted as decorate", persisted=True)
    comparison = Comparison(
        name="startup",
        title="Time in a new process, after Python itself has started",
        unit="ms",
        candidates=[
            *_one_after_the_other(_SDK, _PERDURE, folder, goal=Goal(quantity="added", limit=60)),
            *_one_after_the_other(_SERVER, _PERDURE, folder),
            Candidate(name="to the first answer, bare", measure=_process(bare_call, folder)),
            Candidate(
                name="to the first answer, @persisted, SQLite",
                measure=_process(kept_call, folder),
                floor="to the first answer, bare",
            ),
        ],
    )
    return [replace(interleaved(comparison, rounds), notes=_notes_on_modules(folder))]


def _one_after_the_other(floor: str, then: str, folder: Path, goal: Goal | None = None) -> list[Candidate]:
    """Both in the same process, so that what is added is no difference between two processes.

    Each takes half a second, and one may find the machine busier than the other by more than `then` takes.
    """
    figures: dict[str, float] = {}
    whole = f"{floor}; {then}"

    def measure(name: str) -> float:
        if name not in figures:
            first, second = _found(folder, floor, then)["seconds"]
            figures[floor], figures[whole] = first * 1000, (first + second) * 1000
        return figures.pop(name)

    return [
        Candidate(name=floor, measure=partial(measure, floor)),
        Candidate(name=whole, measure=partial(measure, whole), floor=floor, goal=goal),
    ]


def _process(code: str, folder: Path) -> Callable[[], float]:
    """The time that `code` takes in a new process, in milliseconds."""
    return lambda: _found(folder, code)["seconds"][0] * 1000


def _found(folder: Path, *stages: str) -> _Found:
    done = subprocess.run(
        # Isolated: no file of the working directory and no variable of Python's own plays a part.
        [sys.executable, "-I", "-c", _CHILD.format(stages="".join(stage + _REACHED for stage in stages))],
        env={**os.environ, "PERDURE_DATA_DIR": str(folder / "data"), "HOME": str(folder)},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found: _Found = json.loads(done.stdout.splitlines()[-1])
    return found


def _notes_on_modules(folder: Path) -> list[str]:
    sdk = set(_found(folder, _SDK)["modules"])
    both = set(_found(folder, _SDK, _PERDURE)["modules"])
    added = both - sdk
    notes = [f"import perdure adds {len(added)} modules to the {len(sdk)} of import mcp."]
    for name in _ONLY_WHEN_USED:
        if name in added:
            notes.append(f"{ALARM} import perdure imports {name}, which must wait until it is used.")
        elif name in sdk:
            notes.append(f"{name} is imported by mcp itself.")
    if not added & set(_ONLY_WHEN_USED):
        notes.append(f"Not imported by perdure, as it must be: {', '.join(_ONLY_WHEN_USED)}.")
    return notes
