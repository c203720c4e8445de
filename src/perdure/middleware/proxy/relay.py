"""Messages between a client and a server; those about tools pass perdure on the way.

Everything else is passed on as the bytes it came in, in its order, whatever it is.
"""

import uuid
from collections.abc import Awaitable, Callable
from itertools import count

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from perdure.errors import StoreError
from perdure.logs import log
from perdure.middleware.persisted_server import PersistedServer
from perdure.middleware.persistence.turn import Json, JsonObject
from perdure.middleware.persistence.wiring import runtime
from perdure.middleware.proxy.amended_answers import LIST_CHANGED, AmendedAnswers
from perdure.middleware.proxy.behind import Behind
from perdure.middleware.proxy.conversations import concerns, with_conversations
from perdure.middleware.proxy.json_rpc import (
    CONNECTION_CLOSED,
    INVALID_PARAMS,
    Key,
    Message,
    Unreadable,
    error_response,
    key_of,
    message_of,
    read,
    response,
)
from perdure.middleware.proxy.pipes import LineWriter
from perdure.middleware.proxy.progress import CallProgress
from perdure.middleware.proxy.replies import AtOnce, Replies, Together
from perdure.middleware.proxy.requests import PROTOCOL_VERSION, AnsweredWithError, Request
from perdure.middleware.proxy.upstream import Ended, Upstream
from perdure.middleware.request_state import own_state
from perdure.middleware.sdk.interface import IncomingRequest

__all__ = ["Relay"]


