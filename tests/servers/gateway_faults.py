"""Orders that the gateway carries out against its clients, for tests of what these do then."""

import random
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal
from urllib.parse import urlsplit

from servers.gateway_http import ConnectionCut, HttpServer, Reply, Request

Kind = Literal[
    "reset", "drop_reply", "answer", "hang", "hang_after", "trickle", "cut_upload", "cut_reply", "foreign_location"
]
HTML = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>Please sign in to the network.</body></html>"


@dataclass(frozen=True)
class Fault:
    """One order. It holds for requests whose path begins with `path` (as sent, without the query).

    Make it with the functions below, and narrow it with `on`.
    """

    kind: Kind
    path: str = "/"
    method: str | None = None
    times: int | None = 1
    """How often it is carried out; None: until `clear`."""
    skip: int = 0
    """Fitting requests that are let through first."""
    probability: float = 1.0
    seed: int = 0
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    seconds: float = 0.0
    part: str = ""
    after_bytes: int = 0
    origin: str = ""

    def on(self, path: str, **narrower: Any) -> "Fault":
        """The same for `path`, with `method`, `times`, `skip`, `probability`, `seed` as given."""
        return replace(self, path=path, **narrower)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def reset() -> Fault:
    """The connection is cut before the request is looked at: nothing took place."""
    return Fault("reset")


def drop_reply() -> Fault:
    """The request takes place and is committed; the connection is cut instead of a reply."""
    return Fault("drop_reply")


def answer(status: int, *, body: str = "", headers: dict[str, str] | None = None) -> Fault:
    """Nothing takes place; this is the reply."""
    return Fault("answer", status=status, body=body, headers=headers or {})


def too_many_requests(retry_after: str = "1") -> Fault:
    """429; `retry_after` in seconds or as an HTTP date, "" for none."""
    headers = {"Retry-After": retry_after} if retry_after else {}
    return answer(429, body='{"message":"API rate limit exceeded"}', headers=headers)


def html() -> Fault:
    """A captive portal or a proxy's page, with status 200."""
    return answer(200, body=HTML.decode(), headers={"Content-Type": "text/html"})


def empty() -> Fault:
    """Status 200 and no body."""
    return answer(200, headers={"Content-Type": "application/json"})


def redirect(to: str, status: int = 307) -> Fault:
    """To the same path at another origin, `to`."""
    return Fault("answer", status=status, origin=to)


def hang(seconds: float = 3600.0, *, after: bool = False) -> Fault:
    """No reply for so long, then the connection is cut. The request takes place only if `after`: before the wait."""
    return Fault("hang_after" if after else "hang", seconds=seconds)


def trickle(part: Literal["headers", "body"], seconds_per_byte: float = 1.0) -> Fault:
    """The request takes place; the reply comes byte by byte, from its first byte or from its body on."""
    return Fault("trickle", part=part, seconds=seconds_per_byte)


def cut_upload(after_bytes: int) -> Fault:
    """The connection is cut when so many bytes of the request's body have arrived."""
    return Fault("cut_upload", after_bytes=after_bytes)


def cut_reply(after_bytes: int) -> Fault:
    """The request takes place; the connection is cut after so many bytes of the reply's body."""
    return Fault("cut_reply", after_bytes=after_bytes)


def foreign_location(origin: str) -> Fault:
    """The request takes place; the Location of the reply (where an upload goes on) names another origin."""
    return Fault("foreign_location", origin=origin)


class Faults:
    """The orders that are open. The first that fits a request is carried out; one at most."""

    def __init__(self) -> None:
        self._open: list[_Order] = []
        self._lock = threading.Lock()

    def order(self, fault: Fault) -> None:
        with self._lock:
            self._open.append(_Order(fault))

    def clear(self) -> None:
        with self._lock:
            self._open.clear()

    def take(self, request: Request) -> Fault | None:
        with self._lock:
            for order in self._open:
                if order.fits(request):
                    if order.is_used_up():
                        self._open.remove(order)
                    return order.fault
        return None


class _Order:
    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self._seen = 0
        self._done = 0
        self._chance = random.Random(fault.seed)

    def fits(self, request: Request) -> bool:
        if not request.path.startswith(self.fault.path) or self.fault.method not in (None, request.method):
            return False
        self._seen += 1
        if self._seen <= self.fault.skip or self._chance.random() >= self.fault.probability:
            return False
        self._done += 1
        return True

    def is_used_up(self) -> bool:
        return self.fault.times is not None and self._done >= self.fault.times


def carry_out(
    fault: Fault, request: Request, handle: Callable[[Request], Reply], pause: Callable[[float], bool]
) -> Reply:
    """`handle(request)` as `fault` spoils it.

    Raises:
        ConnectionCut: There shall be no reply.
    """
    match fault.kind:
        case "reset":
            raise ConnectionCut(by_reset=True)
        case "answer":
            headers = dict(fault.headers)
            if fault.origin:
                headers["Location"] = f"{fault.origin}{request.target}"
            for _ in request.pieces():
                pass
            return Reply(fault.status, headers, fault.body.encode())
        case "hang":
            pause(fault.seconds)
            raise ConnectionCut
        case "cut_upload":
            request.cut_after = fault.after_bytes
            return handle(request)
        case "drop_reply" | "hang_after":
            handle(request)
            pause(fault.seconds)
            raise ConnectionCut
        case "trickle":
            return replace(handle(request), trickle=fault.part, seconds_per_byte=fault.seconds)
        case "cut_reply":
            return replace(handle(request), cut_after=fault.after_bytes)
        case "foreign_location":
            reply = handle(request)
            if "Location" in reply.headers:
                reply.headers["Location"] = fault.origin + urlsplit(reply.headers["Location"]).path
            return reply


class Stranger:
    """Another origin, which writes down what it is sent: no key may ever be among it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        """Method, target and headers of each request."""
        self._server = HttpServer(self._note)
        self.url = self._server.url

    def __enter__(self) -> "Stranger":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def _note(self, request: Request) -> Reply:
        for _ in request.pieces():
            pass
        self.seen.append((request.method, request.target, request.headers))
        return Reply(200, {"Content-Type": "application/json"}, b"{}")
