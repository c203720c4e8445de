"""The one place where settings become parts, and parts a whole."""

import os
import secrets
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.errors import PerdureError, SettingsError
from perdure.logs import OnceAMinute, log
from perdure.middleware.persistence.backends import stores_of
from perdure.middleware.persistence.breaker import Breaker
from perdure.middleware.persistence.data_directory import doubts_about
from perdure.middleware.persistence.engine import Engine
from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.files.allowed_roots import AllowedRoots, may_be_root
from perdure.middleware.persistence.files.keeper import FileKeeper
from perdure.middleware.persistence.history import estimate_tokens
from perdure.middleware.persistence.large_messages import LargeMessages
from perdure.middleware.persistence.large_messages.bodies import Bodies
from perdure.middleware.persistence.ports import Clock, FileStore, Store, SystemClock
from perdure.middleware.persistence.rate import Rate
from perdure.middleware.persistence.redaction import Redactor
from perdure.middleware.persistence.signing_key import key_in
from perdure.middleware.persistence.stores.sql_functions import SqlFunctionStore
from perdure.middleware.persistence.stores.unusable import UnusableStore
from perdure.middleware.persistence.telemetry import Telemetry
from perdure.middleware.persistence.threads import Lane
from perdure.middleware.persistence.turn import StoredFile
from perdure.settings import NEEDS_RESTART, Policy, Settings, ToolSettings
from perdure.settings_loader import data_directory, load_settings
from perdure.settings_watch import SettingsWatch

if TYPE_CHECKING:
    from perdure.middleware.persistence.spool import Spool

__all__ = [
    "Runtime",
    "activated",
    "build",
    "redactor_for",
    "roots_for",
    "runtime",
    "stored_files",
]

_FILES_REACH_AS_FAR = ("sqlite", "supabase")
"""Backends whose files are read wherever their turns are. Postgres has its files in a folder of one machine."""


