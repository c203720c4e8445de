"""What an operator may set: in `perdure.toml`, and above it by environment variables `PERDURE_…`.

Only shapes and rules here; `perdure.settings_loader` reads the file and the variables, and words what is wrong there.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ImportString, SecretStr, field_validator

from perdure.durations import as_duration
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

__all__ = [
    "NEEDS_RESTART",
    "Acknowledge",
    "Announce",
    "FileReference",
    "HistoryMode",
    "Policy",
    "Settings",
    "ToolSettings",
]

NEEDS_RESTART = frozenset(
    {
        "backend", "database_url", "max_connections", "supabase_url", "supabase_key", "data_dir", "bucket",
        "operation_timeout", "count_tokens", "spool_max_bytes", "lease_seconds", "request_state_key",
        "max_message_bytes",
    }
)  # fmt: skip
"""What a running process has built its stores from: a change in the file has no effect on it."""


class HistoryMode(StrEnum):
    """Where a tool is given its history."""

    AUTO = "auto"
    """As PARAMETER where a parameter is declared, else as PROMPT where there is an argument `prompt`, else NONE."""
    PARAMETER = "parameter"
    """In the handler's parameter that is annotated `History`."""
    PROMPT = "prompt"
    """As a transcript before the text of the prompt argument."""
    NONE = "none"


class Announce(StrEnum):
    """Where a result carries the continuation id."""

    META = "meta"
    STRUCTURED = "structured"
    TEXT = "text"


class FileReference(StrEnum):
    """What a result names a kept file by."""

    URI = "uri"
    PATH = "path"
    """As the tool named it: the file is kept all the same."""
    SIGNED_URL = "signed-url"
    """An address from which anybody may read it for a while; the URI where the file store has no such thing."""


