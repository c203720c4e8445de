"""docs/reference/python.md, from the public modules: what each exports, with signature and docstring."""

import dataclasses
import enum
import inspect
import re
import textwrap
from collections.abc import Iterator
from types import ModuleType

import perdure
import perdure.stores
import perdure.testing
from perdure.testing.faulty_store import Operation
from tools.reference.source import docs_of

__all__ = ["python_page"]

_OPERATIONS = str(Operation).replace("typing.", "")
"""Written out in each signature, since an alias has no name of its own."""


def python_page() -> str:
    return f"""\
# Python API

Everything that is public in Python: `perdure` for tool authors, `perdure.stores` and `perdure.testing` for whoever
writes a store.

<!-- Made by `make reference`: change the docstrings in src/perdure instead. -->

{_module(perdure)}
{_module(perdure.stores, known=perdure)}
{_module(perdure.testing)}"""


def _module(module: ModuleType, *, known: ModuleType | None = None) -> str:
    """`known`: what is described there already is only named here."""
    things = {name: getattr(module, name) for name in module.__all__}
    seen = sorted(name for name, thing in things.items() if known and getattr(known, name, None) is thing)
    parts = [f"## `{module.__name__}`\n\n{inspect.getdoc(module)}\n"]
    if seen:
        parts.append(f"As in `{known.__name__ if known else ''}`: {', '.join(f'`{name}`' for name in seen)}.\n")
    parts += ["\n".join(_described(name, thing)) for name, thing in things.items() if name not in seen]
    return "\n".join(parts)


def _described(name: str, thing: object) -> Iterator[str]:
    yield f"### `{name}{_signature(thing)}`\n"
    if text := _text(thing):
        yield f"{text}\n"
    if not inspect.isclass(thing):
        return
    docs = docs_of(thing)
    if issubclass(thing, enum.Enum):
        for member in thing:
            yield _line(f"{member.name} = {member.value!r}", docs.get(member.name, ""))
    elif dataclasses.is_dataclass(thing):
        for field in dataclasses.fields(thing):
            yield _line(f"{field.name}: {_type(field.type)}", docs.get(field.name, ""))
    for method, function in _members(thing).items():
        match function:
            case property():
                yield _line(method, _text(function))
            case classmethod() | staticmethod():
                yield _line(f"{method}{_signature(function.__func__)}", _text(function.__func__))
            case _ if (
                inspect.isfunction(there := getattr(thing, method)) and there.__doc__
            ):  # some are written when asked for
                yield _line(f"{method}{_signature(there)}", _text(there))
    yield ""


def _members(thing: type) -> dict[str, object]:
    """Its own, and for what a store has to be those of its parts."""
    classes = thing.__mro__ if getattr(thing, "_is_protocol", False) else (thing,)
    return {name: member for one in classes for name, member in vars(one).items() if not name.startswith("_")}


def _line(code: str, text: str) -> str:
    shown = textwrap.indent(text, "  ").lstrip()
    return f"- `{code}`" + (f": {shown}" if shown else "")


def _text(thing: object) -> str:
    """The docstring; its section of errors in Markdown's words."""
    if inspect.getmodule(thing) is None or not getattr(thing, "__module__", "").startswith("perdure"):
        return ""
    text = inspect.getdoc(thing) or ""
    if inspect.isclass(thing) and thing.__doc__ is None:
        return ""  # that of a base
    if dataclasses.is_dataclass(thing) and text.startswith(f"{getattr(thing, '__name__', '')}("):
        return ""  # the signature again
    text = re.sub(r"^Raises:\n((?:    .*\n?)+)", _errors, text, flags=re.MULTILINE)
    return re.sub(r"((?:^    .*\n?)+)", r"```text\n\1```\n", text, flags=re.MULTILINE) if "\n    " in text else text


def _errors(found: re.Match[str]) -> str:
    lines = textwrap.dedent(found[1]).strip("\n").splitlines()
    listed = [re.sub(r"^([\w, ]+): ", r"- `\1`: ", line) for line in lines]
    return "Raises:\n\n" + "\n".join(line.replace("    ", "  ", 1) for line in listed)


def _signature(thing: object) -> str:
    if inspect.isclass(thing) and (issubclass(thing, enum.Enum | BaseException) or dataclasses.is_dataclass(thing)):
        return ""
    if not callable(thing):
        return ""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    if inspect.isclass(thing) and list(signature.parameters) in (["args", "kwargs"], []):
        return ""
    bare = [
        parameter.replace(annotation=parameter.empty) if inspect.isclass(thing) else parameter
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    return _type(str(signature.replace(parameters=bare)).replace(" -> None", "")).replace(_OPERATIONS, "Operation")


def _type(kind: object) -> str:
    text = kind.__name__ if inspect.isclass(kind) and not hasattr(kind, "__args__") else str(kind)
    text = re.sub(r"<class '([^']+)'>", r"\1", text)
    text = re.sub(r"<(\w+)\.\w+: ('[^']*')>", r"\2", text)
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Za-z])", "", text).replace("<built-in function sleep>", "sleep")
