"""A world: tools served by one kind of server, and persisted in one way. The suite runs in every world there is.

A behaviour gives a world a toolbox, which stands in a module so that another process can import it, and settings as
they stand in `perdure.toml`. It sees what a client sees, in wire form, and the turns that were kept.
"""

import inspect
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from seams.worlds.open_servers import OPEN_SERVERS

from perdure import Turn, install, persisted
from perdure.middleware.persistence import wiring
from perdure.settings_loader import load_settings

__all__ = [
    "CallRefused",
    "Json",
    "Kit",
    "Limit",
    "Persist",
    "ServerKind",
    "Tool",
    "ToolClient",
    "Toolbox",
    "Way",
    "World",
    "toolbox_named",
]

Json = dict[str, Any]

Tool = Callable[..., Any]
"""A handler as its author writes it. It is called by its `__name__`."""

Persist = Callable[[Any], Any]
"""`persisted`, or what leaves a handler as it is."""


class Kit(Protocol):
    """What a tool's author imports from an SDK."""

    persist: Persist
    """`persisted` in a world of decorated functions, for a toolbox that applies it itself."""
    Context: type
    CallToolResult: type
    TextContent: type
    Image: type

    def result(self, wire: Json) -> Any:
        """A `CallToolResult`."""
        ...

    def block(self, wire: Json) -> Any:
        """A content block."""
        ...

    def image(self, data: bytes, media_format: str) -> Any: ...

    def tool_error(self, message: str) -> Exception:
        """What a tool raises to refuse in words of its own."""
        ...

    def protocol_error(self, code: int, message: str) -> Exception:
        """What a tool raises for an error of the protocol; see `Limit.NO_PROTOCOL_ERROR`."""
        ...

    async def report_progress(self, context: Any, progress: float, message: str) -> None: ...

    def meta_of(self, context: Any) -> Mapping[str, Any]:
        """The `_meta` of the request."""
        ...


Toolbox = Callable[[Kit], Sequence[Tool]]


class ToolClient(Protocol):
    """An initialized client, which holds results against the output schemas that it was shown."""

    async def list_tools(self) -> list[Json]: ...

    async def call_tool(
        self,
        name: str,
        arguments: Json | None = None,
        meta: Json | None = None,
        *,
        on_progress: Callable[[float, str | None], None] | None = None,
        timeout: float | None = None,
    ) -> Json:
        """
        Raises:
            CallRefused: The server answered with an error of the protocol, or not in time.
            Exception: The result is not what the tool's output schema says.
        """
        ...

    async def give_up(self, name: str, arguments: Json, when: Callable[[], Awaitable[None]]) -> None:
        """Call a tool, and cancel that call by a notification once `when` is over."""
        ...

    async def read_resource(self, uri: str) -> Json:
        """
        Raises:
            CallRefused: There is none.
        """
        ...


