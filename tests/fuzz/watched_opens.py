"""Watches every opening of a file in this process, so that a test can prove what was not opened."""

# Paths are strings here, as the events tell them.

import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["WatchedOpens"]


class WatchedOpens:
    """Notes what is opened outside of `allowed`, from now until the process ends: an audit hook stays for good.

    The event tells a path and flags, but not the directory that a relative path starts from. So each directory that
    this process has open is taken to be that one: what could lie outside counts as outside.
    """

    def __init__(self, allowed: Iterable[str | Path]) -> None:
        self.allowed = tuple(os.path.realpath(folder) for folder in allowed)
        self.outside: list[str] = []
        self.seen = 0
        self._looking = threading.local()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if event != "open" or getattr(self._looking, "now", False) or isinstance(args[0], int):
            return
        self._looking.now = True
        try:
            self.seen += 1
            path, _, flags = args
            self.outside += [found for found in self._meant(os.fsdecode(path), flags) if not self._is_allowed(found)]
        except Exception as error:  # a hook that raises would hinder the opening, and hide it
            self.outside.append(f"{args!r}: {error!r}")
        finally:
            self._looking.now = False

    def _meant(self, path: str, flags: int) -> list[str]:
        starts = [os.getcwd(), *_open_directories()] if not path.startswith("/") else [""]
        found = []
        for start in starts:
            folder, name = os.path.split(os.path.join(start, path))
            folder = os.path.realpath(folder)
            whole = os.path.join(folder, name)
            found.append(whole if flags & os.O_NOFOLLOW else os.path.realpath(whole))
        return found

    def _is_allowed(self, path: str) -> bool:
        return any(path == folder or path.startswith(folder + "/") for folder in self.allowed)


def _open_directories() -> list[str]:
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue  # The one that was open to list them.
        if target.startswith("/") and os.path.isdir(target):
            found.append(target)
    return found
