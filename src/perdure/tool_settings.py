"""What can be set for one tool, and what is then in effect."""

import re
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from perdure.durations import as_duration
from perdure.quick_values import frozen

__all__ = ["Acknowledge", "Announce", "FileReference", "HistoryMode", "Policy", "ToolSettings"]


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
    """Where a result carries the continuation id: in `_meta`, in structured content, in a block of text."""

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

    # Deferred: most servers need what checks them with their first call, for the file and the environment.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    enabled: bool | None = None
    """Whether the tool's calls are kept."""
    history: HistoryMode | None = None
    """Where the tool is given its history: `"parameter"` (the one annotated `History`), `"prompt"` (before the text of
    the prompt argument), `"none"`. `"auto"`: the parameter if there is one, else the prompt if there is one, else
    none."""
    prompt_argument: Annotated[str, Field(min_length=1)] | None = None
    """The argument that holds the prompt, for a tool that calls it `query` or `message`; else `prompt`."""
    max_turns: Annotated[int, Field(ge=0, le=1000)] | None = None
    """The history's budget in turns; the newest are kept first."""
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    """The history's budget in tokens."""
    announce: Annotated[frozenset[Announce], BeforeValidator(_as_list)] | None = None
    """Where a result carries the continuation id: in `_meta`, in structured content, in a block of text."""
    strip_id: bool | None = None
    """Whether a tool that has an argument `continuation_id` of its own does not get the id."""
    id_path: Annotated[tuple[str, ...], BeforeValidator(_as_list)] | None = None
    """Where a tool puts an id of its own in its result: there the client finds the conversation's. Names of
    members with dots between."""
    redact: bool | None = None
    """Whether secrets of well-known shapes are replaced before anything is written."""
    redact_patterns: Annotated[tuple[str, ...], BeforeValidator(_as_list)] | None = None
    """Regular expressions of secrets of your own."""
    acknowledge: Acknowledge | None = None
    """When a turn counts as kept: once the store has it; or `"spool"`: once it is on this machine's disk, which is
    sooner."""
    expire_after: (
        Annotated[timedelta, BeforeValidator(as_duration), Field(gt=timedelta(0), le=timedelta(days=36_500))] | None
    ) = None
    """For how long a conversation is remembered: `"30d"`, `"12h"`, `"1d12h"` (units s, m, h, d, w), ISO 8601 such as
    `"P30D"`, or seconds; else for ever."""
    user_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Who calls this tool where no request is authenticated; else the process's `user_id`. Whoever is authenticated
    stays who they are."""
    files: bool | None = None
    """Whether paths in results are kept as files, and storage URIs in arguments become local paths."""
    file_roots: Annotated[tuple[Path, ...], BeforeValidator(_as_list)] | None = None
    """Directories whose files may be read, besides the temp directory; `/` and the home directory are refused.
    Relevant for tools that write elsewhere, such as `["/srv/out"]`."""
    file_reference: FileReference | None = None
    """What the client gets: the storage URI, the tool's own path (`"path"`; the file is kept all the same), or an
    address that anybody can read for a while (`"signed-url"`, with Supabase)."""
    signed_url_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    """For how long such an address can be read."""
    rewrite_text: bool | None = None
    """Whether paths are looked for within prose, too; otherwise only where a path is the whole value."""
    replay: bool | None = None
    """Whether a call that is sent again with its `perdure/idempotency-key` gets the answer that is kept, and the tool
    does not run again."""
    max_file_bytes: Annotated[int, Field(ge=0)] | None = None
    """The largest file that is kept. Over this and the next two limits, the path stays and `_meta` says why."""
    max_turn_files: Annotated[int, Field(ge=0, le=1000)] | None = None
    """The most files of one call."""
    max_turn_bytes: Annotated[int, Field(ge=0)] | None = None
    """The most that the files of one call may take together."""
    file_timeout: Annotated[float, Field(gt=0, le=3600)] | None = None
    """Seconds that the files of one call may take, in all."""

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


@frozen(kw_only=True)
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
