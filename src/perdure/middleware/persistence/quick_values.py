"""Frozen dataclasses that are made, and changed, as quickly as others: several times in every call.

A frozen dataclass sets each of its fields by a call, past its own refusal; which takes five times as long as to set
them. So they are set while the object is of a twin class, which has the same slots and refuses nothing, and it becomes
what it is afterwards. Nobody ever gets hold of it before.
"""

from dataclasses import MISSING, Field, fields
from functools import wraps
from typing import Any, TypeVar

__all__ = ["quickly_made"]

T = TypeVar("T")


def quickly_made(cls: type[T]) -> type[T]:
    """For a class that is `@dataclass(frozen=True, slots=True, kw_only=True)`, has no base and no `__post_init__`.

    If it has a method `changed(**changes)`, that is written here as well: it gives a copy with other values in some
    fields, and raises AttributeError for a field that there is not.
    """
    own = _fields(cls)
    parameters = ", ".join(field.name if _is_required(field) else f"{field.name}=default_{field.name}" for field in own)
    made: Any = cls
    made.__init__ = _function(
        f"__init__(self, *, {parameters})",
        ["put(self, '__class__', twin)", *(f"self.{field.name} = {_given(field)}" for field in own)],
        "self.__class__ = cls",
        cls,
    )
    if (declared := vars(cls).get("changed")) is not None:
        made.changed = wraps(declared)(
            _function(
                "changed(old, **changes)",
                ["self = blank(twin)", *(f"self.{field.name} = old.{field.name}" for field in own)],
                "for name in changes: setattr(self, name, changes[name])\n    self.__class__ = cls\n    return self",
                cls,
            )
        )
    return cls


def _function(head: str, body: list[str], end: str, cls: type) -> Any:
    """Written out, as `dataclasses` does it: a loop over the fields would take as long as what this is to save."""
    names: dict[str, Any] = {f"default_{field.name}": field.default for field in _fields(cls)}
    names |= {f"factory_{field.name}": field.default_factory for field in _fields(cls)}
    twin = type(f"_Open{cls.__name__}", (), {"__slots__": tuple(field.name for field in _fields(cls))})
    names |= {"cls": cls, "twin": twin, "put": object.__setattr__, "blank": object.__new__, "missing": MISSING}
    source = "\n    ".join([f"def {head}:", *body, end])
    exec(compile(source, f"<made for {cls.__qualname__}>", "exec"), names)  # noqa: S102 - names of the class's fields
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
