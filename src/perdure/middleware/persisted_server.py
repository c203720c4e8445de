"""A whole server's tools on their way through perdure, as wire dictionaries: what every seam around a server drives.

A seam passes each `tools/call`, `tools/list` and `resources/read` here, with the server's own way to answer it.
"""

import base64
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from perdure.errors import FileMissing, StoreUnavailable
from perdure.logs import log
from perdure.middleware.active_call import ActiveCall, within
from perdure.middleware.call_files import Reporter
from perdure.middleware.call_reader import Caller, ToolShape, readers_of
from perdure.middleware.conversation_resources import ConversationResources
from perdure.middleware.persisted_call import PersistedCall
from perdure.middleware.persistence.turn import JsonObject
from perdure.middleware.persistence.wiring import Runtime, runtime
from perdure.middleware.request_state import is_envelope
from perdure.middleware.sdk.interface import IncomingRequest
from perdure.middleware.shown_tools import ShownTools
from perdure.middleware.tool_plan import KnownPlans, ToolPlan
from perdure.middleware.tool_schema import (
    CONTINUATION_ID,
    amended,
    declares_continuation_id,
    is_stray_id,
    without_added_id,
)
from perdure.policy_sources import IN_CODE, Origin, Source
from perdure.settings import Policy, ToolSettings

__all__ = ["PersistedServer", "Proceed", "ServerBehind", "listed_tools"]


class Proceed(Protocol):
    def __call__(self, arguments: JsonObject | None, *, opened: bool = False) -> Awaitable[Any]:
        """The server's own answer to the request that is being served, with these arguments; None: those it came with.

        `opened`: and with the tool's own request state (`request_state.own_state`) in place of our envelope around it.
        """
        ...


class ServerBehind(Protocol):
    """What is asked of the server that a seam stands before."""

    def in_code(self, tool: str) -> ToolSettings | None:
        """The options of the decorator that persists this tool within the server; None if there is none."""
        ...

    async def entries(self, request: IncomingRequest) -> dict[str, JsonObject]:
        """All tools by name, as the server itself lists them; empty if it cannot."""
        ...

    def wire(self, answer: Any) -> JsonObject:
        """What `Proceed` gave, in its wire form."""
        ...

    def error(self, text: str) -> JsonObject:
        """A tool's result that is an error, in its wire form."""
        ...

    def caller(self, request: IncomingRequest) -> Caller: ...

    def reporter(self, request: IncomingRequest) -> Reporter | None:
        """Knows where to tell how far the work on a call's files is. Asked before the tool's body runs."""
        ...


async def listed_tools(page: Callable[[str | None], Awaitable[JsonObject]]) -> dict[str, JsonObject]:
    """All tools by name, page by page; `page` gives the one at a cursor. A server that never stops is left at that."""
    found: dict[str, JsonObject] = {}
    cursor: str | None = None
    while True:
        answer = await page(cursor)
        found |= {tool["name"]: tool for tool in answer.get("tools", [])}
        cursor = answer.get("nextCursor")
        if not cursor or len(found) > _MOST_TOOLS:
            return found


