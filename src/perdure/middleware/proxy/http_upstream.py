"""A server behind streamable HTTP: with sessions, as up to 2025-11-25, and without, as since 2026-07-28."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus

import anyio
import anyio.lowlevel
import httpx
from httpx_sse import EventSource

from perdure.logs import log
from perdure.middleware.persistence.turn import Json
from perdure.middleware.proxy.http_endpoint import HttpEndpoint, content_type
from perdure.middleware.proxy.http_faults import HttpFault, of_status
from perdure.middleware.proxy.http_headers import protocol_version, tools_of
from perdure.middleware.proxy.json_rpc import (
    CONNECTION_CLOSED,
    Key,
    Message,
    Unreadable,
    error_response,
    key_of,
    read,
)
from perdure.middleware.proxy.upstream import Ended, Receive

__all__ = ["HttpUpstream"]

_MOST_RESUMPTIONS = 5
"""One after the other in which nothing new came."""

_RETRY_AFTER = 1.0
"""Seconds until a stream that broke off is opened again, if the server says nothing else."""

_NO_SUCH_STREAM = (HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_FOUND)

_TO_TAKE_LEAVE = 1.0
"""Seconds to tell the server that the session is over."""


@dataclass(eq=False)
class _Stream:
    """Of the server's messages, over as many connections as it takes."""

    last_event: str = ""
    retry_after: float = _RETRY_AFTER

    @property
    def is_complete(self) -> bool:
        return False


@dataclass(eq=False, kw_only=True)
class _Post(_Stream):
    """One message that the client sent, and the answers to it."""

    message: Message
    waiting: dict[Key, Json]
    """The ids of those of its requests that have none yet."""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    renewed: bool = False
    """It was sent again in a session of its own."""

    @property
    def is_complete(self) -> bool:
        return not self.waiting


