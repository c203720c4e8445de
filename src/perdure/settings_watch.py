"""Notices that the settings file is another one, without a thread: whoever is about to use the settings asks.

Asking costs one look at the clock, and once a second a look at the file's status. The environment is read as it was
when the process began: nobody can change it from outside.
"""

import time
from pathlib import Path
from typing import TypeAlias

from perdure.settings_loader import settings_file, usual_settings_file

__all__ = ["SettingsWatch"]

_EVERY = 1.0
"""Seconds between two looks at the file."""

_AT_REST = 0.1
"""Seconds for which a file must not have been written to. Some editors empty a file first and write it then; an empty
one would switch on, for a moment, what an operator has switched off."""

_State: TypeAlias = tuple[Path, tuple[int, ...] | None]
"""Which file, and by what another content is recognised; None where there is no file."""


class SettingsWatch:
    """From now on: to be made before the settings are read, or a change in between would be missed."""

    def __init__(self) -> None:
        self._seen = _state()
        self._due = time.monotonic() + _EVERY

    def is_due(self) -> bool:
        return time.monotonic() >= self._due

    def has_changed(self) -> bool:
        """Whether the file is another than when this was asked last: changed, replaced, removed or made."""
        state = _state()
        if state != self._seen and state is not None and not _is_at_rest(state[0]):
            self._due = time.monotonic() + _AT_REST
            return False
        self._due = time.monotonic() + _EVERY
        if state == self._seen:
            return False
        self._seen = state
        return True


def _state() -> "_State | None":
    # Whatever fails here fails again for whoever reads the file, who says so. A call may not fail of it.
    try:
        file = settings_file() or usual_settings_file()
    except Exception:  # noqa: BLE001
        return None  # Its name cannot be read, and will not change.
    try:
        status = file.stat()
    except Exception:  # noqa: BLE001
        return file, None
    return file, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode)


def _is_at_rest(file: Path) -> bool:
    for place in (file, file.parent):  # a folder's time tells when a file in it was removed
        try:
            return abs(time.time() - place.stat().st_mtime) >= _AT_REST
        except OSError:
            continue
    return True
