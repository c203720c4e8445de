"""Sees every call out of perdure into what may fail, counts it under a name, and makes it fail when told to.

The interpreter itself tells of each call (`sys.setprofile`): nothing has to be wrapped, and no call is overlooked
because nobody thought of it. A boundary is named by the module that calls and the function that is called.
"""

import dis
import sqlite3
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Literal

import perdure
from perdure.errors import StoreUnavailable

__all__ = ["Boundaries", "Kind"]

Kind = Literal["error", "unforeseen", "hang"]
"""What happens at a boundary: an error as that library has, one that nobody expects, or nothing for a long time."""

SAID = "injected-fault"

_RESUME = dis.opmap["RESUME"]
_ROOT = str(Path(perdure.__file__).parent) + "/"
_BELOW = "middleware.persistence."

_IO = (
    "posix",
    "os",
    "io",
    "_io",
    "pathlib",
    "shutil",
    "tempfile",
    "glob",
    "fcntl",
    "sqlite3",
    "psycopg",
    "psycopg_binary",
    "httpx",
    "httpcore",
    "supabase",
    "postgrest",
    "storage3",
    "socket",
    "ssl",
    "select",
    "subprocess",
    "importlib.resources",
    "importlib.readers",
    "platformdirs",
    "mimetypes",
    "puremagic",
    "structlog",
    "logging",
)
"""Modules whose functions reach the file system, a database, the network or the log."""

_OF_PATHS = "pathlib.Path."
"""The rest of `pathlib` only reckons with names."""

_PURE = (
    "posix.fspath",
    "posix.getpid",
    "posix.geteuid",
    "_io.FileIO.fileno",
    "_io.BufferedWriter.fileno",
    "_sqlite3.complete_statement",
    "posix.urandom",  # cannot fail once the system is up
    "os.fspath",
    "os.fsencode",
    "os.fsdecode",
    "os._Environ",
    "os.register_at_fork",
    "pathlib.Path.__new__",
    "pathlib.Path._init",
    "_io.BytesIO",
    "_io.StringIO",
    "sqlite3.Row",
    "psycopg.sql",
    "psycopg.pq",
    "psycopg.conninfo",
    "psycopg.errors.",
    "psycopg._connection_base",
    "psycopg._connection_info",
    "posix.register_at_fork",
    "select.poll.register",
    "psycopg._struct",
    "structlog._config",
    "structlog.stdlib.BoundLogger.bind",
    "structlog._base",
    "stores.faults.",
)
"""Functions, classes and modules among them that only reckon."""

_PORTS = (
    "ports.SystemClock.",
    "stores.",
    "file_stores.",
    "spool.spool.Spool.",
    "spool.database.SpoolDatabase.",
    "sqlite_file.database.Database.",
    "files.snapshot.take_snapshot",
    "files.allowed_roots.AllowedRoots.open",
    "settings_loader.load_settings",
    "settings_loader.data_directory",
    "data_directory.doubts_about",
    "sql_files.named_queries",
    "migrations.",
)
"""Our own functions that stand for something outside, when another part of perdure calls them."""

_AWAY = ("stores.", "file_stores.")

_HELD_IN = ("perdure-store", "perdure-files", "perdure-spool", "perdure-leases")
"""The threads in which something may hang."""


