"""The `next` that a page ends with: where the following page begins, as one word that can be copied."""

import base64
import json
from datetime import UTC, datetime

from perdure.errors import PerdureError

__all__ = ["cursor_of", "hit_position_of", "position_of"]


def cursor_of(position: tuple[datetime, str, str] | tuple[datetime, str, int]) -> str:
    at, *rest = position
    key = json.dumps([at.isoformat(), *rest])
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def position_of(cursor: str) -> tuple[datetime, str, str]:
    """
    Raises:
        PerdureError: No page ended with it.
    """
    try:
        at, first, second = json.loads(base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)))
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None:
            raise ValueError("a time without its zone")
        moment = moment.astimezone(UTC)  # A store writes it so, and not every time can be.
        for name in (str(first), str(second)):
            name.encode()
        return moment, str(first), str(second)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _no_end(cursor) from error


def hit_position_of(cursor: str) -> tuple[datetime, str, int]:
    """The same of a page of hits, which ends with a turn's id and a part.

    Raises:
        PerdureError: No page of hits ended with it.
    """
    at, turn_id, part = position_of(cursor)
    if part not in ("0", "1"):
        raise _no_end(cursor)
    return at, turn_id, int(part)


def _no_end(cursor: str) -> PerdureError:
    return PerdureError(f"`before` {cursor!r} is not the end of a page.", remedy="copy it from the page before.")
