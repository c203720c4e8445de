"""HTTP/1.1 in which a request has one deadline in all, however its bytes trickle in.

A library's time-outs are for each read: a server that sends one byte a second never meets them. HTTP/2 is left out on
purpose: at each GOAWAY a POST that has long been committed is reported as failed.
"""

import ssl
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import httpcore
import httpx

__all__ = ["DeadlineTransport", "LastReply", "is_ours", "last_reply", "time_left", "within"]

_deadline: ContextVar[float] = ContextVar("perdure_supabase_deadline")
"""On `time.monotonic()`."""


class LastReply(NamedTuple):
    """What the clients built on httpx do not pass on in their errors."""

    status: int
    retry_after: float | None
    """Seconds."""


_last_reply: ContextVar[LastReply | None] = ContextVar("perdure_supabase_last_reply", default=None)


@contextmanager
def within(deadline: float) -> Iterator[None]:
    """Every request made inside is over by `deadline`, on `time.monotonic()`."""
    deadline_token, reply_token = _deadline.set(deadline), _last_reply.set(None)
    try:
        yield
    finally:
        _deadline.reset(deadline_token)
        _last_reply.reset(reply_token)


def time_left() -> float:
    """Seconds until the deadline of `within`; below 0 when it has passed."""
    return _deadline.get() - time.monotonic()


def is_ours() -> bool:
    """Whether whoever runs here is inside of `within`."""
    return _deadline.get(None) is not None


def last_reply() -> LastReply | None:
    """Status and headers of what was answered last inside of `within`."""
    return _last_reply.get()


class DeadlineTransport(httpx.BaseTransport):
    """May be used from many threads at once. Honours the proxies that the environment names."""

    def __init__(self, url: str, *, most_connections: int) -> None:
        """`url`: what will be asked, which decides whether there is a proxy before it."""
        host = httpx.URL(url)
        proxy = None if urllib.request.proxy_bypass(host.host) else urllib.request.getproxies().get(host.scheme)
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            proxy=httpcore.Proxy(proxy) if proxy else None,
            max_connections=most_connections,
            max_keepalive_connections=most_connections,
            keepalive_expiry=30.0,
            http1=True,
            http2=False,
            network_backend=_BoundedBackend(),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        left = max(time_left(), 0.0)
        with _as_httpx_errors(request):
            response = self._pool.handle_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(
                        scheme=request.url.raw_scheme,
                        host=request.url.raw_host,
                        port=request.url.port,
                        target=request.url.raw_path,
                    ),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions={"timeout": {"connect": left, "pool": left, "read": left, "write": left}},
                )
            )
        headers = httpx.Headers(response.headers)
        _last_reply.set(LastReply(response.status, _seconds(headers.get("retry-after"))))
        return httpx.Response(
            status_code=response.status,
            headers=headers,
            stream=_Body(request, response),
            extensions=response.extensions,
        )

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, request: httpx.Request, response: httpcore.Response) -> None:
        self._request = request
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx_errors(self._request):
            yield from self._response.iter_stream()

    def close(self) -> None:
        with _as_httpx_errors(self._request):
            self._response.close()


class _BoundedBackend(httpcore.SyncBackend):
    def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        return _BoundedStream(super().connect_tcp(*args, **kwargs))


class _BoundedStream(httpcore.NetworkStream):
    """A socket whose every read and write ends by the deadline of whoever uses it now."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _bounded(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _bounded(timeout, httpcore.WriteTimeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _BoundedStream(
            self._inner.start_tls(ssl_context, server_hostname, _bounded(timeout, httpcore.ConnectTimeout))
        )

    def close(self) -> None:
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _bounded(timeout: float | None, passed: type[Exception]) -> float:
    left = time_left()
    if left <= 0:
        raise passed("the time for this request is used up")
    return left if timeout is None else min(timeout, left)


_ERRORS: Iterable[tuple[type[Exception], type[httpx.TransportError]]] = (
    (httpcore.ConnectTimeout, httpx.ConnectTimeout),
    (httpcore.TimeoutException, httpx.ReadTimeout),
    (httpcore.ConnectError, httpx.ConnectError),
    (httpcore.NetworkError, httpx.ReadError),
    (httpcore.ProxyError, httpx.ProxyError),
    (httpcore.UnsupportedProtocol, httpx.UnsupportedProtocol),
    (httpcore.ProtocolError, httpx.RemoteProtocolError),
)


@contextmanager
def _as_httpx_errors(request: httpx.Request) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        for core, public in _ERRORS:
            if isinstance(error, core):
                raise public(str(error) or type(error).__name__, request=request) from error
        raise


def _seconds(retry_after: str | None) -> float | None:
    """RFC 9110, section 10.2.3. The form with a date is left alone."""
    return float(retry_after) if retry_after and retry_after.isascii() and retry_after.isdigit() else None