class Boundaries:
    def __init__(self, faulty: str | None = None, kind: Kind = "error") -> None:
        self.counts: Counter[str] = Counter()
        self.fired = 0
        self.inline = 0
        """How often the fault was to hang where there is no lane: there it does nothing."""
        self.store_is_away = False
        self._faulty = faulty
        self._kind = kind
        self._modules: dict[CodeType, str | None] = {}
        self._callees: dict[CodeType, str | None] = {}

    def watch(self) -> None:
        """From now on, in all threads."""
        threading.setprofile(self._seen)
        threading.settrace(self._again)
        sys.settrace(self._again)
        sys.setprofile(self._seen)

    def seen(self) -> dict[str, Any]:
        return {"counts": dict(self.counts.copy()), "fired": self.fired, "inline": self.inline}

    def _again(self, _frame: FrameType, _event: str, _arg: object) -> None:
        # An exception ends the profiling of its thread.
        if sys.getprofile() is None:
            sys.setprofile(self._seen)

    def _seen(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call":
            caller, called = frame, None
            if self._module(caller.f_code) is not None:
                called = _name_of_builtin(arg)
        elif event == "call":
            callee = self._callee(frame)
            if callee is None or not _begins(frame):
                return
            found = frame.f_back
            while found is not None and found.f_globals.get("__name__") in ("contextlib", "functools"):
                found = found.f_back
            if found is None:
                return
            caller, called = found, callee
        else:
            return
        module = self._module(caller.f_code)
        if module is None or called is None:
            return
        if called.startswith(_PORTS) and called.rpartition(".")[0].startswith(module.split(".")[0] + "."):
            return  # within one part
        self._reached(f"{module} -> {called}", called)

    def _reached(self, name: str, called: str) -> None:
        self.counts[name] += 1
        if self.store_is_away and called.startswith(_AWAY):
            raise StoreUnavailable("The store was taken away.")
        if name != self._faulty:
            return
        if self._kind == "hang":
            # To start a thread may fail, and takes no time.
            if not threading.current_thread().name.startswith(_HELD_IN) or called == "threading.Thread.start":
                self.inline += 1
                return
            self.fired += 1
            time.sleep(60)
            return
        self.fired += 1
        raise RuntimeError(SAID) if self._kind == "unforeseen" else _error(called)

    def _module(self, code: CodeType) -> str | None:
        """Of perdure, whose code it is; None if it is not."""
        try:
            return self._modules[code]
        except KeyError:
            file = code.co_filename
            name = None
            if file.startswith(_ROOT):
                name = file.removeprefix(_ROOT).removesuffix(".py").replace("/", ".").removesuffix(".__init__")
                name = name.removeprefix(_BELOW)
            self._modules[code] = name
            return name

    def _callee(self, frame: FrameType) -> str | None:
        """The name of a function that may fail."""
        code = frame.f_code
        try:
            return self._callees[code]
        except KeyError:
            own = self._module(code)
            if own is not None:
                name = f"{own}.{code.co_qualname}"
                local = code.co_name.startswith(("_", "<")) or "<locals>" in code.co_qualname
                found = name if name.startswith(_PORTS) and not name.startswith(_PURE) and not local else None
            else:
                found = _if_it_may_fail(f"{frame.f_globals.get('__name__')}.{code.co_qualname}")
            self._callees[code] = found
            return found


def _begins(frame: FrameType) -> bool:
    """Whether the function is called; a generator is also gone on with."""
    code, at = frame.f_code.co_code, frame.f_lasti
    return at < 0 or (code[at] == _RESUME and code[at + 1] & 3 == 0)


def _name_of_builtin(function: Any) -> str | None:
    owner = getattr(function, "__self__", None)
    name = getattr(function, "__name__", "?")
    if owner is None or isinstance(owner, type(sys)):
        return _if_it_may_fail(f"{getattr(function, '__module__', None)}.{name}")
    kind = owner if isinstance(owner, type) else type(owner)
    return _if_it_may_fail(f"{kind.__module__}.{kind.__qualname__}.{name}")


def _if_it_may_fail(name: str) -> str | None:
    if name in ("threading.Thread.start", "_thread.start_new_thread"):
        return name
    if not name.startswith(tuple(f"{module}." for module in _IO)) and not name.startswith("_sqlite3."):
        return None
    if name.startswith("pathlib.") and not name.startswith(_OF_PATHS):
        return None
    return None if name.startswith(_PURE) or "<" in name else name


def _error(called: str) -> Exception:
    """As whoever is called may raise."""
    library = called.split(".", maxsplit=1)[0]
    if library in ("sqlite3", "_sqlite3"):
        return sqlite3.OperationalError(SAID)
    if library in ("psycopg", "psycopg_binary"):
        import psycopg

        return psycopg.OperationalError(SAID)
    if library in ("httpx", "httpcore", "supabase", "postgrest", "storage3"):
        import httpx

        return httpx.ConnectError(SAID)
    if library == "threading":
        return RuntimeError(f"can't start new thread: {SAID}")
    if called.startswith(_PORTS):
        return StoreUnavailable(SAID)
    return OSError(5, SAID)
