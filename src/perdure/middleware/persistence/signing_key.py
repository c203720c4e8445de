"""The key that signs what travels through a client: the operator's, else one in the data directory, made once."""

import os
import secrets
import tempfile
from pathlib import Path

from perdure.middleware.persistence.durable_folder import make_durably

__all__ = ["key_in"]

_BYTES = 32


def key_in(folder: Path) -> bytes:
    """The key of all processes that share this data directory: readable by their user alone.

    Raises:
        OSError: The directory cannot be written, or the key not be read.
    """
    file = folder / "request-state.key"
    try:
        return _read(file)
    except FileNotFoundError:
        make_durably(folder)
        _make(file)
        return _read(file)


def _read(file: Path) -> bytes:
    key = file.read_bytes()
    if len(key) < _BYTES:
        raise OSError(f"{file} holds no key; remove it, and a new one is made")
    return key


def _make(file: Path) -> None:
    """Whole or not at all, and by one process only: the others find it there."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=".request-state-")  # 0600
    try:
        with os.fdopen(descriptor, "wb") as made:
            made.write(secrets.token_bytes(_BYTES))
            made.flush()
            os.fsync(made.fileno())
        try:
            os.link(name, file)
        except FileExistsError:
            return
    finally:
        os.unlink(name)  # noqa: PTH108 - a string, and stays one