class CallRefused(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ServerKind(Protocol):
    """A server class of an SDK."""

    sdk: str
    """Its name and version."""
    name: str
    decorates: bool
    """Whether it is the functions of a toolbox that are decorated; else what calls them is."""
    limits: Mapping["Limit", str]
    """Of any way, with the reason."""
    limits_when_decorated: Mapping["Limit", str]
    limits_when_hooked: Mapping["Limit", str]

    def kit(self, persist: Persist) -> Kit: ...

    def server(self, tools: Sequence[Tool], persist: Persist) -> Any: ...

    def add(self, server: Any, tool: Tool, persist: Persist) -> None:
        """Registers one more."""
        ...

    def connect(self, server: Any) -> AbstractAsyncContextManager[ToolClient]:
        """A client of a server in this process."""
        ...

    def connect_to_process(
        self, command: Sequence[str], environment: Mapping[str, str]
    ) -> AbstractAsyncContextManager[ToolClient]:
        """A client of a stdio server."""
        ...

    def run_on_stdio(self, server: Any) -> None: ...


class Limit(Enum):
    """What not every world can give. Where one cannot, the behaviour asserts what there is instead."""

    NOT_IN_LIST = "the server's own list of tools is shown unchanged"
    NOT_IN_STRUCTURED = "the id is not announced in structured content"
    NO_HISTORY_PARAMETER = "no handler is given its history in a parameter"
    NO_PROTOCOL_ERROR = "what a tool raises is always a result, never an error of the protocol"
    CRASH_TEXT_IS_SENT = "the text of any exception is sent to the client"
    CRASH_TEXT_IS_LOST = "the record has the SDK's word for a crash, not the exception's own"
    RESULTS_ARE_NOT_CHECKED = "a result that its own schema refuses is sent, and refused by the client"
    SYNC_ON_THE_EVENT_LOOP = "synchronous tools run on the event loop, one at a time"
    NO_TOOL_DECORATOR = "there is no decorator of the SDK's for a tool, so none that could stand in the wrong place"
    NO_RESOURCES = "the server does not answer resources/read for stored files"
    NO_CURRENT_CONVERSATION = "a tool cannot ask for its conversation by current_conversation()"


class Way(Enum):
    """How a server's tools come to be persisted."""

    BARE = "bare"
    DECORATOR = "decorator"
    HOOK = "hook"
    RUN = "run"
    PROXY = "proxy"


_LIMITS_OF_A_HOOK = {
    Limit.NO_HISTORY_PARAMETER: "only a decorated handler may declare one; see current_conversation()",
}

_LIMITS_OF_A_PROXY = {
    Limit.NO_HISTORY_PARAMETER: "the server knows nothing of perdure",
    Limit.NO_CURRENT_CONVERSATION: "the server knows nothing of perdure",
}

_PERDURE = str(Path(sys.executable).with_name("perdure"))


@dataclass(frozen=True)
class World:
    kind: ServerKind
    way: Way
    noted: set[Limit] = field(default_factory=set, compare=False)
    """The limits that a behaviour met."""

    def __str__(self) -> str:
        return f"{self.kind.name} {self.way.value}"

    @property
    def bare(self) -> "World":
        """The same server without perdure, in this process."""
        return replace(self, way=Way.BARE)

    @property
    def is_process(self) -> bool:
        """Whether a server of this world is always in a process of its own, on stdio."""
        return self.way in (Way.RUN, Way.PROXY)

    @property
    def limits(self) -> dict[Limit, str]:
        """With the reasons."""
        match self.way:
            case Way.BARE:
                of_the_way: Mapping[Limit, str] = {}
            case Way.DECORATOR:
                of_the_way = self.kind.limits_when_decorated
            case Way.HOOK | Way.RUN:
                of_the_way = {**_LIMITS_OF_A_HOOK, **self.kind.limits_when_hooked}
            case Way.PROXY:
                of_the_way = {**_LIMITS_OF_A_PROXY, **self.kind.limits_when_hooked}
        return {**self.kind.limits, **of_the_way}

    def has(self, limit: Limit) -> bool:
        """Whether this world has it. To be asked by the behaviour that asserts what there is instead."""
        if limit in self.limits:
            self.noted.add(limit)
            return True
        return False

    @property
    def persist(self) -> Persist:
        return _persisted_once if self.way is Way.DECORATOR else _as_it_is

    def tools(self, toolbox: Toolbox) -> Sequence[Tool]:
        return toolbox(self.kind.kit(self.persist if self.kind.decorates else _as_it_is))

    def add(self, server: Any, toolbox: Toolbox) -> None:
        """Registers these tools with a server that is there already."""
        for tool in self.tools(toolbox):
            self.kind.add(server, tool, self.persist)

    def server(self, toolbox: Toolbox) -> Any:
        """A server in this process, ready to be connected to."""
        assert not self.is_process, "mark this behaviour with in_this_process"
        server = self.kind.server(self.tools(toolbox), self.persist)
        if self.way is Way.HOOK:
            install(server)
        return server

    @asynccontextmanager
    async def serve(
        self, toolbox: Toolbox, settings: Mapping[str, Any] | None = None, *, alone: bool = False
    ) -> AsyncIterator[ToolClient]:
        """A client of a new server with these tools. One after the other in a test are as restarts of one server.

        Servers in processes are not new, and neither are their clients: they have served other behaviours before,
        unless `alone`. That is for a behaviour that changes the environment, harms the server, or wants it to end.
        """
        if self.is_process and alone:
            async with self.serve_as_process(toolbox, settings) as client:
                yield client
        elif self.is_process:
            async with self._served_by_an_open_process(toolbox, settings) as client:
                yield client
        else:
            with self.running(settings):
                async with self.kind.connect(self.server(toolbox)) as client:
                    yield client

    @asynccontextmanager
    async def _served_by_an_open_process(
        self, toolbox: Toolbox, settings: Mapping[str, Any] | None
    ) -> AsyncIterator[ToolClient]:
        command, text = self.command(toolbox), self._settings_text(settings)
        key = (*command, text)
        try:
            start = partial(self.kind.connect_to_process, command)
            server = await OPEN_SERVERS.take(key, text, start, behaviour=self)
            yield server.client
        except BaseException:
            await OPEN_SERVERS.drop(key)
            raise

    @asynccontextmanager
    async def serve_as_process(
        self, toolbox: Toolbox, settings: Mapping[str, Any] | None = None
    ) -> AsyncIterator[ToolClient]:
        """As `serve`, on stdio in a process of its own."""
        self.write_settings(settings)
        async with self.kind.connect_to_process(self.command(toolbox), dict(os.environ)) as client:
            yield client

    def command(self, toolbox: Toolbox) -> list[str]:
        """What starts a stdio server with these tools."""
        script = str(Path(__file__).with_name("stdio_server.py"))
        match self.way:
            case Way.RUN:
                return [_PERDURE, "run", script, self.kind.name, Way.BARE.value, name_of(toolbox)]
            case Way.PROXY:
                return [_PERDURE, "proxy", "--", *self.bare.command(toolbox)]
            case Way.BARE | Way.DECORATOR | Way.HOOK:
                return [sys.executable, script, self.kind.name, self.way.value, name_of(toolbox)]

    @contextmanager
    def running(self, settings: Mapping[str, Any] | None = None) -> Iterator[None]:
        """perdure in this process as if it had just started, with these settings."""
        self.write_settings(settings)
        with wiring.activated(None):  # type: ignore[arg-type]  # made anew from the settings when first asked for
            yield
            if wiring._runtime is not None:
                wiring._runtime.engine.store.close()

    def write_settings(self, settings: Mapping[str, Any] | None = None) -> None:
        Path(os.environ["PERDURE_CONFIG"]).write_text(self._settings_text(settings))

    def _settings_text(self, settings: Mapping[str, Any] | None) -> str:
        settings = dict(settings or {})
        if self.way is not Way.DECORATOR:  # where the operator names the tools, all are named
            settings["defaults"] = {"enabled": True, **settings.get("defaults", {})}
        return _toml(settings)

    def turns(self) -> list[Turn]:
        """All turns of everybody, in the order in which they began within each conversation."""
        runtime = wiring.build(load_settings())
        try:
            return [
                turn
                for line in reversed(runtime.engine.conversations())
                for turn in runtime.engine.turns(line.principal, line.continuation_id)
            ]
        finally:
            runtime.engine.store.close()


def toolbox_named(name: str) -> Toolbox:
    """`module:function`, as `name_of` says it."""
    module, function = name.split(":")
    found: Toolbox = getattr(__import__(module, fromlist=[function]), function)
    return found


def name_of(toolbox: Toolbox) -> str:
    assert inspect.isfunction(toolbox)
    return f"{toolbox.__module__}:{toolbox.__qualname__}"


def _persisted_once(handler: Any) -> Any:
    function = getattr(handler, "__func__", handler)
    return handler if hasattr(function, "__perdure__") else persisted(handler)


def _as_it_is(handler: Any) -> Any:
    return handler


def _toml(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> str:
    """Tables of texts, numbers, booleans and lists of them."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, Mapping)]
    for key, value in table.items():
        if isinstance(value, Mapping):
            here = (*path, key)
            lines += [f"[{'.'.join(json.dumps(part) for part in here)}]", _toml(value, here)]
    return "\n".join(lines) + "\n"
