"""What the Python SDKs have in common: their words for the parts of a result, their servers, and a client's calls."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar

import anyio
from pydantic import BaseModel, TypeAdapter
from seams.worlds.world import CallRefused, Json, Limit, Persist
from seams.worlds.world import Tool as Handler

__all__ = ["HighLevelServers", "LowLevelServers", "SdkClient", "SdkKit", "Told"]


class SdkKit:
    """The SDK's own classes stand in the subclass."""

    CallToolResult: ClassVar[Any]
    ContentBlock: ClassVar[Any]
    Image: ClassVar[Any]
    ToolError: ClassVar[Any]

    def __init__(self, persist: Persist) -> None:
        self.persist = persist

    def result(self, wire: Json) -> Any:
        return self.CallToolResult.model_validate(wire)

    def block(self, wire: Json) -> Any:
        return TypeAdapter(self.ContentBlock).validate_python(wire)

    def image(self, data: bytes, media_format: str) -> Any:
        return self.Image(data=data, format=media_format)

    def tool_error(self, message: str) -> Exception:
        error: Exception = self.ToolError(message)
        return error

    async def report_progress(self, context: Any, progress: float, message: str) -> None:
        await context.report_progress(progress, message=message)


class HighLevelServers(ABC):
    """Servers that make a tool of a function."""

    decorates = True

    @abstractmethod
    def new(self) -> Any: ...

    def server(self, tools: Sequence[Handler], persist: Persist) -> Any:
        server = self.new()
        for tool in tools:
            self.add(server, tool, persist)
        return server

    def add(self, server: Any, tool: Handler, persist: Persist) -> None:
        server.add_tool(persist(tool))

    def run_on_stdio(self, server: Any) -> None:
        server.run()


class LowLevelServers:
    """Servers whose one handler answers for all tools."""

    name = "low-level"
    decorates = False
    own_limits: Mapping[Limit, str] = {Limit.NO_TOOL_DECORATOR: "one handler answers for all tools of such a server"}
    own_limits_when_decorated: Mapping[Limit, str] = {
        Limit.NOT_IN_LIST: "the list is the server's own code, which a decorator does not see",
        Limit.NOT_IN_STRUCTURED: "the output schema is the server's own code, which a decorator does not see",
        Limit.NO_HISTORY_PARAMETER: "its method takes one dictionary; see current_conversation()",
    }
    stdio_server: ClassVar[Any]
    """The SDK's own, as a static method."""

    def run_on_stdio(self, server: Any) -> None:
        async def run() -> None:
            async with self.stdio_server() as (read, write):
                await server.run(read, write, server.create_initialization_options())

        anyio.run(run)


Told = Callable[[float, float | None, str | None], Awaitable[None]]


class SdkClient(ABC):
    """A client in the words of the SDK, to be called in those of the suite."""

    Refused: ClassVar[Any]
    """What the client raises for an error of the protocol."""

    @abstractmethod
    async def tools(self) -> Sequence[BaseModel]: ...

    @abstractmethod
    async def result(
        self, name: str, arguments: Json | None, meta: Json | None, told: Told | None, timeout: float | None
    ) -> BaseModel: ...

    @abstractmethod
    async def resource(self, uri: str) -> BaseModel: ...

    async def list_tools(self) -> list[Json]:
        return [_wire(tool) for tool in await self.tools()]

    async def call_tool(
        self,
        name: str,
        arguments: Json | None = None,
        meta: Json | None = None,
        *,
        on_progress: Callable[[float, str | None], None] | None = None,
        timeout: float | None = None,
    ) -> Json:
        async def told(progress: float, _total: float | None, message: str | None) -> None:
            if on_progress is not None:
                on_progress(progress, message)

        try:
            result = await self.result(name, arguments, meta, told if on_progress is not None else None, timeout)
        except self.Refused as error:
            raise CallRefused(error.error.code, error.error.message) from error
        return _wire(result)

    async def give_up(self, name: str, arguments: Json, when: Callable[[], Awaitable[None]]) -> None:
        async with anyio.create_task_group() as calling:
            # Cancelled, the SDK's own client tells the server.
            calling.start_soon(self.result, name, arguments, None, None, None)
            await when()
            calling.cancel_scope.cancel()

    async def read_resource(self, uri: str) -> Json:
        try:
            return _wire(await self.resource(uri))
        except self.Refused as error:
            raise CallRefused(error.error.code, error.error.message) from error


def _wire(value: BaseModel) -> Json:
    return value.model_dump(by_alias=True, mode="json", exclude_none=True)
