"""What one process has, once it is wired: its settings as they are now, and the parts that were made of them."""

import os
import secrets
import tempfile
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.errors import PerdureError
from perdure.logs import OnceAMinute, log
from perdure.middleware.persistence.breaker import Breaker
from perdure.middleware.persistence.engine import Engine
from perdure.middleware.persistence.files.allowed_roots import AllowedRoots, may_be_root
from perdure.middleware.persistence.files.keeper import FileKeeper
from perdure.middleware.persistence.grouped_lane import GroupedLane
from perdure.middleware.persistence.rate import Rate
from perdure.middleware.persistence.redaction import Redactor
from perdure.middleware.persistence.signing_key import key_in
from perdure.middleware.persistence.stores.unusable import UnusableStore
from perdure.middleware.persistence.threads import Lane
from perdure.middleware.persistence.turn import BegunTurn, FinishedTurn, Turn, Window
from perdure.settings import NEEDS_RESTART, Policy, Settings, ToolSettings
from perdure.settings_watch import SettingsWatch

if TYPE_CHECKING:
    from perdure.middleware.persistence.spool import Spool

__all__ = ["Runtime", "redactor_for", "roots_for"]


@dataclass(kw_only=True, eq=False, repr=False)
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

    @cached_property
    def beginnings(self) -> GroupedLane[tuple[Turn, Window, Redactor], tuple[Turn, BegunTurn]]:
        """Where turns begin that come at once, if the store takes several."""
        engine = self.engine
        return GroupedLane(
            self.lane, lambda given: engine.begin(*given), engine.begin_together, most=engine.most_together
        )

    @cached_property
    def endings(self) -> GroupedLane[tuple[Turn, Redactor], FinishedTurn]:
        """The same for turns that end."""
        engine = self.engine
        return GroupedLane(
            self.lane, lambda given: engine.finish(*given), engine.finish_together, most=engine.most_together
        )

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
