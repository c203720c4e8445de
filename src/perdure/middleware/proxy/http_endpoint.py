"""The address of a server behind streamable HTTP: its requests, with what each must say in its headers."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import httpx

from perdure.middleware.proxy.http_faults import HttpFault, of_error, of_redirect, of_status, shown
from perdure.middleware.proxy.http_headers import MirroredArguments, headers_of, protocol_version
from perdure.middleware.proxy.json_rpc import Message

__all__ = ["HttpEndpoint", "content_type"]

_TO_CONNECT = 30.0
"""Seconds. How long an answer may take is the client's to say."""

_MOST_REDIRECTS = 5


class HttpEndpoint:
    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self.session: str | None = None
        """Of the server's making, in protocol versions that have sessions."""
        self.version: str | None = None
        """As negotiated in the handshake, if there was one."""
        self.mirrored: dict[str, MirroredArguments] = {}
        """By the tools' names."""
        self._url = httpx.URL(url)
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(_TO_CONNECT, read=None, pool=None),
            limits=httpx.Limits(max_connections=None),
        )

    def __str__(self) -> str:
        return shown(self._url)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, traceback)

    @asynccontextmanager
    async def posting(self, message: Message) -> AsyncIterator[httpx.Response]:
        """
        Raises:
            HttpFault: It redirects to where we do not follow.
        """
        headers = self._headers(message) | {"Content-Type": "application/json"}
        async with self._responding("POST", headers, message.raw) as response:
            yield response

    @asynccontextmanager
    async def listening(self, last_event: str) -> AsyncIterator[httpx.Response]:
        """A stream of events, from the one after `last_event` on; empty: of those to come.

        Raises:
            HttpFault: There is no such stream.
        """
        headers = self._headers(None) | {"Accept": "text/event-stream"}
        if last_event:
            headers["Last-Event-ID"] = last_event
        async with self._responding("GET", headers) as response:
            if content_type(response) != "text/event-stream":
                raise self.refused(response)
            yield response

    async def end_session(self) -> None:
        """
        Raises:
            httpx.HTTPError: The server was not reached.
        """
        await self._client.delete(self._url, headers=self._headers(None))

    def refused(self, response: httpx.Response) -> HttpFault:
        return of_status(response, in_session=self.session is not None)

    def broken(self, error: Exception) -> HttpFault:
        return of_error(error, self._url)

    def _headers(self, message: Message | None) -> dict[str, str]:
        headers = {"Accept": "application/json, text/event-stream"}
        if self.session is not None:
            headers["Mcp-Session-Id"] = self.session
        version = (protocol_version(message) if message is not None else None) or self.version
        if version is not None and (message is None or message.method != "initialize"):
            headers["MCP-Protocol-Version"] = version
        return headers if message is None else headers | headers_of(message, self.mirrored)

    @asynccontextmanager
    async def _responding(
        self, method: str, headers: Mapping[str, str], content: bytes | None = None
    ) -> AsyncIterator[httpx.Response]:
        request = self._client.build_request(method, self._url, headers=headers, content=content)
        for _ in range(_MOST_REDIRECTS):
            response = await self._client.send(request, stream=True, follow_redirects=False)
            try:
                following = response.next_request
                if following is None:
                    yield response
                    return
                if following.method != method or _origin(following.url) != _origin(self._url):
                    raise of_redirect(response, following.url)
                request = following
            finally:
                await response.aclose()
        raise HttpFault(f"{self} redirects for ever.", "check the address in --url.")


def content_type(response: httpx.Response) -> str:
    text: str = response.headers.get("content-type", "")
    return text.partition(";")[0].strip().lower()


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
