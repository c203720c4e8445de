"""Makes folders of ours so that their names outlive a power loss, as the content in them does."""

import os
from pathlib import Path

__all__ = ["make_durably", "sync_folder"]


def make_durably(folder: Path) -> None:
    """Make `folder`, and those above it that are missing, for this user alone. Nothing is synced if it is there.

    Raises:
        OSError: It cannot be made.
    """
    missing = []
    at = folder
    while not at.is_dir():
        missing.append(at)
        at = at.parent
    for made in reversed(missing):
        made.mkdir(mode=0o700, exist_ok=True)
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
