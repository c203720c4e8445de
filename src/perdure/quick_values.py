"""Values as `dataclasses` makes them, whose classes and objects are made several times as quickly.

For a class `dataclass` writes and compiles seven functions, which takes 0.4 ms and more; `import perdure` makes thirty
classes, in every server that is started. Here the constructor alone is written, when somebody first asks for it, and
the rest is the same for all.

A frozen dataclass sets each of its fields by a call, past its own refusal; which takes five times as long as to set
them. So they are set while the object is of a twin class, which has the same slots and refuses nothing, and it becomes
what it is afterwards. Nobody ever gets hold of it before.
"""

from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from functools import wraps
from operator import attrgetter
from typing import Any, TypeVar, cast, dataclass_transform

__all__ = ["frozen", "mutable"]

T = TypeVar("T")

Fields = tuple[Field[Any], ...]


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(*, kw_only: bool = False) -> Callable[[type[T]], type[T]]:
    """As `@dataclass(frozen=True, slots=True)`, for a class that has fields, and neither a base nor `__post_init__`.

    If it has a method `changed(**changes)`, that is written here as well: it gives a copy with other values in some
    fields, and raises TypeError for a field that there is not.
    """

    def made(cls: type[T]) -> type[T]:
        value = _with_fields(cls, kw_only)
        _write_when_used(value, kw_only, is_frozen=True)
        value.__setattr__, value.__delattr__ = _refuse_to_set, _refuse_to_delete
        value.__getstate__, value.__setstate__ = _state, _set_state
        return cast("type[T]", value)

    return made


@dataclass_transform(field_specifiers=(field,))
def mutable(*, kw_only: bool = False) -> Callable[[type[T]], type[T]]:
    """As `@dataclass(slots=True)`, for a class that has fields and no base."""

    def made(cls: type[T]) -> type[T]:
        value = _with_fields(cls, kw_only)
        _write_when_used(value, kw_only, is_frozen=False)
        value.__hash__ = None
        return cast("type[T]", value)

    return made


def _with_fields(cls: type[Any], kw_only: bool) -> Any:
    # Without a docstring `dataclass` makes one of the class's signature, and reading that takes 0.2 ms.
    cls.__doc__ = cls.__doc__ or f"See the fields of {cls.__name__}."
    value: Any = dataclass(init=False, repr=False, eq=False, slots=True, kw_only=kw_only)(cls)
    _add_common_functions(value, fields(value))
    return value


def _write_when_used(value: Any, kw_only: bool, *, is_frozen: bool) -> None:
    declared = vars(value).get("changed") if is_frozen else None

    def write() -> None:
        written = _written_functions(value, kw_only, is_frozen=is_frozen, has_changed=declared is not None)
        value.__init__ = written["__init__"]
        value.__init__.__qualname__ = f"{value.__qualname__}.__init__"
        if declared is not None:
            value.changed = wraps(declared)(written["changed"])

    value.__init__ = _Unwritten("__init__", write)
    if declared is not None:
        value.changed = _Unwritten("changed", write)


class _Unwritten:
    """In a class, in place of a method. Two threads that ask for it at once may both write it: either will do."""

    def __init__(self, name: str, write: Callable[[], None]) -> None:
        self._name = name
        self._write = write

    def __get__(self, instance: object | None, owner: type) -> Any:
        self._write()
        return getattr(owner if instance is None else instance, self._name)


def _written_functions(value: Any, kw_only: bool, *, is_frozen: bool, has_changed: bool) -> dict[str, Any]:
    """Written out, as `dataclasses` does it: a loop over the fields would take as long as what this is to save."""
    own = fields(value)
    parameters = ", ".join(field.name if _is_required(field) else f"{field.name}=default_{field.name}" for field in own)
    lines = [
        f"def __init__(self, {'*, ' if kw_only else ''}{parameters}):",
        *(["    put(self, '__class__', twin)"] if is_frozen else []),
        *(f"    self.{field.name} = {_given(field)}" for field in own),
        *(["    self.__class__ = cls"] if is_frozen else []),
    ]
    if has_changed:
        # No `**changes`: to put them into a dictionary and set each from there takes longer than to ask for all fields.
        lines += [
            f"def changed(_old, {', '.join(f'{field.name}=missing' for field in own)}):",
            "    self = blank(twin)",
            *(
                f"    self.{field.name} = _old.{field.name} if {field.name} is missing else {field.name}"
                for field in own
            ),
            "    self.__class__ = cls",
            "    return self",
        ]
    names: dict[str, Any] = {"cls": value, "missing": MISSING, "put": object.__setattr__, "blank": object.__new__}
    if is_frozen:
        names["twin"] = type(f"_Open{value.__name__}", (), {"__slots__": tuple(field.name for field in own)})
    names |= {f"default_{field.name}": field.default for field in own}
    names |= {f"factory_{field.name}": field.default_factory for field in own}
    exec(compile("\n".join(lines), f"<made for {value.__qualname__}>", "exec"), names)  # noqa: S102 - names of the class's fields
    return names


def _is_required(field: "Field[Any]") -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _given(field: "Field[Any]") -> str:
    if field.default_factory is MISSING:
        return field.name
    return f"factory_{field.name}() if {field.name} is missing else {field.name}"


def _add_common_functions(value: Any, own: Fields) -> None:
    names = [field.name for field in own if field.compare]
    get = attrgetter(*names)
    compared = get if len(names) > 1 else lambda one: (get(one),)

    def equal(self: Any, other: Any) -> bool:
        return compared(self) == compared(other) if other.__class__ is self.__class__ else NotImplemented

    value.__eq__ = equal
    value.__hash__ = lambda self: hash(compared(self))
    value.__repr__ = _shown


def _shown(self: Any) -> str:
    shown = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self) if field.repr)
    return f"{self.__class__.__qualname__}({shown})"


def _refuse_to_set(self: object, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: object, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for own, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, own.name, value)