class Acknowledge(StrEnum):
    """When a finished turn counts as kept, so that the result may go out."""

    STORE = "store"
    """Once the store has committed it; the spool is for when that cannot be had."""
    SPOOL = "spool"
    """Once the local spool has it on disk; the store gets it afterwards."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class ToolSettings(BaseModel):
    """What can be set for one tool, or for all by default. What is not set is None and decides nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool | None = None
    history: HistoryMode | None = None
    prompt_argument: Annotated[str, Field(min_length=1)] | None = None
    max_turns: Annotated[int, Field(ge=0, le=1000)] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    announce: Annotated[frozenset[Announce], BeforeValidator(_as_list)] | None = None
    strip_id: bool | None = None
    id_path: Annotated[tuple[str, ...], BeforeValidator(_as_list)] | None = None
    redact: bool | None = None
    redact_patterns: Annotated[tuple[str, ...], BeforeValidator(_as_list)] | None = None
    acknowledge: Acknowledge | None = None
    expire_after: (
        Annotated[timedelta, BeforeValidator(as_duration), Field(gt=timedelta(0), le=timedelta(days=36_500))] | None
    ) = None
    user_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    files: bool | None = None
    file_roots: Annotated[tuple[Path, ...], BeforeValidator(_as_list)] | None = None
    file_reference: FileReference | None = None
    signed_url_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    rewrite_text: bool | None = None
    replay: bool | None = None
    max_file_bytes: Annotated[int, Field(ge=0)] | None = None
    max_turn_files: Annotated[int, Field(ge=0, le=1000)] | None = None
    max_turn_bytes: Annotated[int, Field(ge=0)] | None = None
    file_timeout: Annotated[float, Field(gt=0, le=3600)] | None = None

    @field_validator("redact_patterns")
    @classmethod
    def _are_patterns(cls, patterns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for pattern in patterns or ():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        return patterns

    @field_validator("id_path")
    @classmethod
    def _are_paths(cls, paths: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for path in paths or ():
            if not all(path.split(".")):
                raise ValueError(f'{path!r} is no path: write names with dots between, such as "offer.continuation_id"')
        return paths


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The effective settings for one tool."""

    enabled: bool = False
    history: HistoryMode = HistoryMode.AUTO
    prompt_argument: str | None = None
    """None: the argument called `prompt`, if there is one."""
    max_turns: int = 20
    max_tokens: int = 8000
    announce: frozenset[Announce] = frozenset(Announce)
    strip_id: bool = False
    """Whether the tool does not get the id even though it has an argument for it: it would not know ours."""
    id_path: tuple[str, ...] = ()
    """Where in its result a tool that makes ids of its own puts them: names of members, with dots between."""
    redact: bool = True
    redact_patterns: tuple[str, ...] = ()
    acknowledge: Acknowledge = Acknowledge.STORE
    expire_after: timedelta | None = None
    """From the beginning of each turn on; then its conversation is as if it had never been. None: never."""
    user_id: str | None = None
    """Who calls where no request is authenticated. None: `local`, or nobody known on an open HTTP server."""
    files: bool = True
    """Whether local files that a result names are kept, and storage URIs in arguments become local files."""
    file_roots: tuple[Path, ...] = ()
    """Where files may be read, besides the temp directory."""
    file_reference: FileReference = FileReference.URI
    signed_url_seconds: int = 3600
    """For which a signed address can be read; it is made for each answer anew, and never stored."""
    replay: bool = False
    """Whether a call that is sent again with its idempotency key gets the answer that is kept, and does not run."""
    rewrite_text: bool = False
    """Whether paths are looked for within prose too, not only where they are the whole value."""
    max_file_bytes: int = 50_000_000
    max_turn_files: int = 100
    max_turn_bytes: int = 200_000_000
    file_timeout: float = 60.0
    """Seconds that the files of one call may take, in all."""


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
    """False makes perdure vanish."""
    backend: Literal["sqlite", "postgres", "supabase", "memory"] = "sqlite"
    database_url: SecretStr | None = None
    """Of Postgres: `postgresql://user:password@host:5432/database`."""
    max_connections: Annotated[int, Field(ge=1, le=1000)] = 8
    """To Postgres, from one process."""
    supabase_url: str | None = None
    """Of the project: `https://….supabase.co`. Of no meaning with another backend."""
    supabase_key: SecretStr | None = None
    """A secret key (`sb_secret_…`), or the service_role key."""
    data_dir: Path | None = None
    """None: the platform's user data directory."""
    user_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Who calls where no request is authenticated; a tool's own `user_id` stands above it."""
    shared_user: bool = False
    """Whether everybody who reaches an HTTP server without authentication is that one user."""
    operation_timeout: Annotated[float, Field(gt=0, le=60)] = 5.0
    """Seconds that one call may wait for the store, in all."""
    spool_max_bytes: Annotated[int, Field(ge=0)] = 1_000_000_000
    """Of the turns and files that wait on this machine's disk for a store that is away."""
    lease_seconds: Annotated[float, Field(ge=1, le=86_400)] = 60.0
    """For which a turn counts as running without a word of the process that runs its tool."""
    request_state_key: Annotated[SecretStr, Field(min_length=32)] | None = None
    """Signs what travels through a client between the legs of a call. Replicas share it; None: a key in `data_dir`."""
    max_conversation_turns: Annotated[int, Field(ge=1)] = 100_000
    """Of one conversation; further calls go on, and are not kept."""
    max_turns_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Of one principal, in this process; further calls go on, and are not kept. None: any number."""
    max_message_bytes: Annotated[int, Field(ge=1000)] = 1_000_000
    """Of one prompt or answer: what is larger is kept in the file store, as far as that is shared like the store."""
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{1,62}$")] = "mcp-files"
    """Where files are kept, as named in their URIs."""
    max_resource_bytes: Annotated[int, Field(ge=0)] = 10_000_000
    """Of one file that a client reads as an MCP resource: it travels in one message."""
    conversation_resources: bool = False
    """Whether clients see their own conversations as MCP resources, `conversation://…`: to list, to read, to resume."""
    max_total_bytes: Annotated[int, Field(ge=0)] = 1_000_000_000
    """Of all files together."""
    count_tokens: ImportString[Callable[[str], int]] | None = None
    """`module.function` that counts a text's tokens; None: UTF-8 bytes / 4."""
    defaults: ToolSettings = ToolSettings()
    tools: dict[str, ToolSettings] = {}

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
