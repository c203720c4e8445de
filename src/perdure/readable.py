"""Values as people read them, in a terminal and on a page alike."""

import re
from datetime import datetime

__all__ = ["UNPRINTABLE", "ago", "count", "printable_text", "took"]

UNPRINTABLE = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
"""What acts on a terminal, turns the direction of the text around it, or cannot be written as UTF-8. Compiled when
it is needed first."""


def printable_text(text: str) -> str:
    return re.sub(UNPRINTABLE, "\ufffd", text)


def count(number: int, what: str) -> str:
    """`1 turn`, `1,200 turns`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def ago(then: datetime, now: datetime, *, brief: bool = False) -> str:
    """`3 min ago`; the date itself for what is older than a week. `brief`: without the time of the day."""
    seconds = (now - then).total_seconds()
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min ago"
    if seconds < 86400:
        return f"{seconds // 3600:.0f} h ago"
    if seconds < 7 * 86400:
        return f"{seconds // 86400:.0f} d ago"
    return then.astimezone().strftime("%Y-%m-%d" if brief else "%Y-%m-%d %H:%M")


def took(began: datetime, ended: datetime | None) -> str:
    """`250 ms`, `1.5 s`; nothing for what has not ended."""
    if ended is None:
        return ""
    seconds = (ended - began).total_seconds()
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
