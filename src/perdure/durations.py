"""A duration as people write it in a settings file."""

import re
from datetime import timedelta
from typing import Any

__all__ = ["as_duration"]

# Compiled when a duration is read first.
_PARTS = r"(?i)(?:\d+(?:\.\d+)?[smhdw])+"
_PART = r"(?i)(\d+(?:\.\d+)?)([smhdw])"
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def as_duration(value: Any) -> Any:
    """`value` as something that pydantic reads as a `timedelta`: `30d`, `1d12h`, ISO 8601 (`P30D`), or seconds.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(value, timedelta):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(_WHAT_IS_ALLOWED)
    if not isinstance(value, str):
        return value
    text = value.strip()
    if re.fullmatch(_PARTS, text):  # as seconds: pydantic says of too many what it says of any
        return sum(float(number) * _SECONDS[unit.lower()] for number, unit in re.findall(_PART, text))
    if text.upper().startswith("P"):
        return text.upper()
    try:
        return float(text)
    except ValueError:
        raise ValueError(_WHAT_IS_ALLOWED) from None


_WHAT_IS_ALLOWED = (
    'must be a duration: "30d", "12h", "1d12h" (units s, m, h, d, w), ISO 8601 such as "P30D", or seconds'
)
