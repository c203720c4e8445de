"""How large a message is, without encoding it: its text decides."""

from collections.abc import Callable
from typing import Any

__all__ = ["is_larger"]

_OF_ANYTHING_ELSE = 4
"""Bytes, for a number, a boolean, a null."""


def is_larger(message: tuple[Any, ...], most: int) -> bool:
    """Whether the text in `message`, which holds JSON values, takes more than `most` bytes in UTF-8.

    Nothing is encoded where the count of characters tells already: about a microsecond for most messages. What is no
    JSON is not large: a store will say what is wrong with it.
    """
    try:
        characters = _size(message, len)
        return 4 * characters > most and (characters > most or _size(message, _bytes_in) > most)
    except TypeError:
        return False


def _size(message: tuple[Any, ...], of_text: Callable[[str], int]) -> int:
    size = 0
    left: list[Any] = [*message]
    for value in left:  # which grows meanwhile
        kind = type(value)
        if kind is str:
            size += of_text(value)
        elif kind is dict:
            size += len("".join(value))
            left += value.values()
        elif kind is list:
            left += value
        else:
            size += _OF_ANYTHING_ELSE
    return size


def _bytes_in(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