class PersistedServer:
    def __init__(
        self,
        server: ServerBehind,
        named: dict[str, ToolSettings],
        shown: ShownTools | None = None,
        *,
        or_else: str = ', or install(server, tools=["NAME"])',
    ) -> None:
        """
        Args:
            named: Tools to be persisted besides those that settings and decorators name.
            shown: Is told which tools clients are shown, for a seam that can tell them when that changes.
            or_else: How an operator can name one besides in settings.
        """
        self.named = named
        self.shown = shown or ShownTools(lambda _: None)
        self.shown.hooked = True
        self.conversations = ConversationResources()
        self._were_on: set[str] = set()
        """Tools to which a client may send an id that it got from us."""
        self._server = server
        self._or_else = or_else
        self._plans = KnownPlans()
        self._entries: dict[str, JsonObject] = {}
        """The tools' entries in `tools/list`, as the server itself gives them."""
        self._said_what_there_is = False

    async def call(self, request: IncomingRequest, proceed: Proceed) -> Any:
        """The answer to a `tools/call`: the server's own object where nothing is to be said, else on the wire."""
        name, arguments = request.params.get("name"), request.params.get("arguments")
        if not isinstance(name, str) or not (arguments is None or isinstance(arguments, dict)):
            return await proceed(None)  # The server has the right words for it.
        active = ActiveCall(key=request.key, tool=name, request=request)
        now, in_code = runtime(), self._server.in_code(name)
        policy = now.policy(name, in_code if in_code is not None else self.named.get(name))
        if in_code is not None or not policy.enabled:
            # A decorator inside, if there is one, persists the call and leaves it here to be announced.
            with within(active):
                result = await (
                    proceed(None) if in_code is not None else self._passed_on(name, request, policy, proceed)
                )
            return result if active.call is None else active.call.announce(self._server.wire(result))
        entry = self._entries.get(name)
        if entry is None and (entry := await self._entry(name, request)) is None:
            return await proceed(None)  # No such tool: nobody's turn.
        opened = request.request_state is not None and is_envelope(request.request_state)
        try:
            asked = request.for_tool(name, dict(arguments or {}), self._server.caller(request))
            schemas = entry.get("inputSchema"), entry.get("outputSchema")
            plan = self._plans.plan(name, policy, *schemas, widened=True) or self._new_plan(now, name, policy, *schemas)
            call = PersistedCall(now, asked, plan)
            call.kept.reporter = self._server.reporter(request) if policy.files else None
        except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
            now.say("call.not_understood", error)
            return await proceed(None, opened=opened)
        active.call = call
        return await self._persisted(active, call, partial(proceed, opened=True) if opened else proceed)

    async def _passed_on(self, name: str, request: IncomingRequest, policy: Policy, proceed: Proceed) -> Any:
        """Without what a client still sends to a tool that was switched off meanwhile."""
        # Of a tool that was never on here, it is the envelope of a perdure further in.
        opened = name in self._were_on and is_envelope(request.request_state)
        return await proceed(await self._without_stray_id(name, request, policy), opened=opened)

    async def _persisted(
        self, active: ActiveCall, call: PersistedCall, proceed: Callable[[JsonObject | None], Awaitable[Any]]
    ) -> JsonObject:
        await call.begin_async()
        if call.kept.refusal is not None:
            refused = self._server.error(str(call.kept.refusal))
            call.end_with_result(refused)
            await call.finish_async()
            return call.announce(refused)
        if call.kept.replayed is not None:
            return call.announce(call.kept.replayed)
        try:
            if call.steps.have_waited:
                await checkpoint_if_cancelled()
            arguments = call.arguments_for_tool()
            with within(active):
                result = await proceed(None if arguments is call.request.arguments else arguments)
        except BaseException as error:
            call.end_with_error(error, cancelled=isinstance(error, anyio.get_cancelled_exc_class()))
            await call.finish_async()
            raise
        wire = self._server.wire(result)
        call.end_with_result(wire)
        await call.finish_async()
        return call.announce(wire)

    def list(self, page: JsonObject) -> JsonObject:
        """A page of `tools/list` as the client is shown it."""
        tools = page.get("tools")
        if not isinstance(tools, list):
            return page
        self._entries |= {tool["name"]: tool for tool in tools}
        self._say_what_there_is()
        return {**page, "tools": [self._amended(tool) for tool in tools]}

    def keeps(self, request: IncomingRequest) -> bool:
        """Whether a `resources/read` asks for a file of ours."""
        uri, now = request.params.get("uri"), runtime()
        ours = f"storage://{now.keeper.file_store.bucket}/"
        return now.settings.enabled and isinstance(uri, str) and uri.startswith(ours)

    async def read(self, request: IncomingRequest) -> JsonObject:
        """The answer to `resources/read` for a stored file: the caller's own only. Text as text, else a blob.

        Raises:
            StoreError: There is none, it is too large for one message, or it could not be read now.
        """
        uri: str = request.params["uri"]
        now = runtime()
        principals = readers_of(self._server.caller(request), now.settings)
        seconds = now.settings.policy("").file_timeout
        try:
            content, media_type = await now.file_lane.call_async(lambda: _content(now, principals, uri), budget=seconds)
        except FileMissing:
            raise
        except Exception as error:
            now.say("resource.not_read", error)
            raise StoreUnavailable(f"{uri} could not be read now.", remedy="try again later.") from error
        return {"contents": [{"uri": uri, "mimeType": media_type, **_text_or_blob(content, media_type)}]}

    def _new_plan(
        self, now: Runtime, name: str, policy: Policy, input_schema: JsonObject | None, output_schema: JsonObject | None
    ) -> ToolPlan:
        shape = ToolShape(
            declares_id=declares_continuation_id(input_schema),
            input_schema=input_schema,
            output_schema=output_schema,
            schema_widened=True,
        )
        self._note_on(name)
        return self._plans.noted(name, ToolPlan(now, policy, shape))

    def _amended(self, tool: JsonObject) -> JsonObject:
        try:
            name = tool["name"]
            in_code = self._server.in_code(name)
            policy = self._policy(name, in_code)
            by = IN_CODE if in_code is not None else BY_INSTALL
            self.shown.note(name, in_code if in_code is not None else self.named.get(name), by, policy, widens=True)
            if policy.enabled:
                self._note_on(name)
                return amended(tool, policy)
            return tool if in_code is None else without_added_id(tool)
        except Exception as error:  # noqa: BLE001 - a schema that we cannot read is the server's to show
            runtime().say("tool.not_amended", error)
            return tool

    def _note_on(self, tool: str) -> None:
        if len(self._were_on) < _MOST_TOOLS:
            self._were_on.add(tool)

    async def _without_stray_id(self, name: str, request: IncomingRequest, policy: Policy) -> JsonObject | None:
        """The arguments for a tool that is switched off: less an id that it would not know. None: as they are."""
        arguments = request.params.get("arguments")
        if not arguments or CONTINUATION_ID not in arguments or not runtime().settings.enabled:
            return None
        schema = (await self._entry(name, request) or {}).get("inputSchema")
        if not policy.strip_id and not is_stray_id(schema, was_on=name in self._were_on):
            return None
        return {argument: value for argument, value in arguments.items() if argument != CONTINUATION_ID}

    def _policy(self, name: str, in_code: ToolSettings | None) -> Policy:
        return runtime().policy(name, in_code if in_code is not None else self.named.get(name))

    async def _entry(self, name: str, request: IncomingRequest) -> JsonObject | None:
        """The tool's own entry in `tools/list`, asked of the server if no client has asked here yet.

        None if the server lists others and not this one; empty if it lists none at all.
        """
        if name not in self._entries:
            try:
                self._entries |= await self._server.entries(request)
            except Exception as error:  # noqa: BLE001 - the call itself may work all the same
                runtime().say("install.tools_not_listed", error)
        return self._entries.get(name, None if self._entries else {})

    def _say_what_there_is(self) -> None:
        """An operator who has named no tool is told which there are."""
        if self._said_what_there_is:
            return
        self._said_what_there_is = True
        if not runtime().is_usable or any(
            self._policy(name, self._server.in_code(name)).enabled for name in self._entries
        ):
            return
        names = ", ".join(sorted(self._entries)) or "none"
        log.warning(
            "install.no_tool_named",
            what=f"perdure is installed, and no tool is switched on. This server's tools: {names}.",
            remedy=f'write [tools.NAME] with "enabled = true" in perdure.toml{self._or_else}.',
        )


def _content(now: Runtime, principals: Sequence[str], uri: str) -> tuple[bytes, str]:
    """
    Raises:
        FileMissing: None of `principals` has it.
    """
    for principal in principals[:-1]:
        with contextlib.suppress(FileMissing):
            return now.keeper.content(principal, uri, max_bytes=now.settings.max_resource_bytes)
    return now.keeper.content(principals[-1], uri, max_bytes=now.settings.max_resource_bytes)


BY_INSTALL = Source(Origin.CODE, "install(tools=…)")

_MOST_TOOLS = 10_000

_TEXT_TYPES = frozenset({"application/json", "application/xml", "application/javascript", "application/toml"})


def _text_or_blob(content: bytes, media_type: str) -> JsonObject:
    if media_type.startswith("text/") or media_type in _TEXT_TYPES:
        try:
            return {"text": content.decode("utf-8")}
        except UnicodeDecodeError:
            pass
    return {"blob": base64.b64encode(content).decode("ascii")}
