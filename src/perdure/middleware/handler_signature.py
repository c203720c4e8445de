"""What a handler looks like to an SDK, and what its persisted form shall look like instead.

SDKs make a tool's schema from the signature and the annotations of a function. The persisted form shows them the
handler's own, with the continuation id added unless it is there, and without the parameter that takes the history.
"""

import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema, WrapValidator
from pydantic.fields import FieldInfo
from pydantic.types import PathType

from perdure.middleware.path_rewriting import storage_uri
from perdure.middleware.persistence.history import History
from perdure.middleware.tool_schema import CONTINUATION_ID, continuation_id_schema
from perdure.quick_values import frozen

__all__ = ["CONTEXT_PARAMETER", "HandlerSignature", "read_signature"]

CONTEXT_PARAMETER = "perdure_context"
"""The hidden parameter through which the SDK hands over the request, where the handler has none."""


@frozen(kw_only=True)
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
    arguments: Mapping[str, str] | None
    """The handler's own parameters by the names they have on the wire; None if it takes any."""

    def parameter_of(self, argument: str | None) -> str | None:
        """The parameter that takes the argument of that name on the wire."""
        return (self.arguments or {}).get(argument, argument) if argument is not None else None


def read_signature(handler: Callable[..., Any], context_type: type, *, adds: bool = True) -> HandlerSignature:
    """`adds=False` shows no continuation id and takes no context: for a process in which perdure is switched off.

    Raises:
        ValueError, TypeError: `handler` has no signature that Python can tell.
    """
    try:
        signature = inspect.signature(handler, eval_str=True)
    except (NameError, AttributeError, SyntaxError):
        # An annotation names what is not there yet, as often in a class body. It will be when the SDK asks.
        signature = inspect.signature(handler)
        known = [_evaluated(parameter, handler) for parameter in signature.parameters.values()]
        read = _read(signature.replace(parameters=known), context_type, adds)
        return replace(read, shown=_LateSignature.of(handler, context_type, adds))
    return _read(signature, context_type, adds)


def _read(signature: inspect.Signature, context_type: type, adds: bool) -> HandlerSignature:
    own = signature.parameters
    context = _first(own, context_type)
    history = _first(own, History)
    if adds:
        signature = signature.replace(
            parameters=[parameter.replace(annotation=_admitting_uris(parameter)) for parameter in own.values()]
        )
        own = signature.parameters
    arguments = {_wire_name(own[name]): name for name in own if name not in (context, history, "self", "cls")}
    added = _added(arguments, context_type, context is None) if adds else []
    annotations = {
        name: parameter.annotation
        for name, parameter in own.items()
        if parameter.annotation is not parameter.empty and name != history
    }
    annotations |= {parameter.name: parameter.annotation for parameter in added}
    if signature.return_annotation is not signature.empty:
        annotations["return"] = signature.return_annotation
    return HandlerSignature(
        shown=_amended(signature, history, added),
        annotations=annotations,
        declares_id=CONTINUATION_ID in arguments,
        history_parameter=history,
        context_parameter=context or CONTEXT_PARAMETER,
        takes_arguments=_takes_arguments(own),
        arguments=None if _takes_anything(own) else arguments,
    )


def _evaluated(parameter: inspect.Parameter, handler: Callable[..., Any]) -> inspect.Parameter:
    """`parameter` with its annotation evaluated, if that can be done by now."""
    if not isinstance(parameter.annotation, str):
        return parameter
    function = inspect.unwrap(getattr(handler, "__func__", handler))
    try:
        # As inspect and typing do it: an annotation is code of the handler's author.
        annotation = eval(parameter.annotation, getattr(function, "__globals__", {}))  # noqa: S307
    except Exception:  # noqa: BLE001 - whatever is missing, the SDK will say so when it is needed
        return parameter
    return parameter.replace(annotation=annotation)


def _added(arguments: Collection[str], context_type: type, needs_context: bool) -> list[inspect.Parameter]:
    added = []
    if CONTINUATION_ID not in arguments:
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


def _admitting_uris(parameter: inspect.Parameter) -> Any:
    """The annotation of a parameter for an existing file, so that it also takes what will be one when the body runs."""
    annotation = parameter.annotation
    if not _wants_file(annotation):
        return annotation
    return Annotated[annotation, WrapValidator(_uri_or_valid)]


def _uri_or_valid(value: Any, validate: Callable[[Any], Any]) -> Any:
    return value if isinstance(value, str) and storage_uri(value) is not None else validate(value)


def _wants_file(annotation: Any) -> bool:
    if any(isinstance(mark, PathType) and mark.path_type == "file" for mark in getattr(annotation, "__metadata__", ())):
        return True
    return any(_wants_file(argument) for argument in typing.get_args(annotation) if not isinstance(argument, PathType))


def _wire_name(parameter: inspect.Parameter) -> str:
    """The parameter's name, unless pydantic reads it from under another."""
    metadata = typing.get_args(parameter.annotation)[1:] if typing.get_origin(parameter.annotation) is Annotated else ()
    for field in (*metadata, parameter.default):
        if isinstance(field, FieldInfo):
            alias = field.validation_alias or field.alias
            if isinstance(alias, str):
                return alias
    return parameter.name


def _takes_anything(own: Mapping[str, inspect.Parameter]) -> bool:
    return _takes_arguments(own) or any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values())


def _first(parameters: Mapping[str, inspect.Parameter], wanted: type) -> str | None:
    return next((name for name, parameter in parameters.items() if _mentions(parameter.annotation, wanted)), None)


def _mentions(annotation: Any, wanted: type) -> bool:
    """Whether `annotation` is `wanted`, possibly annotated, optional or with parameters of its own."""
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

    __slots__ = ("_adds", "_context_type", "_handler")

    _handler: Callable[..., Any]
    _context_type: type
    _adds: bool

    @classmethod
    def of(cls, handler: Callable[..., Any], context_type: type, adds: bool) -> "_LateSignature":
        late = cls()
        late._handler = handler
        late._context_type = context_type
        late._adds = adds
        return late

    def _evaluate(self) -> inspect.Signature:
        return _read(inspect.signature(self._handler, eval_str=True), self._context_type, self._adds).shown

    @property
    def parameters(self) -> "types.MappingProxyType[str, inspect.Parameter]":
        return self._evaluate().parameters

    @property
    def return_annotation(self) -> Any:
        return self._evaluate().return_annotation

    def replace(self, **changes: Any) -> Any:
        return self._evaluate().replace(**changes)
