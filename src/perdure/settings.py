"""What an operator may set: in `perdure.toml`, and above it by environment variables `PERDURE_…`.

Only shapes and rules here; `perdure.settings_loader` finds the file and words what is wrong with it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ImportString, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["Announce", "FileReference", "HistoryMode", "Policy", "Settings", "ToolSettings"]


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
    files: bool | None = None
    file_roots: Annotated[tuple[Path, ...], BeforeValidator(_as_list)] | None = None
    file_reference: FileReference | None = None
    signed_url_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    rewrite_text: bool | None = None
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
    files: bool = True
    """Whether local files that a result names are kept, and storage URIs in arguments become local files."""
    file_roots: tuple[Path, ...] = ()
    """Where files may be read, besides the temp directory."""
    file_reference: FileReference = FileReference.URI
    signed_url_seconds: int = 3600
    """For which a signed address can be read; it is made for each answer anew, and never stored."""
    rewrite_text: bool = False
    """Whether paths are looked for within prose too, not only where they are the whole value."""
    max_file_bytes: int = 50_000_000
    max_turn_files: int = 100
    max_turn_bytes: int = 200_000_000
    file_timeout: float = 60.0
    """Seconds that the files of one call may take, in all."""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="PERDURE_", env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=False
    )

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
    """Who calls where no request is authenticated."""
    shared_user: bool = False
    """Whether everybody who reaches an HTTP server without authentication is that one user."""
    operation_timeout: Annotated[float, Field(gt=0, le=60)] = 5.0
    """Seconds that one call may wait for the store, in all."""
    spool_max_bytes: Annotated[int, Field(ge=0)] = 1_000_000_000
    """Of the turns and files that wait on this machine's disk for a store that is away."""
    request_state_key: Annotated[SecretStr, Field(min_length=32)] | None = None
    """Signs what travels through a client between the legs of a call. Replicas share it; None: a key in `data_dir`."""
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{1,62}$")] = "mcp-files"
    """Where files are kept, as named in their URIs."""
    max_resource_bytes: Annotated[int, Field(ge=0)] = 10_000_000
    """Of one file that a client reads as an MCP resource: it travels in one message."""
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
        chosen: dict[str, Any] = {"enabled": in_code is not None}
        layers = [in_code, self.defaults, *self._matching(tool)]
        for layer in layers:
            if layer is not None:
                chosen.update((name, value) for name, value in _what_is_set(layer).items())
        if not self.enabled:
            chosen["enabled"] = False
        return Policy(**chosen)

    def _matching(self, tool: str) -> list[ToolSettings]:
        """The sections for `tool`, the most specific last: an exact name, else by the letters a glob spells out."""
        found = [(_letters(name, tool), settings) for name, settings in self.tools.items() if fnmatchcase(tool, name)]
        return [settings for _, settings in sorted(found, key=lambda item: item[0])]


def _letters(pattern: str, tool: str) -> tuple[bool, int]:
    return pattern == tool, sum(character not in "*?[]" for character in pattern)


def _what_is_set(settings: ToolSettings) -> Mapping[str, Any]:
    return {name: value for name in settings.model_fields_set if (value := getattr(settings, name)) is not None}
