"""An HTTP/1.1 server of threads and h11 that can also fail as servers do: it owns its sockets, byte by byte."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qsl

import h11

PIECE = 65536
LINGER = 2.0
"""Seconds for which a request body that nobody wants is read, so that its sender gets to see the reply."""


class ClientGone(Exception):
    """The connection ended before the request did."""


class ConnectionCut(Exception):
    """Raised by a handler: close the connection at once, without a reply or amid it."""

    def __init__(self, *, by_reset: bool = False) -> None:
        """
        Args:
            by_reset: With RST; else with FIN, as a proxy does that ends in order.
        """
        super().__init__()
        self.by_reset = by_reset


@dataclass
class Reply:
    """What a handler answers. `body` is sent as it comes; a Content-Length among the headers is trusted."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Iterable[bytes] = b""
    trickle: str = ""
    """"headers": all of the reply comes byte by byte; "body": the body does."""
    seconds_per_byte: float = 0.0
    cut_after: int | None = None
    """Bytes of the body after which the connection is closed."""


class Request:
    """One request; its body can be read once. Header names are in lower case, the last of a name wins."""

    def __init__(self, connection: "_Connection", head: h11.Request) -> None:
        self.method = head.method.decode("ascii")
        self.target = head.target.decode("latin-1")
        self.path, _, query = self.target.partition("?")
        self.query = dict(parse_qsl(query, keep_blank_values=True))
        self.headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
        self.received = 0
        self.cut_after: int | None = None
        """Bytes of the body after which this side closes the connection."""
        self._connection = connection

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives.

        Raises:
            ClientGone: It did not arrive whole.
            ConnectionCut: `cut_after` bytes did.
        """
        while (piece := self._connection.next_piece()) is not None:
            if self.cut_after is not None and self.received + len(piece) >= self.cut_after:
                yield piece[: self.cut_after - self.received]
                raise ConnectionCut
            self.received += len(piece)
            yield piece

    def read(self, limit: int) -> bytes | None:
        """The whole body, or None if it has more than `limit` bytes."""
        pieces, size = [], 0
        for piece in self.pieces():
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                return None
        return b"".join(pieces)

    def stop_reading(self) -> None:
        """From another thread: let whoever reads the body see `ClientGone`."""
        self._connection.stop_reading()


class HttpServer:
    """Listens on 127.0.0.1:`port` and calls `handler` in a thread for each connection."""

    def __init__(self, handler: Callable[[Request], Reply], *, port: int = 0) -> None:
        self._handler = handler
        self._listener = socket.create_server(("127.0.0.1", port), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._closing = threading.Event()
        self._connections: dict[_Connection, threading.Thread] = {}
        self._lock = threading.Lock()
        self._acceptor = threading.Thread(target=self._accept, name="gateway", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        self._acceptor.start()
        return self

    def close(self) -> None:
        """Close every connection, whatever it is doing, and wait for their threads."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(1)
        with self._lock:
            ending = dict(self._connections)
        for connection, thread in ending.items():
            connection.abort()
            thread.join(10)

    def pause(self, seconds: float) -> bool:
        """Wait; False as soon as the server closes."""
        return not self._closing.wait(seconds)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(client, self)
            thread = threading.Thread(target=self._serve, args=(connection,), name="gateway-client", daemon=True)
            with self._lock:
                self._connections[connection] = thread
            thread.start()

    def _serve(self, connection: "_Connection") -> None:
        try:
            while (request := connection.next_request()) is not None:
                connection.send(self._handler(request))
                if not connection.may_continue():
                    return
        except ConnectionCut as cut:
            connection.resets = cut.by_reset
        except (OSError, ClientGone, h11.RemoteProtocolError):
            pass  # each of them ends a connection, and only that
        finally:
            connection.close()
            with self._lock:
                self._connections.pop(connection, None)


class _Connection:
    def __init__(self, client: socket.socket, server: HttpServer) -> None:
        self._socket = client
        self._server = server
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=256 * 1024)
        self.resets = False

    def next_request(self) -> Request | None:
        match self._event():
            case h11.Request() as head:
                return Request(self, head)
            case _:
                return None

    def next_piece(self) -> bytes | None:
        if self._http.their_state is not h11.SEND_BODY:
            return None
        if self._http.they_are_waiting_for_100_continue:
            self._socket.sendall(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
        try:
            match self._event():
                case h11.Data(data=data):
                    return bytes(data)
                case h11.EndOfMessage():
                    return None
        except (OSError, h11.RemoteProtocolError) as error:
            raise ClientGone from error
        raise ClientGone

    def send(self, reply: Reply) -> None:
        unwanted = self._http.their_state is h11.SEND_BODY
        headers = {name: value for name, value in reply.headers.items() if value is not None}
        if isinstance(reply.body, bytes) and reply.status != 204:
            headers.setdefault("Content-Length", str(len(reply.body)))
        if unwanted:
            headers["Connection"] = "close"
        head = h11.Response(status_code=reply.status, headers=list(headers.items()))
        self._write(self._http.send(head), reply.seconds_per_byte if reply.trickle == "headers" else 0.0)
        self._send_body(reply)
        if unwanted:
            self._linger()

    def may_continue(self) -> bool:
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            return True
        return False

    def stop_reading(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self.resets:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def _send_body(self, reply: Reply) -> None:
        pieces = [reply.body] if isinstance(reply.body, bytes) else reply.body
        delay = reply.seconds_per_byte if reply.trickle else 0.0
        sent = 0
        try:
            for piece in pieces:
                if reply.cut_after is not None and sent + len(piece) >= reply.cut_after:
                    self._write(self._http.send(h11.Data(data=piece[: reply.cut_after - sent])) or b"", delay)
                    raise ConnectionCut
                sent += len(piece)
                if piece:
                    self._write(self._http.send(h11.Data(data=piece)) or b"", delay)
            self._write(self._http.send(h11.EndOfMessage()) or b"", delay)
        finally:
            if not isinstance(pieces, list) and hasattr(pieces, "close"):
                pieces.close()

    def _write(self, data: bytes, seconds_per_byte: float) -> None:
        if not seconds_per_byte:
            self._socket.sendall(data)
            return
        for byte in data:
            self._socket.sendall(bytes([byte]))
            if not self._server.pause(seconds_per_byte):
                raise ConnectionCut

    def _linger(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)
        self._socket.settimeout(LINGER)
        while self._socket.recv(PIECE):
            pass

    def _event(self) -> h11.Event | type[h11.PAUSED]:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(self._socket.recv(PIECE))
        return event
