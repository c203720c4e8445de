"""`install(server)`: the seam around a whole server, for tools whose code is not touched at all."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from perdure.errors import FileMissing, StoreUnavailable
from perdure.logs import log
from perdure.middleware import mcp_v2
from perdure.middleware.call_reader import ToolRequest, principal_of
from perdure.middleware.persisted_call import ActiveCall, PersistedCall, within
from perdure.middleware.persisted_handler import PersistedHandler, persisted_handler_of
from perdure.middleware.persistence.turn import JsonObject
from perdure.middleware.persistence.wiring import runtime
from perdure.middleware.tool_schema import amended, declares_continuation_id
from perdure.settings import Policy, ToolSettings

if TYPE_CHECKING:
    from mcp.server.context import HandlerResult, ServerRequestContext

__all__ = ["install"]


def install(server: object, *, tools: Iterable[str] = ()) -> None:
    """Persist tools of `server`, an `MCPServer` or a low-level `Server` of mcp 2.x. Once; a second time does nothing.

    Which tools: those that `perdure.toml` switches on, those named in `tools`, and those decorated with `@persisted`.
    A tool both decorated and named is recorded once.

    Raises:
        TypeError: `server` is neither.
    """
    lowlevel = mcp_v2.lowlevel_server(server)
    named = {name: ToolSettings() for name in ([tools] if isinstance(tools, str) else tools)}
    for middleware in lowlevel.middleware:
        if isinstance(middleware, _ServerHook):
            middleware.named.update(named)
            return
    lowlevel.middleware.append(_ServerHook(server, named))


class _ServerHook:
    def __init__(self, server: object, named: dict[str, ToolSettings]) -> None:
        self.named = named
        self._server = server
        self._entries: dict[str, JsonObject] = {}
        """The tools' entries in `tools/list`, as the server itself gives them."""
        self._said_what_there_is = False

    async def __call__(
        self,
        ctx: "ServerRequestContext[Any, Any]",
        call_next: "Callable[[ServerRequestContext[Any, Any]], Awaitable[HandlerResult]]",
    ) -> "HandlerResult":
        match ctx.method:
            case "tools/call" if ctx.request_id is not None:
                return await self._call(ctx, call_next)
            case "tools/list" if ctx.request_id is not None:
                return self._list(await call_next(ctx))
            case "resources/read" if ctx.request_id is not None and (uri := _kept_here(ctx.params)) is not None:
                return await self._read(uri, ctx)
            case _:
                return await call_next(ctx)

    async def _call(
        self,
        ctx: "ServerRequestContext[Any, Any]",
        call_next: "Callable[[ServerRequestContext[Any, Any]], Awaitable[HandlerResult]]",
    ) -> "HandlerResult":
        params: Mapping[str, Any] = ctx.params or {}
        name = params.get("name")
        arguments = params.get("arguments")
        if not isinstance(name, str) or not isinstance(arguments, Mapping | None):
            return await call_next(ctx)  # The SDK has the right words for it.
        active = ActiveCall(key=ctx.session, tool=name, request=ctx)
        policy, decorated = self._policy(name)
        if decorated is not None or not policy.enabled:
            # A decorator inside, if there is one, persists the call and leaves it here to be announced.
            with within(active):
                result = await call_next(ctx)
            return result if active.call is None else self._announced(active.call, result)
        entry = await self._entry(name, ctx)
        if entry is None:
            return await call_next(ctx)  # No such tool: nobody's turn.
        try:
            call = _understood(ctx, name, params, entry, policy)
        except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
            runtime().say("call.not_understood", error)
            return await call_next(ctx)
        active.call = call
        call.report_to(lambda: mcp_v2.reporter(ctx, anyio.lowlevel.current_token))
        await call.begin_async()
        if call.refusal is not None:
            refused = mcp_v2.to_wire(mcp_v2.error_result(call.refusal))
            call.end_with_result(refused)
            await call.finish_async()
            return call.announce(refused)
        try:
            # The wait was shielded: the body of a call that was cancelled meanwhile must not start.
            await anyio.lowlevel.checkpoint_if_cancelled()
            with within(active):
                result = await call_next(_with_arguments(ctx, call.arguments_for_tool()))
        except BaseException as error:
            call.end_with_error(error, cancelled=isinstance(error, anyio.get_cancelled_exc_class()))
            await call.finish_async()
            raise
        wire = mcp_v2.wire_result(result)
        call.end_with_result(wire)
        await call.finish_async()
        return call.announce(wire)

    async def _read(self, uri: str, ctx: "ServerRequestContext[Any, Any]") -> JsonObject:
        """A stored file as a resource: the caller's own only.

        Raises:
            MCPError: There is none, or it is too large for one message.
        """
        now = runtime()
        principal = principal_of(mcp_v2.caller_of(ctx), now.settings)
        seconds = now.settings.policy("").file_timeout
        try:
            content, media_type = await now.file_lane.call_async(
                lambda: now.keeper.content(principal, uri, max_bytes=now.settings.max_resource_bytes), budget=seconds
            )
        except FileMissing as error:
            raise mcp_v2.resource_not_found(uri, error) from error
        except Exception as error:
            now.say("resource.not_read", error)
            unavailable = StoreUnavailable(f"{uri} could not be read now.", remedy="try again later.")
            raise mcp_v2.resource_not_found(uri, unavailable) from error
        return mcp_v2.resource_result(uri, content, media_type, ctx.protocol_version)

    def _announced(self, call: PersistedCall, result: "HandlerResult") -> "HandlerResult":
        return call.announce(mcp_v2.wire_result(result))

    def _list(self, result: "HandlerResult") -> "HandlerResult":
        wire = mcp_v2.wire_result(result)
        tools = wire.get("tools")
        if not isinstance(tools, list):
            return result
        self._entries |= {tool["name"]: tool for tool in tools}
        self._say_what_there_is()
        return {**wire, "tools": [self._amended(tool) for tool in tools]}

    def _amended(self, tool: JsonObject) -> JsonObject:
        try:
            policy, _ = self._policy(tool["name"])
            return amended(tool, policy) if policy.enabled else tool
        except Exception as error:  # noqa: BLE001 - a schema that we cannot read is the server's to show
            runtime().say("tool.not_amended", error)
            return tool

    def _policy(self, name: str) -> tuple[Policy, PersistedHandler | None]:
        tool = mcp_v2.tool_of_server(self._server, lambda function: persisted_handler_of(function) is not None, name)
        decorated = persisted_handler_of(tool.function) if tool is not None else None
        in_code = decorated.in_code if decorated is not None else self.named.get(name)
        return runtime().policy(name, in_code), decorated

    async def _entry(self, name: str, ctx: "ServerRequestContext[Any, Any]") -> JsonObject | None:
        """The tool's own entry in `tools/list`, asked of the server if no client has asked here yet.

        None if the server lists others and not this one; empty if it lists none at all.
        """
        if name not in self._entries:
            try:
                self._entries |= await mcp_v2.listed_tools(self._server, ctx)
            except Exception as error:  # noqa: BLE001 - the call itself may work all the same
                runtime().say("install.tools_not_listed", error)
        return self._entries.get(name, None if self._entries else {})

    def _say_what_there_is(self) -> None:
        """An operator who has named no tool is told which there are."""
        if self._said_what_there_is:
            return
        self._said_what_there_is = True
        if any(self._policy(name)[0].enabled for name in self._entries):
            return
        names = ", ".join(sorted(self._entries)) or "none"
        log.warning(
            "install.no_tool_named",
            what=f"perdure is installed, and no tool is switched on. This server's tools: {names}.",
            remedy='write [tools.NAME] with "enabled = true" in perdure.toml, or install(server, tools=["NAME"]).',
        )


