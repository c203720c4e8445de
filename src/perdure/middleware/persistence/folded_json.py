"""A JSON value without a text that stands in it several times, and the same with that text in its places again."""

from typing import TypeAlias

from perdure.middleware.persistence.turn import Json

__all__ = ["FoldedJson", "Path", "unfold"]

Path: TypeAlias = "tuple[str | int, ...] | list[str | int]"

_OTHER_LEAVES = frozenset({int, float, bool, type(None)})
_LEAVES = _OTHER_LEAVES | {str}


class FoldedJson:
    """`value` with None wherever it holds `text`, in objects and arrays of its own. `value` is one of these."""

    __slots__ = ("_text", "is_plain", "places", "value")

    def __init__(self, value: Json, text: str | None) -> None:
        self._text = text
        self.places: list[Path] = []
        """Where `text` stood."""
        self.is_plain = True
        """It is sure that reading it gives the same: it holds nothing that is written as JSON without being such a
        value itself, as a tuple is, or a number as a name."""
        self.value = self._folded(value, ())

    def _folded(self, value: Json, path: tuple[str | int, ...]) -> Json:
        # Neither `match`, which takes four times as long, nor a call for each text: this goes over all that a tool was
        # given and gave back.
        if not isinstance(value, dict):
            return self._folded_array(value, path)
        text = self._text
        members: dict[str, Json] = {}
        for name, item in value.items():
            kind = type(item)
            if kind is str:
                if item == text:
                    self.places.append((*path, name))
                    members[name] = None
                else:
                    members[name] = item
            else:
                members[name] = item if kind in _OTHER_LEAVES else self._folded(item, (*path, name))
            if type(name) is not str:
                self.is_plain = False
        if type(value) is not dict:
            self.is_plain = False
        return members

    def _folded_array(self, value: Json, path: tuple[str | int, ...]) -> Json:
        """Or anything else that is neither an object nor surely a leaf."""
        if isinstance(value, list):
            if type(value) is not list:
                self.is_plain = False
            return [
                item if type(item) in _LEAVES and item != self._text else self._folded(item, (*path, index))
                for index, item in enumerate(value)
            ]
        if isinstance(value, str) and value == self._text:
            self.places.append(path)
            return None
        if type(value) not in _LEAVES:
            self.is_plain = False
        return value


def unfold(value: Json, text: str, places: "list[Path]") -> None:
    """Put `text` where it belongs in `value`.

    Raises:
        LookupError, TypeError: There are no such places.
    """
    for *path, last in places:
        holder = value
        for key in path:
            holder = holder[key]
        holder[last] = text
