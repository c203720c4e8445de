"""What an operator may set: in `perdure.toml`, and above it by environment variables `PERDURE_…`.

Only shapes and rules here; `perdure.settings_loader` reads the file and the variables, and words what is wrong there.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ImportString, SecretStr

from perdure.policy_sources import (
    BUILT_IN,
    IN_CODE,
    TOP,
    Chosen,
    Layer,
    Origin,
    Place,
    Source,
    matching,
    merged,
    section,
)
from perdure.tool_settings import Acknowledge, Announce, FileReference, HistoryMode, Policy, ToolSettings

__all__ = [
    "BACKENDS",
    "NEEDS_RESTART",
    "Acknowledge",
    "Announce",
    "FileReference",
    "HistoryMode",
    "Policy",
    "Settings",
    "ToolSettings",
]

BACKENDS = ("sqlite", "postgres", "supabase", "memory")
"""Those that perdure brings."""

NEEDS_RESTART = frozenset(
    {
        "backend", "database_url", "max_connections", "supabase_url", "supabase_key", "data_dir", "bucket",
        "operation_timeout", "count_tokens", "spool_max_bytes", "lease_seconds", "request_state_key",
        "max_message_bytes",
    }
)  # fmt: skip
"""What a running process has built its stores from: a change in the file has no effect on it."""


def _is_backend(value: str) -> str:
    if value not in BACKENDS and not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", value):
        *names, last = map(repr, BACKENDS)
        raise ValueError(f"must be {', '.join(names)} or {last}, or a store of your own as 'package.module:factory'")
    return value


class Settings(BaseModel):
    """All of them. To make them is to read the environment as well, below what is given."""

    # Deferred: what is made is always a `GivenSettings`.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    def __new__(cls, **given: Any) -> "Settings":
        if cls is not Settings:
            return super().__new__(cls)
        from perdure.settings_sources import MadeSettings  # noqa: PLC0415 - see there: it takes a while to import

        return MadeSettings(**given)

    enabled: bool = True
    """False makes perdure vanish: no call is kept. As `PERDURE_ENABLED=false`, before the server starts, every tool is
    as its author wrote it."""
    backend: Annotated[str, AfterValidator(_is_backend)] = "sqlite"
    """Or `"postgres"`, `"supabase"`; `"memory"`, which forgets at exit; or a store of your own,
    `"package.module:factory"`."""
    database_url: SecretStr | None = None
    """`postgresql://user:password@host:5432/database`; better as `PERDURE_DATABASE_URL`: it has a
    password in it."""
    max_connections: Annotated[int, Field(ge=1, le=1000)] = 8
    """The most connections to Postgres, from one process."""
    supabase_url: str | None = None
    """The project's address; `SUPABASE_URL` does as well."""
    supabase_key: SecretStr | None = None
    """A secret or service_role key; `SUPABASE_KEY` does as well."""
    data_dir: Path | None = None
    """Where SQLite and files are; else the user's data directory (`~/.local/share/perdure/` on Linux)."""
    user_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Who calls where no request is authenticated; else `local`."""
    shared_user: bool = False
    """Whether, on an HTTP server without authentication, everybody is that one user."""
    operation_timeout: Annotated[float, Field(gt=0, le=60)] = 5.0
    """Seconds that one call may wait for the store, in all."""
    spool_max_bytes: Annotated[int, Field(ge=0)] = 1_000_000_000
    """The most that turns and files may take which wait on this machine for a store that is away."""
    lease_seconds: Annotated[float, Field(ge=1, le=86_400)] = 60.0
    """For how long a turn counts as running without a word of the process that runs its tool, which renews it three
    times in as long."""
    request_state_key: Annotated[SecretStr, Field(min_length=32)] | None = None
    """Signs what travels through a client between the legs of a call; 32 characters or more, the same for all
    replicas, better as `PERDURE_REQUEST_STATE_KEY`; else a key in `data_dir`."""
    max_conversation_turns: Annotated[int, Field(ge=1)] = 100_000
    """The most turns of one conversation; further calls go on, and are not kept."""
    max_turns_per_minute: Annotated[int, Field(ge=1)] | None = None
    """The most turns of one principal, counted by each process; further calls go on, and are not kept."""
    max_message_bytes: Annotated[int, Field(ge=1000)] = 1_000_000
    """The largest prompt or answer that the database holds: what is larger is kept in the file store, and
    comes back whole."""
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{1,62}$")] = "mcp-files"
    """Where files are kept, as their storage URIs name it; `SUPABASE_STORAGE_BUCKET` does as well."""
    max_resource_bytes: Annotated[int, Field(ge=0)] = 10_000_000
    """The largest file that a client can read by `resources/read`, where it travels in one message."""
    conversation_resources: bool = False
    """Whether clients see their own conversations as resources, `conversation://…`."""
    max_total_bytes: Annotated[int, Field(ge=0)] = 1_000_000_000
    """The most that all files together may take."""
    count_tokens: ImportString[Callable[[str], int]] | None = None
    """How tokens are counted: `"my_package.count"`, a function `str -> int`; else UTF-8 bytes / 4."""
    defaults: ToolSettings = ToolSettings.model_construct()
    """For every tool."""
    tools: dict[str, ToolSettings] = {}
    """For one tool, by its name or a glob."""

    def policy(self, tool: str, in_code: ToolSettings | None = None) -> Policy:
        """The policy for `tool`. `in_code` is what its author chose; whatever the operator has set wins.

        A tool that its author chose is on unless the operator says otherwise; any other is off unless they say so.
        """
        return Policy(**{name: chosen.value for name, chosen in self.explained(tool, in_code).items()})

    def explained(
        self,
        tool: str,
        in_code: ToolSettings | None = None,
        variables: Mapping[Place, str] | None = None,
        *,
        code: Source = IN_CODE,
    ) -> dict[str, Chosen]:
        """What is set for `tool`, and by whom.

        `variables` says which of the settings here environment variables set, and `code` how the server's code does.
        """
        variables = variables or {}
        chosen = merged(self._layers(tool, in_code, code), variables)
        if not self.enabled:
            variable = variables.get(("enabled",))
            source = Source(Origin.VARIABLE, variable) if variable else Source(Origin.FILE, TOP)
            chosen["enabled"] = Chosen(False, source)
        return chosen

    def _layers(self, tool: str, in_code: ToolSettings | None, code: Source) -> Iterator[Layer]:
        yield Layer({"enabled": in_code is not None}, code if in_code is not None else BUILT_IN)
        if in_code is not None:
            yield Layer(_what_is_set(in_code), code)
        if self.user_id is not None:
            yield Layer({"user_id": self.user_id}, Source(Origin.FILE, TOP))
        yield Layer(_what_is_set(self.defaults), Source(Origin.FILE, "[defaults]"), ("defaults",))
        for name in matching(self.tools, tool):
            place = ("tools", name)
            yield Layer(_what_is_set(self.tools[name]), Source(Origin.FILE, section(place)), place)


def _what_is_set(settings: ToolSettings) -> Mapping[str, Any]:
    return {name: value for name in settings.model_fields_set if (value := getattr(settings, name)) is not None}
