"""Keeps two processes from sending the same thing at the same time. To lose a lease does no harm: it saves work."""

import contextlib
import os
import time
import uuid
from collections.abc import Iterator

from perdure.middleware.persistence.spool.database import SpoolDatabase

__all__ = ["Lease", "lease"]

_SECONDS = 15.0
"""Longer than one turn may take to be sent; after that somebody else goes on."""


class Lease:
    def __init__(self, database: SpoolDatabase, what: str) -> None:
        self._database = database
        self._what = what
        self._owner = f"{os.getpid()}-{_this_process()}-{uuid.uuid4().hex}"
        self._until = 0.0

    def renew(self) -> bool:
        """Whether it is ours for some time still. Asks the database only when less than half of it is left."""
        now = time.time()
        if now < self._until - _SECONDS / 2:
            return True
        wanted = {"what": self._what, "owner": self._owner, "now": now, "seconds": _SECONDS}
        taken = self._take(wanted) or (self._is_of_the_dead() and self._take(wanted))
        self._until = now + _SECONDS if taken else 0.0
        return taken

    def release(self) -> None:
        self._release(self._owner)

    def _take(self, wanted: dict[str, object]) -> bool:
        return bool(
            self._database.write(
                lambda connection: connection.execute(self._database.sql["lease"], wanted).rowcount, durable=False
            )
        )

    def _is_of_the_dead(self) -> bool:
        """Whether the lease belonged to a process that has ended; then it is released."""
        rows = self._database.read("lease_owner", {"what": self._what})
        if rows and not _is_alive(rows[0]["owner"]):
            self._release(rows[0]["owner"])
            return True
        return False

    def _release(self, owner: str) -> None:
        wanted = {"what": self._what, "owner": owner}
        self._database.write(
            lambda connection: connection.execute(self._database.sql["release"], wanted), durable=False
        )


def _is_alive(owner: str) -> bool:
    """As far as this machine can tell. In another container a process of the same number passes for dead: no harm."""
    number, _, rest = owner.partition("-")
    if not number.isdigit():
        return True
    if int(number) == os.getpid():
        return rest.startswith(_this_process())
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


_tokens: dict[int, str] = {}


def _this_process() -> str:
    """Tells it from those that had its number before it; a forked child has another."""
    return _tokens.setdefault(os.getpid(), uuid.uuid4().hex[:8])


@contextlib.contextmanager
def lease(database: SpoolDatabase, what: str) -> Iterator[Lease | None]:
    """While nobody else works on `what`; None if somebody does."""
    held = Lease(database, what)
    if not held.renew():
        yield None
        return
    try:
        yield held
    finally:
        held.release()
