"""Connects within a deadline, whatever the number of addresses.

Not `psycopg.Connection.connect`: it counts in whole seconds, two at least, and anew for each address that a name has.
"""

import select
import socket
import time
from collections.abc import Iterator

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq.abc import PGconn

__all__ = ["connected"]


def connected(conninfo: str, deadline: float) -> PGconn:
    """A new connection to the first address that takes one. `deadline` is on `time.monotonic()`.

    Raises:
        psycopg.OperationalError: None did; it says what each one said.
    """
    said: list[str] = []
    addresses = list(_addresses(conninfo, said))
    for number, address in enumerate(addresses):
        now = time.monotonic()
        try:
            # An address where nothing answers leaves the others their share of the time.
            return _connected(address, now + (deadline - now) / (len(addresses) - number))
        except psycopg.OperationalError as error:
            said.append(str(error))
    raise psycopg.OperationalError("; ".join(said))


def _connected(conninfo: str, deadline: float) -> PGconn:
    connection = pq.PGconn.connect_start(conninfo.encode())
    try:
        while connection.status != pq.ConnStatus.BAD:
            match connection.connect_poll():
                case pq.PollingStatus.OK:
                    connection.nonblocking = 1
                    return connection
                case pq.PollingStatus.READING:
                    _wait(connection, select.POLLIN, deadline)
                case pq.PollingStatus.WRITING:
                    _wait(connection, select.POLLOUT, deadline)
                case _:
                    break
        raise psycopg.OperationalError(connection.get_error_message())
    except BaseException:
        connection.finish()
        raise


def _wait(connection: PGconn, event: int, deadline: float) -> None:
    ready = select.poll()  # not `select.select`, which knows no descriptor above 1023
    ready.register(connection.socket, event)
    if not ready.poll(max(deadline - time.monotonic(), 0.0) * 1000):
        raise psycopg.errors.ConnectionTimeout(f"no answer from {connection.host.decode()} in time")


def _addresses(conninfo: str, said: list[str]) -> Iterator[str]:
    """A connection string for each address. Names are looked up here, since libpq would do so while it holds the GIL.

    What a name could not be looked up for is added to `said`.
    """
    given = conninfo_to_dict(conninfo)
    hosts, ports = str(given.get("host") or "").split(","), str(given.get("port") or "").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    if given.get("hostaddr") or hosts == [""] or len(hosts) != len(ports):
        yield conninfo  # Nothing to look up, or something that libpq words better.
        return
    for host, port in zip(hosts, ports, strict=True):
        one = {"host": host, "port": port or None}
        if not host or host.startswith(("/", "@")):  # the folder of a socket
            yield make_conninfo(conninfo, **one)
            continue
        try:
            found = socket.getaddrinfo(host, port or None, type=socket.SOCK_STREAM)
        except OSError as error:
            said.append(f"the host {host!r} cannot be found: {error.strerror}")
            continue
        for *_, address in found:
            yield make_conninfo(conninfo, **one, hostaddr=str(address[0]))
