"""Values as `dataclasses` makes them, whose classes and objects are made several times as quickly.

For a class `dataclass` writes and compiles seven functions, which takes 0.4 ms and more; `import perdure` makes thirty
classes, in every server that is started. Here the constructor alone is written, when somebody first asks for it, and
the rest is the same for all.

A frozen dataclass sets each of its fields by a call, past its own refusal; which takes five times as long as to set
them. So they are set while the object is of a twin class, which has the same slots and refuses nothing, and it becomes
what it is afterwards. Nobody ever gets hold of it before.
"""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from functools import cache, partial, wraps
from operator import attrgetter
from typing import Any, ParamSpec, TypeVar, cast, dataclass_transform

__all__ = ["copying", "frozen", "making", "mutable"]

P = ParamSpec("P")
T = TypeVar("T")
M = TypeVar("M", bound=Callable[..., Any])

Fields = tuple[Field[Any], ...]


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(*, kw_only: bool = False) -> Callable[[type[T]], type[T]]:
    """As `@dataclass(frozen=True, slots=True)`, for a class that has fields, and neither a base nor `__post_init__`.

    If it has a method `changed(**changes)`, that is written here as well: it gives a copy with other values in some
    fields, and raises TypeError for a field that there is not. And so are methods that are `copying`.
    """

    def made(cls: type[T]) -> type[T]:
        value = _with_fields(cls, kw_only)
        for name, method in list(vars(value).items()):
            if name == "changed" or getattr(method, "__copying__", False):
                _write_when_used(value, name, partial(_copier, value, method))
        _write_when_used(value, "__init__", partial(_constructor, value))
        value.__setattr__, value.__delattr__ = _refuse_to_set, _refuse_to_delete
        value.__getstate__, value.__setstate__ = _state, _set_state
        return cast("type[T]", value)

    return made


def copying(method: M) -> M:
    """Marks a method of a `frozen` class whose parameters are named after fields: it gives a copy with those values.

    Written so that it takes two thirds of the time of `changed`, which asks of each field whether it is meant.
    """
    marked: Any = method
    marked.__copying__ = True
    return method


@dataclass_transform(field_specifiers=(field,))
def mutable(*, kw_only: bool = False) -> Callable[[type[T]], type[T]]:
    """As `@dataclass(slots=True)`, for a class that has fields and no base."""

    def made(cls: type[T]) -> type[T]:
        value = _with_fields(cls, kw_only)
        _write_when_used(value, "__init__", partial(_constructor, value))
        value.__hash__ = None
        return cast("type[T]", value)

    return made


def making(cls: Callable[P, T]) -> Callable[P, T]:
    """A function that gives what the class `cls` gives when it is called, in half the time where arguments have names.

    On the way from a class to its `__init__` these are put into a dictionary and taken out again.
    """
    value: Any = cls
    lines = [
        f"self = blank({'twin' if _is_frozen(value) else 'cls'})",
        *_each_set(value),
        *(["self.__class__ = cls"] if _is_frozen(value) else []),
        "return self",
    ]
    made: Callable[P, T] = _written(value, "made", _parameters(value), lines, _defaults(value))
    return made


def _with_fields(cls: type[Any], kw_only: bool) -> Any:
    # Without a docstring `dataclass` makes one of the class's signature, and reading that takes 0.2 ms.
    cls.__doc__ = cls.__doc__ or f"See the fields of {cls.__name__}."
    value: Any = dataclass(init=False, repr=False, eq=False, slots=True, kw_only=kw_only)(cls)
    _add_common_functions(value, fields(value))
    return value


def _write_when_used(value: Any, name: str, write: Callable[[], Any]) -> None:
    setattr(value, name, _Unwritten(value, name, write))


class _Unwritten:
    """In a class, in place of a method. Two threads that ask for it at once may both write it: either will do."""

    def __init__(self, value: Any, name: str, write: Callable[[], Any]) -> None:
        self._value = value
        self._name = name
        self._write = write

    def __get__(self, instance: object | None, owner: type) -> Any:
        # Bound here: `instance` may be of a class derived from this one, and have another method of that name.
        written = self._write()
        setattr(self._value, self._name, written)
        return written.__get__(instance, owner)


# Written out, as `dataclasses` does it: a loop over the fields would take as long as what this is to save.


def _constructor(value: Any) -> Any:
    lines = _each_set(value)
    if _is_frozen(value):
        lines = ["put(self, '__class__', twin)", *lines, "self.__class__ = cls"]
    return _written(value, "__init__", ["self", *_parameters(value)], lines, _defaults(value))


def _is_frozen(value: Any) -> bool:
    return value.__setattr__ is _refuse_to_set


def _parameters(value: Any) -> list[str]:
    own = fields(value)
    parameters = [field.name if _is_required(field) else f"{field.name}=default_{field.name}" for field in own]
    return ["*", *parameters] if own[0].kw_only else parameters


def _each_set(value: Any) -> list[str]:
    return [f"self.{field.name} = {_given(field)}" for field in fields(value)]


def _defaults(value: Any) -> dict[str, Any]:
    own = fields(value)
    return {f"default_{field.name}": field.default for field in own} | {
        f"factory_{field.name}": field.default_factory for field in own
    }


def _copier(value: Any, declared: Any) -> Any:
    names = [field.name for field in fields(value)]
    if declared.__name__ == "changed":
        # No `**changes`: to put them into a dictionary and set each from there takes longer than to ask for all fields.
        parameters = [f"{name}=missing" for name in names]
        taken = {name: f"_old.{name} if {name} is missing else {name}" for name in names}
    else:
        parameters = list(inspect.signature(declared).parameters)[1:]
        if unknown := set(parameters).difference(names):
            raise TypeError(f"{declared.__qualname__} copies a {value.__name__}, which has no field {min(unknown)!r}")
        taken = {name: name if name in parameters else f"_old.{name}" for name in names}
    lines = [
        "self = blank(twin)",
        *(f"self.{name} = {other}" for name, other in taken.items()),
        "self.__class__ = cls",
        "return self",
    ]
    return wraps(declared)(_written(value, declared.__name__, ["_old", *parameters], lines, {}))


def _written(value: Any, name: str, parameters: list[str], lines: list[str], names: dict[str, Any]) -> Any:
    text = f"def {name}({', '.join(parameters)}):\n    " + "\n    ".join(lines)
    names |= {"cls": value, "twin": _twin(value), "missing": MISSING}
    names |= {"put": object.__setattr__, "blank": object.__new__}
    exec(compile(text, f"<made for {value.__qualname__}>", "exec"), names)  # noqa: S102 - names of the class's fields
    function = names[name]
    function.__qualname__ = f"{value.__qualname__}.{name}"
    return function


@cache
def _twin(value: Any) -> type:
    """With the same slots, and without a refusal to set them."""
    return type(f"_Open{value.__name__}", (), {"__slots__": tuple(field.name for field in fields(value))})


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
