"""Asks a server for its tools, as a client does. With any MCP SDK: what is used here is in all of them."""

import shlex
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import IO, Any

import anyio

from perdure.errors import PerdureError
from perdure.middleware.meta_keys import META_OPTIONS
from perdure.middleware.persistence.turn import JsonObject

__all__ = ["ServerTools", "tools_of_command", "tools_of_url"]

_MOST_PAGES = 1000

_AFTER_GARBAGE = 10.0
"""Seconds for an answer after something else came: some servers greet on stdout, and answer all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTools:
    name: str
    version: str
    tools: list[JsonObject]
    """Their entries in `tools/list`."""
    in_code: Mapping[str, JsonObject] = field(default_factory=dict)
    """Of those that the server's own code persists: `{"by", "options"}`. Only a local server that has perdure tells."""


async def tools_of_command(command: Sequence[str], environment: Mapping[str, str], *, seconds: float) -> ServerTools:
    """Start `command`, ask it over its stdin and stdout, and end it.

    Raises:
        PerdureError: It cannot be started, ends, talks nonsense, or does not answer in time.
    """
    from mcp.client.stdio import StdioServerParameters, stdio_client  # noqa: PLC0415 - the SDK takes half a second

    parameters = StdioServerParameters(command=command[0], args=list(command[1:]), env=dict(environment))
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
        asking = _Asking(shlex.join(command), seconds, stderr)
        return await asking.ask(_started(stdio_client(parameters, errlog=stderr), command[0]))


async def tools_of_url(url: str, *, seconds: float) -> ServerTools:
    """
    Raises:
        PerdureError: There is no MCP server, or it does not answer in time.
    """
    from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415

    return await _Asking(url, seconds, None).ask(streamable_http_client(url))


@asynccontextmanager
async def _started(transport: Any, program: str) -> AsyncIterator[Any]:
    try:
        streams = await transport.__aenter__()
    except (OSError, ValueError) as error:
        raise PerdureError(
            f"{program} cannot be started: {getattr(error, 'strerror', None) or error}.",
            remedy="write after -- what you would type to start the server: perdure tools -- python server.py",
        ) from error
    try:
        yield streams
    finally:
        await transport.__aexit__(None, None, None)  # which ends the process, whatever it does


class _Asking:
    def __init__(self, who: str, seconds: float, stderr: IO[str] | None) -> None:
        self._who = who
        self._seconds = seconds
        self._stderr = stderr
        self._garbage: str | None = None
        self._scope = anyio.CancelScope()

    async def ask(self, transport: Any) -> ServerTools:
        from mcp import ClientSession  # noqa: PLC0415

        found: ServerTools | None = None
        failure: BaseException | None = None
        try:
            async with (
                transport as (read, write, *_),
                ClientSession(read, write, message_handler=self._look_for_garbage) as session,
            ):
                self._scope.deadline = anyio.current_time() + self._seconds
                with self._scope:
                    try:
                        found = await self._asked(session)
                    except Exception as error:  # noqa: BLE001 - said in words below, when the server has ended
                        failure = error
        except Exception as error:  # noqa: BLE001 - a transport may fail in any way, and in groups
            failure = failure or error
        if found is None:
            raise self._explained(_innermost(failure))
        return found

    async def _asked(self, session: Any) -> ServerTools:
        from mcp.types import PaginatedRequestParams  # noqa: PLC0415

        greeting = await session.initialize()
        tools: list[JsonObject] = []
        in_code: JsonObject = {}
        cursor: str | None = None
        for _ in range(_MOST_PAGES if greeting.capabilities.tools is not None else 0):
            params: Any = {"cursor": cursor, "_meta": {META_OPTIONS: True}}
            page = await session.list_tools(params=PaginatedRequestParams.model_validate(params))
            wire = page.model_dump(by_alias=True, mode="json", exclude_none=True)
            tools += wire["tools"]
            in_code |= wire.get("_meta", {}).get(META_OPTIONS) or {}
            cursor = wire.get("nextCursor")
            if not cursor:
                break
        server = greeting.model_dump(by_alias=True, mode="json")["serverInfo"]
        return ServerTools(name=server["name"], version=server["version"], tools=tools, in_code=in_code)

    async def _look_for_garbage(self, message: object) -> None:
        if isinstance(message, Exception) and self._garbage is None:
            self._garbage = _text_of(message)
            self._scope.deadline = min(self._scope.deadline, anyio.current_time() + _AFTER_GARBAGE)

    def _explained(self, error: BaseException | None) -> PerdureError:
        if isinstance(error, PerdureError):
            return error
        if self._garbage is not None:
            return PerdureError(
                f"{self._who} is no MCP server, or prints other things on its stdout: {self._garbage}",
                remedy="whatever it has to say besides the protocol belongs on its stderr.",
            )
        if error is None:
            what = f"{self._who} did not answer within {self._seconds:g} s."
            return PerdureError(f"{what}{self._last_words()}", remedy="is it an MCP server? --timeout gives it longer.")
        said = str(error).strip().splitlines()
        what = f"{self._who} did not tell its tools: {said[0] if said else type(error).__name__}."
        remedy = (
            "look at the address, and whether it wants a token."
            if self._stderr is None
            else "start it by itself, and look at what it says."
        )
        return PerdureError(f"{what}{self._last_words()}", remedy=remedy)

    def _last_words(self) -> str:
        """What the process wrote to its stderr last."""
        if self._stderr is None:
            return ""
        self._stderr.seek(0)
        lines = [line.strip() for line in self._stderr.read()[-4000:].splitlines() if line.strip()]
        return f" It said last: {lines[-1][:300]}" if lines else ""


def _innermost(error: BaseException | None) -> BaseException | None:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _text_of(fault: Exception) -> str:
    """The line that could not be read, from the validation error that an SDK makes of it."""
    try:
        errors: Any = fault
        line = errors.errors()[0]["input"]
    except Exception:  # noqa: BLE001 - then the fault itself is all there is to show
        line = fault
    text = str(line).strip()
    return repr(text if len(text) <= 80 else f"{text[:80]}…")
