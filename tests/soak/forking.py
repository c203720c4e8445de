"""Processes that start at once: one that has imported everything, and runs nothing, forks one after the other."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any

__all__ = ["Process", "started"]

Process = ForkServerProcess

_forking = multiprocessing.get_context("forkserver")
_forking.set_forkserver_preload(
    [
        "mcp.server.mcpserver",
        "uvicorn",
        "perdure",
        "perdure.middleware.persisted_call",
        "perdure.middleware.persistence.migrations.postgres",
        "perdure.middleware.persistence.stores.postgres",
    ]
)


def started(target: Callable[..., object], *arguments: Any) -> Process:
    """It ends with this process at the latest."""
    process = _forking.Process(target=_run, args=(target, arguments), daemon=True)
    process.start()
    return process


def _run(target: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    target(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