class HttpUpstream:
    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._endpoint = HttpEndpoint(url, headers)
        self._posts: dict[Key, _Post] = {}
        self._handshake: list[Message] = []
        self._renewing = anyio.Lock()
        self._tasks = anyio.create_task_group()
        self._receive: Receive = _to_nobody
        self._running = anyio.Event()
        self._ending = anyio.Event()

    async def run(self, receive: Receive) -> Ended:
        self._receive = receive
        async with self._endpoint, self._tasks:
            self._running.set()
            await self._ending.wait()
            self._tasks.cancel_scope.cancel()
        return Ended(what="The session is over.", remedy="start it anew.", exit_code=0)

    async def end(self, *, patience: float) -> None:
        if self._ending.is_set():
            return
        with anyio.move_on_after(patience):
            while self._posts:
                await anyio.sleep(0.01)
        if self._endpoint.session is not None:
            with anyio.move_on_after(_TO_TAKE_LEAVE):
                with suppress(httpx.HTTPError):  # It will notice by itself.
                    await self._endpoint.end_session()
        self._ending.set()

    async def send(self, message: Message) -> None:
        await self._running.wait()
        waiting = _requests_in(message)
        if waiting:
            post = _Post(message=message, waiting=waiting)
            for key in waiting:
                self._posts[key] = post
            self._tasks.start_soon(self._serve, post)
            await anyio.lowlevel.checkpoint()
        elif not self._is_cancelled_by_closing(message):
            await self._serve(_Post(message=message, waiting={}))

    def _is_cancelled_by_closing(self, message: Message) -> bool:
        """Since 2026-07-28 a request is cancelled by closing its response; before, by a notification."""
        if message.method != "notifications/cancelled":
            return False
        post = self._posts.get(key_of(message.params.get("requestId")))
        if post is None:
            return self._endpoint.version is None  # There was no handshake; the answer was under way already.
        if protocol_version(post.message) is None:
            return False
        post.scope.cancel()
        return True

    async def _serve(self, post: _Post) -> None:
        try:
            with post.scope:
                try:
                    await self._post(post)
                    while post.waiting and post.last_event:
                        await self._resume(post)
                    if post.waiting:
                        raise HttpFault(
                            f"{self._endpoint} ended its response without an answer.",
                            "try again; whether the server did what it was asked is not known.",
                        )
                except HttpFault as fault:
                    await self._fail(post, fault)
                except (httpx.HTTPError, httpx.StreamError) as error:
                    await self._fail(post, self._endpoint.broken(error))
        finally:
            self._posts = {key: other for key, other in self._posts.items() if other is not post}

    async def _fail(self, post: _Post, fault: HttpFault) -> None:
        log.warning("proxy.no_answer", what=fault.what, remedy=fault.remedy)
        data = None if fault.status is None else {"httpStatus": fault.status}
        for id_ in post.waiting.values():
            await self._deliver(error_response(id_, CONNECTION_CLOSED, str(fault), data))
        post.waiting.clear()

    # ── requests and their responses ─────────────────────────────────────────────────────────────────────────────

    async def _post(self, post: _Post) -> None:
        session = self._endpoint.session
        async with self._endpoint.posting(post.message) as response:
            if response.status_code == HTTPStatus.NOT_FOUND and session is not None and not post.renewed:
                post.renewed = True
            elif response.status_code >= HTTPStatus.BAD_REQUEST:
                await self._take_error(response, post)
                return
            else:
                self._note_handshake(response, post.message)
                if post.waiting:
                    await self._take(response, post)
                return
        await self._renew_session(session)
        await self._post(post)

    def _note_handshake(self, response: httpx.Response, message: Message) -> None:
        match message.method:
            case "initialize":
                self._endpoint.session = response.headers.get("mcp-session-id")
                self._handshake = [message]
            case "notifications/initialized":
                self._handshake[1:] = [message]
                if self._endpoint.session is not None:
                    self._tasks.start_soon(self._listen, self._endpoint.session)
            case _:
                pass

    async def _renew_session(self, ended: str | None) -> None:
        """The server has forgotten the session, as after a restart (MCP, Transports, Session Management, 4).

        Raises:
            HttpFault: It begins none, either.
        """
        async with self._renewing:
            if self._endpoint.session != ended:
                return  # Another request has renewed it meanwhile.
            log.warning(
                "proxy.session_renewed",
                what=f"{self._endpoint} has ended the session, perhaps by a restart; another is begun.",
                remedy="what the client had set in it, such as subscriptions, the server does not know any more.",
            )
            self._endpoint.session = None
            for message in self._handshake:
                async with self._endpoint.posting(message) as response:
                    if response.status_code >= HTTPStatus.BAD_REQUEST:
                        raise of_status(response, in_session=True)
                    self._note_handshake(response, message)
                    # The client had its answer when the first session began.

    async def _take(self, response: httpx.Response, post: _Post) -> None:
        """
        Raises:
            HttpFault: What came is no answer.
        """
        match content_type(response):
            case "application/json":
                try:
                    await self._take_text(await response.aread(), post)
                except Unreadable as error:
                    raise HttpFault(
                        f"{self._endpoint} sent what is no JSON: {error}.", "report it to whoever runs the server."
                    ) from error
            case "text/event-stream":
                await self._take_events(response, post)
            case _:
                raise self._endpoint.refused(response)

    async def _take_error(self, response: httpx.Response, post: _Post) -> None:
        """
        Raises:
            HttpFault: The response holds no JSON-RPC error of the server's own.
        """
        fault = self._endpoint.refused(response)
        if content_type(response) != "application/json" or len(post.waiting) != 1:
            raise fault
        try:
            answer = read(await response.aread())
        except Unreadable:
            raise fault from None
        if not isinstance(answer.body.get("error"), dict):
            raise fault
        [id_] = post.waiting.values()
        if answer.key != key_of(id_):  # It was refused before its id was read.
            answer = answer.changed(id=id_)
        await self._take_message(answer, post)

    async def _take_events(self, response: httpx.Response, stream: _Stream) -> None:
        """Until the stream breaks off, or is complete."""
        response.encoding = "utf-8"
        try:
            async for event in EventSource(response).aiter_sse():
                stream.last_event = event.id or stream.last_event
                if event.retry is not None:
                    stream.retry_after = event.retry / 1000
                if event.data and event.event == "message":
                    try:
                        await self._take_text(event.data.encode("utf-8", "surrogatepass"), stream)
                    except Unreadable as error:
                        log.warning(
                            "proxy.no_message",
                            what=f"{self._endpoint} sent an event that is no message of the protocol: {error}.",
                            remedy="the client was not given it; report it to whoever runs the server.",
                        )
                if stream.is_complete:
                    return
        except (httpx.HTTPError, httpx.StreamError):
            if not stream.last_event:
                raise

    async def _take_text(self, text: bytes, stream: _Stream) -> None:
        """
        Raises:
            Unreadable: It is no JSON.
        """
        # Between JSON's tokens an end of line is a space; within them there is none.
        line = text.replace(b"\r", b" ").replace(b"\n", b" ")
        try:
            message = read(line)
        except RecursionError:
            message = Message(line, None)
        await self._take_message(message, stream)

    async def _take_message(self, message: Message, stream: _Stream) -> None:
        if isinstance(stream, _Post):
            for value in message.value if isinstance(message.value, list) else [message.value]:
                if isinstance(value, dict) and "method" not in value:
                    stream.waiting.pop(key_of(value.get("id")), None)
            match stream.message.method:
                case "tools/list":
                    self._endpoint.mirrored |= tools_of(message.body)
                case "initialize" if isinstance(result := message.body.get("result"), dict):
                    self._endpoint.version = result.get("protocolVersion")
                case _:
                    pass
        await self._deliver(message)

    async def _deliver(self, message: Message) -> None:
        await self._receive(message)

    # ── streams that go on ───────────────────────────────────────────────────────────────────────────────────────

    async def _resume(self, post: _Post) -> None:
        """Ask for what came after the last event (MCP, Transports, Resumability and Redelivery).

        Raises:
            HttpFault: The server will not, or has nothing more to give.
        """
        for _ in range(_MOST_RESUMPTIONS):
            before = post.last_event
            await anyio.sleep(post.retry_after)
            try:
                async with self._endpoint.listening(before) as response:
                    await self._take_events(response, post)
            except httpx.HTTPError as error:
                log.warning("proxy.not_resumed", what=self._endpoint.broken(error).what, remedy="it is tried again.")
            if not post.waiting or post.last_event != before:
                return
        raise HttpFault(f"{self._endpoint} broke off, and did not go on.", "try again.")

    async def _listen(self, session: str) -> None:
        """What the server sends of its own accord, as long as the session lasts."""
        stream = _Stream()
        while self._endpoint.session == session:
            try:
                async with self._endpoint.listening(stream.last_event) as response:
                    await self._take_events(response, stream)
            except HttpFault as fault:
                if fault.status not in _NO_SUCH_STREAM:
                    log.warning("proxy.not_listening", what=fault.what, remedy=fault.remedy)
                return
            except (httpx.HTTPError, httpx.StreamError):
                pass  # Whether the server is gone is told when it is asked something.
            await anyio.sleep(stream.retry_after)


async def _to_nobody(message: Message) -> None:
    """Until the session runs."""


def _requests_in(message: Message) -> dict[Key, Json]:
    values = message.value if isinstance(message.value, list) else [message.value]
    return {
        key_of(value["id"]): value["id"]
        for value in values
        if isinstance(value, dict) and "id" in value and "method" in value
    }
