"""What the seams ask of an MCP SDK, whichever of them this process has."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from perdure.middleware.call_files import Reporter
from perdure.middleware.call_reader import Caller, ToolRequest
from perdure.middleware.persistence.turn import Json, JsonObject
from perdure.quick_values import making, mutable

__all__ = ["IncomingRequest", "RegisteredTool", "ResultTaker", "Sdk", "SdkOfContexts"]


@mutable()  # not frozen: it is made in every call, and that takes longer
class IncomingRequest:
    """A request that is being served. Nobody changes it."""

    key: object
    """Something that is one and the same object during this request."""
    params: Mapping[str, Any]
    """As on the wire."""
    protocol_version: str | None
    native: Any
    """What the SDK itself calls the request. None where none came: the server was told from Python to call a tool."""
    request_state: str | None = None
    """With which the client answers a question of an earlier leg; ours may be around the tool's own."""
    request_state_is_sealed: bool = False
    """The SDK encrypts and checks it before any client sees it."""

    def for_tool(self, tool: str, arguments: JsonObject, caller: Caller) -> ToolRequest:
        """This `tools/call`, as a call of `tool` with `arguments`."""
        return _tool_request(
            tool=tool,
            arguments=arguments,
            meta=self.params.get("_meta") or {},
            caller=caller,
            protocol_version=self.protocol_version,
            request_state=self.request_state,
            request_state_is_sealed=self.request_state_is_sealed,
        )


_tool_request = making(ToolRequest)


class ResultTaker(Protocol):
    """Gets what the SDK makes of a handler's value, on its way to the client."""

    async def ended(self, wire: JsonObject) -> JsonObject:
        """The result as the client gets it."""
        ...

    async def failed(self, error: BaseException) -> None:
        """There is no result: `error` is raised further."""
        ...


class RegisteredTool(Protocol):
    """A tool as its server knows it."""

    name: str
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any] | None
    function: Callable[..., Any]

    def validated(self, arguments: JsonObject) -> dict[str, Any]:
        """The handler's keyword arguments, made of `arguments` as the SDK itself makes them.

        Raises:
            ValidationError: They do not fit the tool's schema.
        """
        ...

    def passes_result_to(self, taker: ResultTaker, request: IncomingRequest | None) -> bool:
        """Whether `taker` will get what the SDK itself makes of the value that this call's handler is about to give.

        If not, it has to be made here (`result_of`), and the SDK is given a result (`answering`).
        """
        ...

    def result_of(self, value: object) -> JsonObject | None:
        """What the SDK makes of the handler's value, on the wire; None for a question to the client.

        Raises:
            Exception: As the SDK itself will when it is given this value.
        """
        ...

    def answering(self, wire: JsonObject) -> object:
        """A result that the SDK passes on as it is. It was made, and validated, by the SDK's own converter before."""
        ...

    def error(self, error: Exception) -> Exception:
        """What the handler raises so that the client reads the message as the tool's own error."""
        ...


class SdkOfContexts(Protocol):
    """What a context is asked of the SDK that made it."""

    def request_of(self, context: Any) -> IncomingRequest | None:
        """The request behind a high-level context; None outside of one."""
        ...

    def registered_tool(
        self, context: Any, is_handler: Callable[[object], bool], name: str | None
    ) -> RegisteredTool | None:
        """The tool of the context's server whose function satisfies `is_handler`; under `name`, if that is given.

        Raises:
            LookupError: This version of the SDK keeps its tools where we do not find them.
        """
        ...


class Sdk(Protocol):
    """A module is one: each SDK has its own, and no other module of ours imports that SDK."""

    # ── servers and their tools ──────────────────────────────────────────────────────────────────────────────

    @property
    def watch_registrations(self) -> Callable[[], None]:
        """Notice from now on what the SDK tells nobody: which functions become tools, which request is served."""
        ...

    def was_registered(self, function: object) -> bool:
        """Whether `function` itself, or a method that binds it, is some server's tool already."""
        ...

    def tool_of_server(
        self, server: object, is_handler: Callable[[object], bool], name: str | None
    ) -> RegisteredTool | None: ...

    # ── requests ─────────────────────────────────────────────────────────────────────────────────────────────

    def context_type(self) -> type:
        """The class by whose annotation the SDK recognises a parameter that takes the request."""
        ...

    def of_context(self, context_type: type) -> SdkOfContexts: ...

    def current_request(self) -> IncomingRequest | None:
        """The request that is being served here, for a handler that is not given it."""
        ...

    def called_tool(self) -> str | None:
        """The name by which the client calls a tool here, at the cost of a look-up; None where none is known."""
        ...

    def caller_of(self, request: IncomingRequest | None) -> Caller:
        """Who calls, by the request's own authentication."""
        ...

    def reporter(self, request: IncomingRequest | None) -> Reporter | None:
        """Reports the work on a call's files as MCP progress, once the tool's own is heard from here on.

        None where there is no request.
        """
        ...

    # ── values ───────────────────────────────────────────────────────────────────────────────────────────────

    def is_result(self, value: object) -> bool: ...

    def is_block(self, value: object) -> bool: ...

    def is_question(self, value: object) -> bool:
        """Whether a tool that gives this value wants something of the client first."""
        ...

    def with_request_state(self, question: Any, state: str | None) -> object: ...

    def to_wire(self, value: Any) -> JsonObject: ...

    def result_from_wire(self, wire: JsonObject) -> object: ...

    def text_block(self, text: str) -> object: ...

    def jsonable(self, value: object) -> Json:
        """`value` as JSON, for an argument that never was on the wire."""
        ...
