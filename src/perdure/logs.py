"""perdure's own log: through the standard library's logging, so never to stdout.

On a stdio server stdout is the protocol's. structlog prints there unless the application configured it, so this logger
is bound to `logging.getLogger("perdure")` with processors of its own: the application decides where that goes, and if
it decides nothing, warnings and errors go to stderr.
"""

import contextlib
import logging
import re
import sys
import time
from functools import cache
from typing import TYPE_CHECKING

from perdure.readable import UNPRINTABLE

if TYPE_CHECKING:
    import structlog

__all__ = ["OnceAMinute", "log", "log_to_stderr"]


def _sentence(_logger: object, _method: str, event: "structlog.typing.EventDict") -> str:
    """`store.unavailable: what happened. Remedy: what to do. key=value …`"""
    parts = [f"perdure: {event.pop('event')}:"]
    if what := event.pop("what", ""):
        parts.append(str(what))
    if remedy := event.pop("remedy", ""):
        parts.append(f"Remedy: {remedy}")
    parts += [f"{key}={value!r}" for key, value in event.items()]
    # What others named may stand in it: it shall not act on a terminal, nor look like a line of ours.
    return re.sub(UNPRINTABLE, lambda found: ascii(found[0])[1:-1], " ".join(parts)).replace("\n", "\n    ")


@cache
def _log() -> "structlog.stdlib.BoundLogger":
    """Made for the first line that is logged: structlog takes 40 ms to import, and most processes log nothing."""
    import structlog  # noqa: PLC0415 - where it is used

    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger("perdure"),
        processors=[structlog.stdlib.filter_by_level, _sentence],
        wrapper_class=structlog.stdlib.BoundLogger,
        context_class=dict,
    )
    return logger


class _UnfailingLog:
    """Raises nothing: handlers are the application's, and a call must not end with what one of them trips over."""

    def debug(self, event: str, **said: object) -> None:
        self._say("debug", event, said)

    def warning(self, event: str, **said: object) -> None:
        self._say("warning", event, said)

    def error(self, event: str, **said: object) -> None:
        self._say("error", event, said)

    def _say(self, level: str, event: str, said: dict[str, object]) -> None:
        try:
            getattr(_log(), level)(event, **said)
        except Exception as error:  # noqa: BLE001 - see above
            with contextlib.suppress(Exception):
                sentence = _sentence(None, "", {"event": event, **said})
                sys.stderr.write(f"{sentence} (The log could not take this: {type(error).__name__}: {error}.)\n")


log = _UnfailingLog()


class OnceAMinute:
    """What goes wrong in every call is worth a line a minute. Callers on several threads may get it twice."""

    _SECONDS = 60.0
    _MOST = 1000
    """Reasons that are remembered: they may have words of others in them, and may not fill the memory."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def is_due(self, reason: str) -> bool:
        """Whether `reason` is to be said now; then it has been."""
        now = time.monotonic()
        if now - self._said.get(reason, -self._SECONDS) < self._SECONDS:
            return False
        if len(self._said) > self._MOST:
            self._said.clear()
        self._said[reason] = now
        return True


def log_to_stderr() -> None:
    """Warnings and errors of ours, whatever the application does with its own log.

    For a server whose code does not know of us, started by somebody who looks there for what is amiss.
    """
    logger = logging.getLogger("perdure")
    logger.addHandler(logging.StreamHandler())
    logger.setLevel(logging.WARNING)
    logger.propagate = False
