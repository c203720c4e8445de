"""What the versions of the MCP SDK have in common: the tools of their servers of functions, and values on the wire."""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar

import pydantic_core
import wrapt

from perdure.middleware.persistence.turn import JsonObject
from perdure.middleware.sdk.interface import IncomingRequest, ResultTaker

if TYPE_CHECKING:
    from typing import Self

    from pydantic import BaseModel

__all__ = ["FunctionTool", "function_of", "jsonable", "note_registered", "to_wire", "tool_among", "was_registered"]

T = TypeVar("T")


class FunctionTool(ABC):
    """A tool as its server knows it."""

    @classmethod
    def of(cls, tool: Any) -> "Self":
        """The one that was made of `tool` before, unless something of it was replaced since then."""
        state = vars(tool)  # to ask a pydantic object for an attribute takes three times as long
        known = state.get(_KNOWN)
        if (
            isinstance(known, cls)
            and known._tool is tool
            and known.function is state.get("fn")
            and known.input_schema is state.get("parameters")
            and known.output_schema is tool.output_schema  # made of its metadata
            and known.name == state.get("name")
        ):
            return known
        made = state[_KNOWN] = cls(tool)
        return made

    def __init__(self, tool: Any) -> None:
        self.name: str = tool.name
        self.input_schema: Mapping[str, Any] = tool.parameters
        self.output_schema: Mapping[str, Any] | None = tool.output_schema
        self.function: Callable[..., Any] = tool.fn
        self._tool = tool

    @staticmethod
    @abstractmethod
    def result_type() -> "type[BaseModel]":
        """The SDK's class of a tool's results."""

    @abstractmethod
    def validated(self, arguments: JsonObject) -> dict[str, Any]:
        """The handler's keyword arguments, made of `arguments` as the SDK itself makes them.

        Raises:
            ValidationError: They do not fit the tool's schema.
        """

    def passes_result_to(self, _taker: ResultTaker, _request: IncomingRequest | None) -> bool:
        """Whether the SDK's result for this call will come to a taker; see `RegisteredTool`."""
        return False

    @abstractmethod
    def result_of(self, value: object) -> JsonObject | None:
        """What the SDK makes of the handler's value, on the wire; None for a question to the client.

        Raises:
            Exception: As the SDK itself will when it is given this value.
        """

    @abstractmethod
    def error(self, error: Exception) -> Exception:
        """What the handler raises so that the client reads the message as the tool's own error."""

    def answering(self, wire: JsonObject) -> Any:
        """A result that the SDK passes on as it is. It was made, and validated, by the SDK's own converter before."""
        own = _converted_already(self.result_type())
        if type(self._tool.fn_metadata) is not _PassingOn:  # which the SDK looks at once its handler has answered
            self._tool.fn_metadata = _PassingOn(self._tool.fn_metadata, own)
        return own.model_validate(wire)


_KNOWN = "_perdure_tool"
"""The name under which a tool keeps what we know of it."""


@cache
def _converted_already(result: "type[BaseModel]") -> "type[BaseModel]":
    """A class of results that are passed on: an output type may not be able to read again what it wrote."""
    return type("PersistedResult", (result,), {"__module__": __name__})


class _PassingOn(wrapt.ObjectProxy[Any]):
    """A tool's metadata that leaves results alone which are converted already."""

    def __init__(self, metadata: object, own: type) -> None:
        super().__init__(metadata)
        self._self_own = own

    def convert_result(self, result: object) -> Any:
        return result if isinstance(result, self._self_own) else self.__wrapped__.convert_result(result)


def tool_among(
    server: object, is_handler: Callable[[object], bool], name: str | None, made: Callable[[Any], T]
) -> T | None:
    """Of the tool whose function satisfies `is_handler`; under `name`, if that is given."""
    # The SDK has no public way from a tool's name to the tool. A low-level server has no tools of its own at all.
    manager = getattr(server, "_tool_manager", None)
    if manager is None:
        return None
    if name is not None:
        tool = manager.get_tool(name)
        return made(tool) if tool is not None and is_handler(tool.fn) else None
    return next((made(tool) for tool in manager.list_tools() if is_handler(tool.fn)), None)


def function_of(server: object, name: str) -> Callable[..., Any] | None:
    """The function of the tool `name`, where the server's tools are functions."""
    manager = getattr(server, "_tool_manager", None)
    tool = None if manager is None else manager.get_tool(name)
    return None if tool is None else tool.fn


_registered: "weakref.WeakSet[Callable[..., Any]]" = weakref.WeakSet()


def was_registered(function: object) -> bool:
    """Whether `function` itself, or a method that binds it, is some server's tool already."""
    return isinstance(function, FunctionType) and function in _registered


def note_registered(function: object) -> None:
    function = getattr(function, "__func__", function)
    if isinstance(function, FunctionType):
        _registered.add(function)


def to_wire(result: "BaseModel") -> JsonObject:
    wire: JsonObject = result.model_dump(by_alias=True, mode="json", exclude_none=True)
    return wire


def jsonable(value: object) -> Any:
    """`value` as JSON, for an argument that never was on the wire."""
    return pydantic_core.to_jsonable_python(value, fallback=str, by_alias=True, bytes_mode="base64")
