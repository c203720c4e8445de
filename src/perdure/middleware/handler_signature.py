"""What a handler looks like to an SDK, and what its persisted form shall look like instead.

SDKs make a tool's schema from the signature and the annotations of a function. The persisted form shows them the
handler's own, with the continuation id added unless it is there, and without the parameter that takes the history.
"""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

from perdure.middleware.persistence.history import History
from perdure.middleware.tool_schema import CONTINUATION_ID, continuation_id_schema

__all__ = ["CONTEXT_PARAMETER", "HandlerSignature", "read_signature"]

CONTEXT_PARAMETER = "perdure_context"
"""The hidden parameter through which the SDK hands over the request, where the handler has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerSignature:
    shown: inspect.Signature
    """What an SDK sees."""
    annotations: Mapping[str, Any]
    declares_id: bool
    """The handler has a `continuation_id` of its own."""
    history_parameter: str | None
    context_parameter: str
    """The handler's own, or CONTEXT_PARAMETER."""
    takes_arguments: bool
    """The one parameter is the dictionary of all arguments, as in tools for a low-level server."""


def read_signature(handler: Callable[..., Any], context_type: type) -> HandlerSignature:
    """
    Raises:
        ValueError, TypeError: `handler` has no signature that Python can tell.
    """
    try:
        signature = inspect.signature(handler, eval_str=True)
    except (NameError, AttributeError, SyntaxError):
        # An annotation names what is not there yet, as often in a class body. It will be when the SDK asks.
        return _read(_LateSignature.of(handler, context_type), handler, context_type)
    return _read(signature, handler, context_type)


def _read(signature: inspect.Signature, handler: Callable[..., Any], context_type: type) -> HandlerSignature:
    late = isinstance(signature, _LateSignature)
    own = inspect.signature(handler).parameters if late else signature.parameters
    context = _first(own, lambda annotation: _mentions(annotation, context_type))
    history = _first(own, lambda annotation: _mentions(annotation, History))
    added = _added(own, context_type, context is None)
    shown = signature if late else _amended(signature, history, added)
    annotations = {
        name: parameter.annotation
        for name, parameter in own.items()
        if parameter.annotation is not parameter.empty and name != history
    }
    annotations |= {parameter.name: parameter.annotation for parameter in added}
    return_annotation = inspect.signature(handler).return_annotation if late else signature.return_annotation
    if return_annotation is not inspect.Signature.empty:
        annotations["return"] = return_annotation
    return HandlerSignature(
        shown=shown,
        annotations=annotations,
        declares_id=CONTINUATION_ID in own,
        history_parameter=history,
        context_parameter=context or CONTEXT_PARAMETER,
        takes_arguments=_takes_arguments(own),
    )


def _added(own: Mapping[str, inspect.Parameter], context_type: type, needs_context: bool) -> list[inspect.Parameter]:
    added = []
    if CONTINUATION_ID not in own:
        # Any value passes: an id that cannot be used starts a new conversation, it does not fail the call.
        annotation: Any = Annotated[str, PlainValidator(lambda value: value), WithJsonSchema(continuation_id_schema())]
        added.append(_keyword(CONTINUATION_ID, annotation))
    if needs_context:
        added.append(_keyword(CONTEXT_PARAMETER, context_type))
    return added


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _amended(signature: inspect.Signature, history: str | None, added: list[inspect.Parameter]) -> inspect.Signature:
    kept = [parameter for name, parameter in signature.parameters.items() if name != history]
    rest = [parameter for parameter in kept if parameter.kind is parameter.VAR_KEYWORD]
    named = [parameter for parameter in kept if parameter.kind is not parameter.VAR_KEYWORD]
    return signature.replace(parameters=[*named, *added, *rest])


def _first(parameters: Mapping[str, inspect.Parameter], wanted: Callable[[Any], bool]) -> str | None:
    return next((name for name, parameter in parameters.items() if wanted(parameter.annotation)), None)


def _mentions(annotation: Any, wanted: type) -> bool:
    """Whether `annotation` is `wanted`, possibly annotated, optional or with parameters of its own."""
    if isinstance(annotation, str):
        # Not evaluated yet. Names can be imported under others; then the author sees the SDK's own complaint.
        return (
            wanted.__name__
            in annotation.replace("[", " ").replace("]", " ").replace("|", " ").replace(".", " ").split()
        )
    origin = typing.get_origin(annotation)
    if origin is None:
        return isinstance(annotation, type) and issubclass(annotation, wanted)
    if origin in (typing.Union, types.UnionType, Annotated):
        return any(_mentions(argument, wanted) for argument in typing.get_args(annotation))
    return isinstance(origin, type) and issubclass(origin, wanted)


def _takes_arguments(parameters: Mapping[str, inspect.Parameter]) -> bool:
    own = [parameter for name, parameter in parameters.items() if name not in ("self", "cls")]
    if len(own) != 1 or own[0].name != "arguments":
        return False
    annotation = own[0].annotation
    if isinstance(annotation, str):
        return annotation.split("[")[0].rpartition(".")[2] in ("dict", "Dict", "Mapping", "Any")
    base = typing.get_origin(annotation) or annotation
    return base in (inspect.Parameter.empty, Any) or (isinstance(base, type) and issubclass(base, Mapping))


class _LateSignature(inspect.Signature):
    """A signature whose annotations are evaluated when somebody looks."""

    __slots__ = ("_context_type", "_handler")

    _handler: Callable[..., Any]
    _context_type: type

    @classmethod
    def of(cls, handler: Callable[..., Any], context_type: type) -> "_LateSignature":
        late = cls()
        late._handler = handler
        late._context_type = context_type
        return late

    def _evaluate(self) -> inspect.Signature:
        evaluated = inspect.signature(self._handler, eval_str=True)
        return _read(evaluated, self._handler, self._context_type).shown

    @property
    def parameters(self) -> "types.MappingProxyType[str, inspect.Parameter]":
        return self._evaluate().parameters

    @property
    def return_annotation(self) -> Any:
        return self._evaluate().return_annotation

    def replace(self, **changes: Any) -> Any:
        return self._evaluate().replace(**changes)