def _understood(
    ctx: "ServerRequestContext[Any, Any]", name: str, params: Mapping[str, Any], entry: JsonObject, policy: Policy
) -> PersistedCall:
    return PersistedCall(
        runtime(),
        ToolRequest(
            tool=name,
            arguments=dict(params.get("arguments") or {}),
            meta=params.get("_meta") or {},
            caller=mcp_v2.caller_of(ctx),
            protocol_version=ctx.protocol_version,
            declares_id=declares_continuation_id(entry.get("inputSchema")),
            input_schema=entry.get("inputSchema"),
            output_schema=entry.get("outputSchema"),
            schema_widened=True,
        ),
        policy,
    )


def _with_arguments(ctx: "ServerRequestContext[Any, Any]", arguments: JsonObject) -> "ServerRequestContext[Any, Any]":
    params = ctx.params or {}
    if not arguments and not params.get("arguments"):
        return ctx  # None were sent, and none are to be had: that is not the same as an empty object.
    return replace(ctx, params={**params, "arguments": arguments})


def _kept_here(params: Mapping[str, Any] | None) -> str | None:
    """The URI of our bucket that a `resources/read` asks for; None if it asks for something else."""
    uri, now = (params or {}).get("uri"), runtime()
    ours = f"storage://{now.keeper.file_store.bucket}/"
    return uri if now.settings.enabled and isinstance(uri, str) and uri.startswith(ours) else None
