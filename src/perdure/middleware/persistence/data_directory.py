"""Looks at where the data directory lies, and says why what is kept there may not last."""

import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["Doubt", "doubts_about"]

_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_OF_A_CONTAINER = frozenset({"overlay", "aufs", "fuse.fuse-overlayfs"})
_OVER_A_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs", "fuse.glusterfs"}
)

_ESCAPED = r"\\([0-7]{3})"

_VOLUME = "put a volume there, or set PERDURE_DATA_DIR to a directory on one."


class Doubt(NamedTuple):
    what: str
    remedy: str


def doubts_about(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> list[Doubt]:
    """Why `folder` is no good place, if it is none; nothing where the system does not tell its mounts."""
    kind = _file_system(folder, mounts)
    if kind in _IN_MEMORY:
        return [
            Doubt(f"The data directory {folder} is in memory ({kind}): it is gone when the machine stops.", _VOLUME)
        ]
    if kind in _OF_A_CONTAINER:
        return [
            Doubt(f"The data directory {folder} is on a container's own layer ({kind}), and goes with it.", _VOLUME)
        ]
    if kind in _OVER_A_NETWORK:
        return [
            Doubt(
                f"The data directory {folder} is on a network file system ({kind}), where SQLite's locks do not hold.",
                "set PERDURE_DATA_DIR to a local disk; several machines share their history through Postgres.",
            )
        ]
    return []


def _file_system(folder: Path, mounts: Path) -> str | None:
    """The type of the file system that `folder` is on, or will be when it is made. As proc(5) describes mountinfo."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        place = folder.resolve()
    except OSError:
        return None
    found: tuple[int, str] | None = None
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ", 1)[0]
        if len(fields) < 5:
            continue
        point = Path(re.sub(_ESCAPED, lambda octal: chr(int(octal[1], 8)), fields[4]))
        # The last one mounted over a place is the one that is seen.
        if place.is_relative_to(point) and (found is None or len(point.parts) >= found[0]):
            found = len(point.parts), kind
    return found[1] if found else None