@dataclass(kw_only=True)
class Runtime:
    """Everything one process needs to persist tool calls."""

    settings: Settings
    """As they are now: another object whenever the settings file has changed."""
    engine: Engine
    keeper: FileKeeper
    own_folder: Path
    """Where our data is, the files among it."""
    spool: "Spool | None" = None
    """None where nothing is kept on a disk."""
    breaker: Breaker = field(default_factory=Breaker.never_opening)
    """Before the store."""
    lane: Lane = field(default_factory=lambda: Lane("store"))
    file_lane: Lane = field(default_factory=lambda: Lane("files", size=4))
    """Apart, so that large files hold up no acknowledgement."""
    disk_lane: Lane = field(default_factory=lambda: Lane("spool", size=8, hanging_after=5.0))
    """Apart, so that a store that hangs does not either. A disk that stalls for a second or two is waited for: there is
    nowhere else to keep a turn then."""
    rate: Rate = field(default_factory=Rate)
    """At which turns are kept, of each principal."""
    watch: SettingsWatch | None = None
    """Of the file that the settings came from; None where they came from none."""
    _policies: dict[tuple[str, int], tuple[ToolSettings | None, Policy]] = field(default_factory=dict)
    """By the name of a tool and the identity of its options, which are kept with it: to compare them takes longer."""
    _said: OnceAMinute = field(default_factory=OnceAMinute)
    _left_alone: set[str] = field(default_factory=set)
    _waiting_for_restart: dict[str, object] = field(default_factory=dict)

    @cached_property
    def signing_key(self) -> bytes:
        """Signs what travels through a client. Blocks when it is asked for first."""
        if self.settings.request_state_key is not None:
            return self.settings.request_state_key.get_secret_value().encode()
        try:
            return key_in(self.own_folder)
        except OSError as error:
            log.warning(
                "request_state.key_not_kept",
                what=f"No key can be kept in {self.own_folder}: {error}. A call that waits for an answer of its client "
                "when this process ends will be two turns.",
                remedy="make the directory writable, or set PERDURE_REQUEST_STATE_KEY.",
            )
            return secrets.token_bytes(32)

    @property
    def is_usable(self) -> bool:
        """Whether there were settings to make it from; it was said already if not."""
        return not isinstance(self.engine.store, UnusableStore)

    def policy(self, tool: str, in_code: ToolSettings | None = None) -> Policy:
        policies = self._policies  # before the settings: what comes of old ones never gets among the new ones' policies
        found = policies.get((tool, id(in_code)))
        if found is not None:
            return found[1]
        policy = self.settings.policy(tool, in_code)
        if len(policies) < 10_000:  # names come from clients: they may not fill the memory
            policies[tool, id(in_code)] = in_code, policy
        return policy

    def follow(self, settings: Settings) -> None:
        """Go on with `settings`, but for what the stores are built from. Which keys wait for a restart is said once."""
        kept = {name: getattr(self.settings, name) for name in NEEDS_RESTART}
        waiting = {name: getattr(settings, name) for name in sorted(kept) if getattr(settings, name) != kept[name]}
        self.settings = settings.model_copy(update=kept)
        self._policies = {}
        if waiting and waiting != self._waiting_for_restart:
            log.warning(
                "settings.restart_needed",
                what=f"The settings have changed. All of them hold from now on, but for {', '.join(waiting)}: this"
                " process goes on with the old values.",
                remedy="restart the server for these to take effect.",
            )
        self._waiting_for_restart = waiting

    def say(self, event: str, error: Exception) -> None:
        """Log a fault for the operator, once a minute each."""
        self.engine.telemetry.fault(event, error)
        what = error.what if isinstance(error, PerdureError) else f"{type(error).__name__}: {error}"
        if self._said.is_due(what):
            remedy = (
                error.remedy if isinstance(error, PerdureError) else "report this; the tool's answer was not touched."
            )
            log.error(event, what=what, remedy=remedy)

    def say_left_alone(self, tool: str, paths: list[str]) -> None:
        """Tell the operator, once for each directory, which setting would admit what a tool gave out."""
        for folder in sorted({os.path.dirname(path) for path in paths}):  # noqa: PTH120 - a string, and stays one
            key = f"{tool}\0{folder}"
            if not may_be_root(Path(folder)):
                continue
            if key not in self._left_alone and len(self._left_alone) < 1000:
                self._left_alone.add(key)
                log.warning(
                    "file.left_alone",
                    what=f"The tool {tool} gave out a path in {folder!r}, which lies outside of the allowed roots.",
                    remedy=f"if these files shall be kept: [tools.{tool}] file_roots = [{folder!r}] in perdure.toml.",
                )


@lru_cache(maxsize=256)
def redactor_for(redact: bool, patterns: tuple[str, ...]) -> Redactor:
    return Redactor(enabled=redact, patterns=patterns)


@lru_cache(maxsize=64)
def roots_for(chosen: tuple[Path, ...], own: Path) -> AllowedRoots:
    """The temp directory and what the policy adds, without our own data."""
    return AllowedRoots(chosen, shared=[Path(tempfile.gettempdir())], never=[own])


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
    destination = store.where if isinstance(store, SqlFunctionStore) else settings.backend
    bodies = Bodies(file_store, folder) if is_of_settings and settings.backend in _FILES_REACH_AS_FAR else None
    whole: Store = store
    if bodies is not None:
        whole = LargeMessages(store, bodies, max_bytes=settings.max_message_bytes)
    spool = None
    if spooled:
        from perdure.middleware.persistence.spool import Spool  # noqa: PLC0415 - where it is used

        spool = Spool(own_folder / "spool", destination, whole, file_store, clock, max_bytes=settings.spool_max_bytes)
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


class _AskingNothing(Settings):
    """Made without a look at the environment: what reads that may be what fails."""


def _keeping_nothing(reason: SettingsError) -> Runtime:
    """Asks nothing of the file system: that may be what fails. Files stay as tools name them."""
    settings = _AskingNothing.model_construct(defaults=ToolSettings(files=False))
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
