"""A Postgres that hangs: it takes connections, and answers nothing."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
from servers.postgres_cluster import PostgresCluster

__all__ = ["suspended"]


@contextmanager
def suspended(cluster: PostgresCluster) -> Iterator[Callable[[], None]]:
    """Gives what stops the server and all its children; in the end they go on."""
    postmaster = psutil.Process(cluster.pid)

    def everyone(what: signal.Signals) -> None:
        for process in (postmaster, *postmaster.children(recursive=True)):
            process.send_signal(what)

    try:
        yield lambda: everyone(signal.SIGSTOP)
    finally:
        everyone(signal.SIGCONT)
