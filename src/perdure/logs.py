"""perdure's own log: through the standard library's logging, so never to stdout.

On a stdio server stdout is the protocol's. structlog prints there unless the application configured it, so this logger
is bound to `logging.getLogger("perdure")` with processors of its own: the application decides where that goes, and if
it decides nothing, warnings and errors go to stderr.
"""

import logging

import structlog

__all__ = ["log", "log_to_stderr"]


def _sentence(_logger: object, _method: str, event: structlog.typing.EventDict) -> str:
    """`store.unavailable: what happened. Remedy: what to do. key=value …`"""
    parts = [f"perdure: {event.pop('event')}:"]
    if what := event.pop("what", ""):
        parts.append(str(what))
    if remedy := event.pop("remedy", ""):
        parts.append(f"Remedy: {remedy}")
    parts += [f"{key}={value!r}" for key, value in event.items()]
    return " ".join(parts)


log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
    logging.getLogger("perdure"),
    processors=[structlog.stdlib.filter_by_level, _sentence],
    wrapper_class=structlog.stdlib.BoundLogger,
    context_class=dict,
)


def log_to_stderr() -> None:
    """Warnings and errors of ours, whatever the application does with its own log.

    For a server whose code does not know of us, started by somebody who looks there for what is amiss.
    """
    logger = logging.getLogger("perdure")
    logger.addHandler(logging.StreamHandler())
    logger.setLevel(logging.WARNING)
    logger.propagate = False
