"""Keeps two processes from sending the same thing at the same time. To lose a lease does no harm: it saves work."""

import contextlib
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
        self._owner = uuid.uuid4().hex
        self._until = 0.0

    def renew(self) -> bool:
        """Whether it is ours for some time still. Asks the database only when less than half of it is left."""
        now = time.time()
        if now < self._until - _SECONDS / 2:
            return True
        wanted = {"what": self._what, "owner": self._owner, "now": now, "seconds": _SECONDS}
        taken = self._database.write(
            lambda connection: connection.execute(self._database.sql["lease"], wanted).rowcount, durable=False
        )
        self._until = now + _SECONDS if taken else 0.0
        return bool(taken)

    def release(self) -> None:
        wanted = {"what": self._what, "owner": self._owner}
        self._database.write(
            lambda connection: connection.execute(self._database.sql["release"], wanted), durable=False
        )


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
