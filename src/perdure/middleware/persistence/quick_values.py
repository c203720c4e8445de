"""Frozen dataclasses that are made, and changed, as quickly as others: several times in every call.

A frozen dataclass sets each of its fields by a call, past its own refusal; which takes five times as long as to set
them. So they are set while the object is of a twin class, which has the same slots and refuses nothing, and it becomes
what it is afterwards. Nobody ever gets hold of it before.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

__all__ = ["changing", "quickly_made"]

T = TypeVar("T")


def quickly_made(cls: type[T]) -> type[T]:
    """For a class that is `@dataclass(frozen=True, slots=True, kw_only=True)`, has no base and no `__post_init__`."""
    own = _fields(cls)
    parameters = ", ".join(field.name if _is_required(field) else f"{field.name}=default_{field.name}" for field in own)
    made: Any = cls
    made.__init__ = _function(
        f"__init__(self, *, {parameters})",
        ["put(self, '__class__', twin)", *(f"self.{field.name} = {_given(field)}" for field in own)],
        "self.__class__ = cls",
        cls,
    )
    return cls


def changing(cls: type[T]) -> Callable[[T, Mapping[str, Any]], T]:
    """A function that gives a copy of an object of `cls` with other values in some fields.

    It raises AttributeError for a field that there is not.
    """
    changed: Callable[[T, Mapping[str, Any]], T] = _function(
        "changed(old, changes)",
        ["self = blank(twin)", *(f"self.{field.name} = old.{field.name}" for field in _fields(cls))],
        "for name in changes: setattr(self, name, changes[name])\n    self.__class__ = cls\n    return self",
        cls,
    )
    return changed


def _function(head: str, body: list[str], end: str, cls: type) -> Any:
    """Written out, as `dataclasses` does it: a loop over the fields would take as long as what this is to save."""
    names: dict[str, Any] = {f"default_{field.name}": field.default for field in _fields(cls)}
    names |= {f"factory_{field.name}": field.default_factory for field in _fields(cls)}
    twin = type(f"_Open{cls.__name__}", (), {"__slots__": tuple(field.name for field in _fields(cls))})
    names |= {"cls": cls, "twin": twin, "put": object.__setattr__, "blank": object.__new__, "missing": MISSING}
    exec("\n    ".join([f"def {head}:", *body, end]), names)  # noqa: S102 - of names that stand in the class
    function = names[head.partition("(")[0]]
    function.__qualname__ = f"{cls.__qualname__}.{function.__name__}"
    return function


def _fields(cls: Any) -> "tuple[Field[Any], ...]":
    return fields(cls)


def _is_required(field: "Field[Any]") -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _given(field: "Field[Any]") -> str:
    if field.default_factory is MISSING:
        return field.name
    return f"factory_{field.name}() if {field.name} is missing else {field.name}"
