"""The one place where settings become parts, and parts a whole."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from perdure.errors import PerdureError, SettingsError
from perdure.logs import log
from perdure.middleware.persistence.backends import stores_of
from perdure.middleware.persistence.breaker import Breaker
from perdure.middleware.persistence.data_directory import doubts_about
from perdure.middleware.persistence.engine import Engine
from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.files.keeper import FileKeeper
from perdure.middleware.persistence.history import estimate_tokens
from perdure.middleware.persistence.large_messages import LargeMessages
from perdure.middleware.persistence.large_messages.bodies import Bodies
from perdure.middleware.persistence.ports import Clock, FileStore, Store, SystemClock
from perdure.middleware.persistence.runtime import Runtime
from perdure.middleware.persistence.stores.unusable import UnusableStore
from perdure.middleware.persistence.telemetry import Telemetry
from perdure.middleware.persistence.turn import StoredFile
from perdure.settings import Settings, ToolSettings
from perdure.settings_loader import data_directory, load_settings
from perdure.settings_watch import SettingsWatch

__all__ = [
    "Runtime",
    "activated",
    "build",
    "runtime",
    "stored_files",
]

_FILES_REACH_AS_FAR = ("sqlite", "supabase")
"""Backends whose files are read wherever their turns are. Postgres has its files in a folder of one machine."""


def build(
    settings: Settings,
    *,
    store: Store | None = None,
    file_store: FileStore | None = None,
    clock: Clock | None = None,
    spooled: bool | None = None,
) -> Runtime:
    """`spooled`: whether a spool stands before the stores; None: before those that the settings name, unless they are
    in memory."""
    clock = clock or SystemClock()
    own_folder = data_directory(settings)
    folder = own_folder / "files"
    if spooled is None:
        spooled = store is None and settings.backend != "memory"
    is_of_settings = store is None
    if store is None:
        store, made_file_store = stores_of(settings, clock, folder)
        file_store = file_store or made_file_store
    file_store = file_store or LocalFileStore(folder, settings.bucket)
    destination: str = getattr(store, "where", settings.backend)  # a database on a network has an address
    bodies = Bodies(file_store, folder) if is_of_settings and settings.backend in _FILES_REACH_AS_FAR else None
    whole: Store = store
    if bodies is not None:
        whole = LargeMessages(store, bodies, max_bytes=settings.max_message_bytes)
    spool = None
    if spooled:
        from perdure.middleware.persistence.spool import Spool  # noqa: PLC0415 - where it is used

        spool = Spool(
            own_folder / "spool",
            destination,
            whole,
            file_store,
            clock,
            max_bytes=settings.spool_max_bytes,
            longest_settling=settings.operation_timeout / 2,  # The rest is for the call's own turn.
        )
        if bodies is not None:
            bodies.wait_in(spool, spool.file_breaker)
    telemetry = Telemetry(settings.backend, clock.now)
    if spool is not None:
        telemetry.waiting = spool.status
    breaker, file_breaker = (spool.breaker, spool.file_breaker) if spool else (None, None)
    return Runtime(
        settings=settings,
        engine=Engine(
            whole,
            clock,
            settings.count_tokens or estimate_tokens,
            spool,
            timedelta(seconds=settings.lease_seconds),
            telemetry,
        ),
        own_folder=own_folder,
        keeper=FileKeeper(whole, file_store, folder, spool, file_breaker, breaker),
        spool=spool,
        breaker=breaker or Breaker.never_opening(),
    )


def runtime() -> Runtime:
    """This process's runtime, made from the settings when first asked for.

    With settings that cannot be used nothing is recorded, and every result says so: what an operator meant to keep
    from being recorded must not be recorded because of a typo.
    """
    now = _runtime
    if now is None:
        return _made()
    if now.watch is not None and now.watch.is_due():
        return _followed(now, now.watch)
    return now


def _made() -> Runtime:
    global _runtime  # noqa: PLW0603 - the one per process
    with _making:
        if _runtime is None:
            watch = SettingsWatch()
            _runtime = _made_from_settings()
            _runtime.watch = watch
        return _runtime


def _followed(now: Runtime, watch: SettingsWatch) -> Runtime:
    """The runtime with the settings as the file has them by now. A file that cannot be used changes nothing."""
    global _runtime  # noqa: PLW0603
    if not _making.acquire(blocking=False):
        return now  # Another thread is at it.
    try:
        if _runtime is not now or not watch.has_changed():
            return _runtime or now
        settings = load_settings()
        if isinstance(now.engine.store, UnusableStore):  # There was nothing to go on with; now there is.
            _runtime = build(settings)
            _start(_runtime)
            _runtime.watch = watch
            return _runtime
        now.follow(settings)
    except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
        what = error.what if isinstance(error, PerdureError) else f"The settings cannot be read: {error!r}."
        meanwhile = "everything goes on with the settings that were read before"
        if isinstance(now.engine.store, UnusableStore):
            meanwhile = "perdure is off, and tools answer without memory"
        log.error("settings.not_followed", what=what, remedy=f"mend it; until then {meanwhile}.")
    finally:
        _making.release()
    return now


def _made_from_settings() -> Runtime:
    try:
        made = build(load_settings())
    except SettingsError as error:
        made = _keeping_nothing(error)
        made.say("settings.invalid", error)
    except Exception as error:  # noqa: BLE001 - a file system that fails must not break a call either
        made = _keeping_nothing(
            SettingsError(
                f"perdure cannot begin to keep anything ({type(error).__name__}: {error}).",
                remedy="look at the directories of the settings and of the data, and start this server again.",
            )
        )
        made.say("settings.unreadable", error)
    _start(made)
    return made


def _keeping_nothing(reason: SettingsError) -> Runtime:
    """Asks nothing of the file system: that may be what fails. Files stay as tools name them."""

    class AskingNothing(Settings):
        """Made without a look at the environment: what reads that may be what fails."""

    settings = AskingNothing.model_construct(defaults=ToolSettings(files=False))
    nowhere = Path(os.devnull)
    store = UnusableStore(reason, settings.bucket)
    return Runtime(
        settings=settings,
        engine=Engine(store, SystemClock()),
        own_folder=nowhere,
        keeper=FileKeeper(store, store, nowhere),
    )


def _start(made: Runtime) -> None:
    """What a process that serves calls does once, before its first."""
    if made.spool is None:
        return
    try:
        made.spool.wake()
        for warning in doubts_about(made.own_folder):
            log.warning("data_directory.in_doubt", what=warning.what, remedy=warning.remedy)
    except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
        made.say("spool.not_started", error)


def stored_files(
    name: str | None = None, *, continuation_id: str | None = None, user: str | None = None, limit: int = 1000
) -> list[StoredFile]:
    """The files that tools gave out, newest first: all, of one conversation, or the versions of one logical name.

    `user` is the principal whose files they are; None: the configured user, or `local`. Blocks for as long as the store
    does.

    Raises:
        StoreUnavailable: They could not be read now.
    """
    now = runtime()
    return now.engine.files(user or now.settings.user_id or "local", continuation_id, name, limit=limit)


@contextmanager
def activated(replacement: Runtime) -> Iterator[Runtime]:
    """`replacement` as this process's runtime, for a test."""
    global _runtime  # noqa: PLW0603
    before, _runtime = _runtime, replacement
    try:
        yield replacement
    finally:
        _runtime = before


_runtime: Runtime | None = None
_making = threading.Lock()


def _after_fork() -> None:
    global _making  # noqa: PLW0603
    _making = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
