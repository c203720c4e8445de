"""Tools that do things: fail, wait, report progress, work on files. They speak to the test through files alone, so that
they may run in another process."""

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seams.worlds.world import Kit, Tool

__all__ = ["acting", "filing", "waiting"]


def acting(kit: Kit) -> Sequence[Tool]:
    async def crash(prompt: str) -> str:
        raise RuntimeError("the secret of " + prompt)

    def crash_plainly(prompt: str) -> str:
        raise RuntimeError("the secret of " + prompt)

    async def refuse(prompt: str) -> str:
        raise kit.tool_error("not " + prompt)

    async def fail(prompt: str) -> kit.CallToolResult:  # type: ignore[name-defined]
        return kit.result({"content": [{"type": "text", "text": "not " + prompt}], "isError": True})

    async def pay(prompt: str) -> str:
        raise kit.protocol_error(-32042, "pay first")

    async def counts() -> dict[str, int]:
        return {"a": "many"}  # type: ignore[dict-item]

    async def meta(ctx: kit.Context) -> dict[str, Any]:  # type: ignore[name-defined]
        return {"own/key": kit.meta_of(ctx).get("own/key")}

    async def work(ctx: kit.Context, prompt: str = "") -> str:  # type: ignore[name-defined]
        for step in (1, 2, 3):
            await kit.report_progress(ctx, step, f"step {step}")
        return "done"

    return [crash, crash_plainly, refuse, fail, pay, counts, meta, work]


def waiting(_: Kit) -> Sequence[Tool]:
    async def wait(marker: str) -> str:
        """Marks that it has begun, and waits until it is cancelled, or allowed to end."""
        begun, go_on, cancelled = (Path(f"{marker}.{what}") for what in ("begun", "go-on", "cancelled"))
        begun.touch()
        try:
            for _ in range(3000):
                if go_on.exists():
                    return "went on"
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            cancelled.touch()
            raise
        return "nobody came"

    async def slowly(prompt: str, seconds: float = 0.02) -> str:
        await asyncio.sleep(seconds)
        return f"<{prompt}>"

    def slowly_plainly(prompt: str, seconds: float = 0.02) -> str:
        time.sleep(seconds)
        return f"<{prompt}>"

    return [wait, slowly, slowly_plainly]


def filing(kit: Kit) -> Sequence[Tool]:
    async def write(text: str, folder: str) -> str:
        """Writes a file, and answers with its path."""
        return _written(text, folder)

    def write_plainly(text: str, folder: str) -> str:
        return _written(text, folder)

    async def write_structured(text: str, folder: str) -> dict[str, str]:
        return {"file": _written(text, folder)}

    async def write_as_link(text: str, folder: str):  # type: ignore[no-untyped-def]
        path = Path(_written(text, folder))
        return kit.block({"type": "resource_link", "uri": path.as_uri(), "name": path.name})

    async def read(path: str) -> str:
        """Answers with what stands in a local file."""
        return Path(path).read_text()

    def read_plainly(path: str) -> str:
        return Path(path).read_text()

    return [write, write_plainly, write_structured, write_as_link, read, read_plainly]


def _written(text: str, folder: str) -> str:
    handle, path = tempfile.mkstemp(suffix=".txt", dir=folder)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    return path