class Relay:
    def __init__(self, upstream: Upstream, client: LineWriter, calls: TaskGroup) -> None:
        """`calls` runs one task for each tool call; cancelling it records those that run as cancelled."""
        self.heard = anyio.Event()
        """The client has asked something, or never will."""
        self._upstream = upstream
        self._client = client
        self._calls = calls
        self._at_once = AtOnce(client)
        self._persisted = PersistedServer(Behind(self._ask), {}, or_else="")
        self._amended = AmendedAnswers(self._persisted)
        self._open: dict[Key, Request] = {}
        self._progress: dict[Key, CallProgress] = {}
        self._ended: Ended | None = None
        self._own_ids = f"perdure-{uuid.uuid4()}-"
        self._numbers = count()

    # ── from the client ──────────────────────────────────────────────────────────────────────────────────────────

    async def from_client(self, line: bytes) -> None:
        try:
            message = read(line)
        except (Unreadable, RecursionError):
            if line.strip():
                await self._upstream.send(Message(line, None))  # The server has the right words for it.
            return
        if isinstance(message.value, list):
            await self._batch_from_client(message, message.value)
        else:
            await self._one_from_client(message, self._at_once)

    async def _one_from_client(self, message: Message, replies: Replies) -> None:
        if message.is_request:
            await self._requested(self._request(message, replies))
        elif message.method == "notifications/cancelled":
            await self._cancelled(message)
        else:
            await self._upstream.send(message)

    async def _batch_from_client(self, batch: Message, values: list[Json]) -> None:
        messages = [message_of(value) for value in values]
        requests = [message for message in messages if message.is_request]
        if self._ended is None and not any(map(self._is_ours, messages)):
            for message in requests:
                self._open.setdefault(message.key, self._request(message, self._at_once))
            await self._upstream.send(batch)
            return
        together = Together(self._client, len(requests))
        for message in messages:
            await self._one_from_client(message, together)

    def _is_ours(self, message: Message) -> bool:
        ours = ("tools/call", "tools/list", "resources/read", "initialize", "notifications/cancelled")
        return message.method in ours or concerns(self._persisted.conversations, message)

    def _request(self, message: Message, replies: Replies) -> Request:
        version = message.meta.get(PROTOCOL_VERSION, self._amended.negotiated)
        return Request(message=message, replies=replies, protocol_version=version if isinstance(version, str) else None)

    async def _requested(self, request: Request) -> None:
        self.heard.set()
        key = request.message.key
        if self._ended is not None:
            await request.replies.give(_gone(request, self._ended))
            return
        if key in self._open:
            log.warning(
                "proxy.id_twice",
                what=f"The client used the id {request.id!r} for a second request while the first was still open.",
                remedy="report it to the client's author; this request was passed on, and is not kept.",
            )
            await self._upstream.send(request.message)
            return
        self._open[key] = request
        await self._tell_of_changes()
        match request.message.method:
            case "tools/call":
                await self._start(self._call, request)
                return
            case "resources/read" if self._persisted.keeps(self._incoming(request)):
                await self._start(self._read_stored_file, request)
                return
            case _ if concerns(self._persisted.conversations, request.message):
                await self._start(self._with_conversations, request)
                return
            case "tools/list":
                request.rewritten = self._amended.listed
            case "server/discover" if self._persisted.conversations.are_on:
                request.rewritten = self._amended.announced
            case "initialize":
                request.rewritten = self._amended.initialized
            case _:
                pass
        await self._upstream.send(request.message)

    async def _start(self, task: Callable[[Request], Awaitable[Message]], request: Request) -> None:
        request.has_task = True
        self._calls.start_soon(self._finish, task, request)
        await anyio.lowlevel.checkpoint()  # What it sends at once is sent before what the client says next.

    async def _finish(self, task: Callable[[Request], Awaitable[Message]], request: Request) -> None:
        answer: Message | None = None
        try:
            with request.scope:
                answer = await task(request)
        finally:
            self._forget(request)
            request.sent.set()
        if answer is None:
            await request.replies.none()
        else:
            await request.replies.give(answer)

    def _forget(self, request: Request) -> None:
        if self._open.get(request.message.key) is request:
            del self._open[request.message.key]
        self._progress.pop(request.progress_key, None)

    async def _cancelled(self, message: Message) -> None:
        """A late answer is then nobody's, and passes as it is: the client must ignore it (MCP, Cancellation)."""
        request = self._open.pop(key_of(message.params.get("requestId")), None)
        if request is not None and request.has_task:
            request.scope.cancel()
            if not request.sent.is_set():
                return  # The server does not know of it.
        elif request is not None:
            await request.replies.none()
        await self._upstream.send(message)

    async def all_sent(self) -> None:
        """Until the server has been given whatever the client has asked until now."""
        for request in list(self._open.values()):
            if request.has_task:
                await request.sent.wait()

    @property
    def is_waiting(self) -> bool:
        """Whether the server has still something to answer; a subscription is no question."""
        return any(request.message.method != "subscriptions/listen" for request in self._open.values())

    # ── from the server ──────────────────────────────────────────────────────────────────────────────────────────

    async def from_server(self, message: Message) -> None:
        if isinstance(message.value, list):
            await self._batch_from_server(message, message.value)
        elif message.is_response:
            await self._answered(message)
        else:
            if message.method == "notifications/progress":
                progress = self._progress.get(key_of(message.params.get("progressToken")))
                if progress is not None:
                    progress.tool_told(message.params.get("progress"))
            await self._client.write(message.raw)

    async def _batch_from_server(self, batch: Message, values: list[Json]) -> None:
        messages = [message_of(value) for value in values]
        open_ = [request for message in messages if (request := self._open.get(message.key)) is not None]
        if all(request.passes_untouched and request.replies is self._at_once for request in open_):
            for request in open_:
                self._forget(request)
            await self._client.write(batch.raw)
            return
        for message in messages:
            await self.from_server(message)

    async def _answered(self, message: Message) -> None:
        request = self._open.get(message.key)
        if request is None or (request.has_task and not request.sent.is_set()):
            if not self._is_own(message.key):
                await self._client.write(message.raw)
        elif request.has_task:
            request.arrive(message)
            await anyio.lowlevel.checkpoint()  # What the client is given for it at once comes before what follows.
        else:
            self._forget(request)
            await request.replies.give(request.rewritten(message))

    async def gone(self, ended: Ended) -> None:
        """The server is there no more: whoever waits for it is told so."""
        self._ended = ended
        for request in list(self._open.values()):
            if request.has_task:
                request.arrive(_gone(request, ended))
            else:
                self._forget(request)
                await request.replies.give(_gone(request, ended))

    # ── what perdure has to do with it ───────────────────────────────────────────────────────────────────────────

    async def _call(self, request: Request) -> Message:
        async def proceed(arguments: JsonObject | None, *, opened: bool = False) -> Message:
            message = request.message
            params = _with_own_state(message.params) if opened else message.params
            if arguments is not None and arguments != params.get("arguments"):
                params = {**params, "arguments": arguments}
            return await self._answer(request, message if params is message.params else message.changed(params=params))

        if "progressToken" in request.message.meta:
            request.progress = CallProgress(request.message.meta["progressToken"], self._notify)
            self._progress[request.progress_key] = request.progress
        try:
            result = await self._persisted.call(self._incoming(request), proceed)
        except AnsweredWithError as error:
            return error.answer
        except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
            runtime().say("call.not_understood", error)
            return request.answer or await self._passed_on(request)
        if isinstance(result, Message):
            return result
        if request.answer is None:
            return response(request.id, request.in_full(result))
        return request.answer if result is request.answer.body["result"] else request.answer.changed(result=result)

    async def _passed_on(self, request: Request) -> Message:
        try:
            return await self._answer(request, request.message)
        except AnsweredWithError as error:
            return error.answer

    async def _answer(self, request: Request, message: Message) -> Message:
        """
        Raises:
            AnsweredWithError: The server's answer is no result, or it is there no more.
        """
        if self._ended is not None:
            request.arrive(_gone(request, self._ended))
        else:
            request.sent.set()
            await self._upstream.send(message)
        await request.arrived.wait()
        answer = request.answer
        if answer is None or not _is_result(answer):
            raise AnsweredWithError(answer or request.message)
        return answer

    async def _ask(self, method: str, params: JsonObject) -> Message:
        body: JsonObject = {"jsonrpc": "2.0", "id": f"{self._own_ids}{next(self._numbers)}", "method": method}
        message = message_of({**body, "params": params} if params else body)
        request = Request(message=message, replies=self._at_once, protocol_version=None, has_task=True)
        self._open[message.key] = request
        try:
            return await self._answer(request, message)
        finally:
            self._forget(request)

    def _is_own(self, key: Key) -> bool:
        return isinstance(key, str) and key.startswith(self._own_ids)

    async def _read_stored_file(self, request: Request) -> Message:
        try:
            result = await self._persisted.read(self._incoming(request))
        except StoreError as error:  # as the SDKs answer for a resource that is not there
            return error_response(request.id, INVALID_PARAMS, str(error), {"uri": request.message.params["uri"]})
        return response(request.id, request.in_full(result, cacheable=False))

    async def _with_conversations(self, request: Request) -> Message:
        ours = self._persisted.conversations
        return await with_conversations(ours, request, lambda: self._passed_on(request))

    async def _tell_of_changes(self) -> None:
        if self._amended.list_has_changed():
            await self._client.write(LIST_CHANGED)

    def _incoming(self, request: Request) -> IncomingRequest:
        params = request.message.params
        state = params.get("requestState")
        return IncomingRequest(
            request,
            params,
            request.protocol_version,
            request,
            request_state=state if isinstance(state, str) else None,
        )

    def _notify(self, message: Message) -> None:
        self._client.write_now(message.raw)


def _with_own_state(params: JsonObject) -> JsonObject:
    """`params` with the server's own request state, as it gave it, in place of our envelope around it."""
    state = params.get("requestState")
    if not isinstance(state, str) or (own := own_state(state)) == state:
        return params
    rest = {name: value for name, value in params.items() if name != "requestState"}
    return rest if own is None else {**rest, "requestState": own}


def _is_result(answer: Message) -> bool:
    """Whether what is known of a tool's result has the types that it must have."""
    match answer.body:
        case {"result": dict(result)}:
            content, meta = result.get("content", []), result.get("_meta") or {}
            return isinstance(content, list) and isinstance(meta, dict) and all(isinstance(b, dict) for b in content)
        case _:
            return False


def _gone(request: Request, ended: Ended) -> Message:
    return error_response(request.id, CONNECTION_CLOSED, f"{ended.what} Remedy: {ended.remedy}")
