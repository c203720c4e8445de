"""The server behind the proxy, as `PersistedServer` asks for it."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import anyio
import anyio.from_thread
import anyio.lowlevel

from perdure.middleware.call_files import Report, Reporter
from perdure.middleware.call_reader import Caller
from perdure.middleware.persisted_server import listed_tools
from perdure.middleware.persistence.turn import JsonObject
from perdure.middleware.proxy.json_rpc import Message
from perdure.middleware.proxy.requests import Request
from perdure.middleware.sdk.interface import IncomingRequest
from perdure.settings import ToolSettings

__all__ = ["Behind"]

_LISTING_SECONDS = 5.0
"""For which a call waits until its server has listed the tools, which no client has asked for yet."""

_OF_THE_PROTOCOL = "io.modelcontextprotocol/"
"""How the names begin in `_meta` that say who asks, and by which version."""


class Ask(Protocol):
    async def __call__(self, method: str, params: JsonObject) -> Message:
        """The server's answer to a request of perdure's own.

        Raises:
            AnsweredWithError: It is an error.
        """
        ...


class Behind:
    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._listing = anyio.Lock()
        self._listings = 0
        self._listed: dict[str, JsonObject] = {}

    def in_code(self, tool: str) -> ToolSettings | None:
        return None  # What stands in the server's code is not seen from here.

    async def entries(self, request: IncomingRequest) -> dict[str, JsonObject]:
        """
        Raises:
            TimeoutError: The server takes too long.
            AnsweredWithError: It will not say.
        """
        known = self._listings
        async with self._listing:
            if self._listings == known:  # else another call asked meanwhile
                with anyio.move_on_after(_LISTING_SECONDS) as waiting:
                    self._listed = await self._all_pages(request.native)
                    self._listings += 1
                if waiting.cancelled_caught:
                    raise TimeoutError(f"the server did not list its tools within {_LISTING_SECONDS:.0f} s")
            return self._listed

    async def _all_pages(self, asking: Request) -> dict[str, JsonObject]:
        meta = {name: value for name, value in asking.message.meta.items() if name.startswith(_OF_THE_PROTOCOL)}
        params: JsonObject = {"_meta": meta} if meta else {}

        async def page(cursor: str | None) -> JsonObject:
            asked = params if cursor is None else {**params, "cursor": cursor}
            result: JsonObject = (await self._ask("tools/list", asked)).body["result"]
            return result

        return await listed_tools(page)

    def wire(self, answer: Any) -> JsonObject:
        result: JsonObject = answer.body["result"]
        return result

    def error(self, text: str) -> JsonObject:
        return {"content": [{"type": "text", "text": text}], "isError": True}

    def caller(self, request: IncomingRequest) -> Caller:
        return Caller()  # Whoever started us: on stdio nobody authenticates.

    def reporter(self, request: IncomingRequest) -> Reporter | None:
        asking: Request = request.native
        if asking.progress is None:
            return None
        tell: Callable[[float, str], None] = asking.progress.tell

        def reporter() -> Report:
            loop = anyio.lowlevel.current_token()

            def report(fraction: float, text: str) -> None:
                with suppress(RuntimeError):  # The event loop has closed: nobody listens any more.
                    anyio.from_thread.run_sync(tell, fraction, text, token=loop)

            return report

        return reporter
