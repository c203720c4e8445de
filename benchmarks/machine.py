"""Where the figures come from: without it no absolute figure means anything."""

import os
import platform
import sqlite3
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

__all__ = ["Machine", "folder_on_disk"]

_NOT_ON_DISK = frozenset({"tmpfs", "ramfs", "devtmpfs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    cores: int
    """That this process may use."""
    load: float
    """Processes that wanted a core during the last minute, before the run began."""
    memory_gib: float
    system: str
    python: str
    sqlite: str
    perdure: str
    mcp: str
    file_system: str
    """Of the folder that the databases stand in."""
    date: str
    """UTC, ISO 8601."""

    @classmethod
    def here(cls, folder: Path) -> "Machine":
        return cls(
            cores=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
            load=round(os.getloadavg()[0], 2) if sys.platform != "win32" else 0.0,
            memory_gib=round(_memory_bytes() / 2**30, 1),
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
            python=platform.python_version(),
            sqlite=sqlite3.sqlite_version,
            perdure=version("perdure"),
            mcp=version("mcp"),
            file_system=_file_system(folder),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def __str__(self) -> str:
        return (
            f"{self.cores} cores (load {self.load:.1f}), {self.memory_gib:g} GiB, {self.system}\n"
            f"{self.date}, Python {self.python}, SQLite {self.sqlite} on {self.file_system}, mcp {self.mcp}, "
            f"perdure {self.perdure}"
        )


def folder_on_disk() -> Path:
    """Where temporary files stand on a real disk: in memory, `fsync` costs nothing.

    Raises:
        OSError: Every usual place is in memory.
    """
    places = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path.cwd()]
    for place in places:
        if place.is_dir() and os.access(place, os.W_OK) and _file_system(place) not in _NOT_ON_DISK:
            return place
    raise OSError(f"None of {', '.join(map(str, places))} is on a disk. Remedy: set TMPDIR to a folder that is.")


def _file_system(folder: Path) -> str:
    """Its kind, such as "ext4"; "unknown" outside of Linux."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "unknown"
    kind, longest = "unknown", -1
    for line in mounts.read_text(encoding="utf-8").splitlines():
        _, point, found, *_ = line.split()
        if folder.resolve().is_relative_to(point) and len(point) >= longest:
            kind, longest = found, len(point)
    return kind


def _memory_bytes() -> int:
    if sys.platform == "win32":
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
