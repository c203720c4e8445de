"""The files of one call: those that its arguments name by storage URIs, and those that its result names by paths."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from perdure.middleware.argument_schema import replaced_by_schema
from perdure.middleware.meta_keys import META_FILES
from perdure.middleware.path_rewriting import Replace, local_path, rewritten_result, storage_uri
from perdure.middleware.persistence.files.allowed_roots import AllowedRoots
from perdure.middleware.persistence.files.keeper import FileKeeper, FileLimits, Keeping, LeftAlone
from perdure.middleware.persistence.history import transcripts_in
from perdure.middleware.persistence.turn import Json, JsonObject, StoredFile
from perdure.middleware.tool_schema import satisfies
from perdure.settings import FileReference, Policy

__all__ = ["CallFiles", "Report", "Reporter", "may_name_files", "may_name_stored_files", "stored_files_in"]

Report = Callable[[float, str], None]
"""Told how far the work on a file is, from 0 to 1, and in words. May be called from any thread."""

Reporter = Callable[[], Report | None]
"""Makes a report where a call is to have one: asked on the thread that serves it, and only in a call with files."""

_WORTH_REPORTING = 8_000_000
"""Bytes: less is done before anybody looks."""

_REPORT_EVERY = 0.25
"""Seconds."""

_MOST_NAMED = 20
"""Paths left alone that are named in `_meta`."""


def stored_files_in(arguments: JsonObject) -> list[str]:
    """The storage URIs that are whole values of `arguments`."""
    return [uri for text in _strings(arguments) if (uri := storage_uri(text))]


def may_name_stored_files(arguments: JsonObject) -> bool:
    """Whether `stored_files_in` could find one: cheap, and never wrongly false."""
    return "storage://" in "\0".join(_strings(arguments))


def may_name_files(result: JsonObject) -> bool:
    """Whether anything in `result` could be a path: cheap, and never wrongly false."""
    for text in _strings(result):  # noqa: SIM110 - a generator would take longer than its search
        if "/" in text or ("\\" in text and "\\u002" in text.lower()):
            return True
    return False


class CallFiles:
    """Only of a call that may name files: most do not."""

    def __init__(
        self,
        keeper: FileKeeper,
        principal: str,
        policy: Policy,
        roots: AllowedRoots,
        report: Report | None = None,
        *,
        max_total_bytes: int,
    ) -> None:
        self._report = report
        self._keeper = keeper
        self._principal = principal
        self._policy = policy
        self._roots = roots
        self._max_total_bytes = max_total_bytes
        self._keeping: Keeping | None = None
        self._stored: dict[str, StoredFile] = {}
        self._left: tuple[LeftAlone, ...] = ()
        self._signed: dict[str, str] = {}
        """The signed addresses of stored files, by their keys: for the client alone, never for the record."""
        self._own_copies: frozenset[str] = frozenset()
        self._reported_at = 0.0

    # ── in ───────────────────────────────────────────────────────────────────────────────────────────────────

    def brought_back(self, arguments: JsonObject, schema: Mapping[str, Any] | None) -> JsonObject:
        """`arguments` with local paths in place of storage URIs; `file://` URIs where `schema` wants URIs. Blocks.

        Raises:
            FileMissing: One of them is none of this caller's files.
            StoreUnavailable: One of them could not be read now.
        """
        paths: dict[str, Path] = {}

        def local(uri: str) -> Path:
            if uri not in paths:
                paths[uri] = self._keeper.bring_back(
                    self._principal,
                    uri,
                    max_bytes=self._policy.max_file_bytes,
                    progress=lambda done, size: self._progress("bringing back", uri.rpartition("/")[2], done, size),
                )
            return paths[uri]

        def replaced(text: str, wants_uri: bool) -> str | None:
            if (uri := storage_uri(text)) is None:
                return None
            path = local(uri)
            return path.as_uri() if wants_uri else str(path)

        changed = replaced_by_schema(arguments, schema, replaced)
        self._own_copies = frozenset(map(str, paths.values()))
        return changed

    # ── out ──────────────────────────────────────────────────────────────────────────────────────────────────

    def keep(self, result: JsonObject) -> None:
        """Keep the files that `result` names. Blocks. `settle` afterwards, however it ended.

        Raises:
            StoreUnavailable: The file store is away; what was kept until then stays kept.
        """
        limits = FileLimits(
            max_file_bytes=self._policy.max_file_bytes,
            max_turn_files=self._policy.max_turn_files,
            max_turn_bytes=self._policy.max_turn_bytes,
            max_total_bytes=self._max_total_bytes,
            seconds=self._policy.file_timeout,
        )
        keeping = self._keeping = self._keeper.keeping(
            self._principal,
            self._roots,
            limits,
            lambda done, size: self._progress("keeping", "a file", done, size),
            own_copies=self._own_copies,
        )

        def kept(text: str) -> str | None:
            path = local_path(text)
            return keeping.uri_for(path) if path is not None else None

        self._rewritten(result, kept)

    @property
    def away(self) -> Exception | None:
        """Why files of this call wait in the spool, if they do."""
        return self._keeping.away if self._keeping is not None else None

    @property
    def are_on_their_way(self) -> bool:
        """`keep` has come back, and a file store still works on something: it took too long."""
        return self._keeping is not None and self._keeping.is_on_its_way

    def rescue(self) -> None:
        """After `keep` took too long: take what is on its way into the spool. Blocks.

        Raises:
            StoreError: It cannot be kept there either.
        """
        if self._keeping is not None:
            self._keeping.rescue()

    def settle(self) -> tuple[StoredFile, ...]:
        """What was kept by now. Whatever a store that hung may still do changes nothing of it."""
        if self._keeping is not None:
            self._stored = dict(self._keeping.stored)
            self._left = tuple(self._keeping.left.values())
        return tuple({(file.name, file.key): file for file in self._stored.values()}.values())

    @property
    def are_to_be_signed(self) -> bool:
        return bool(self._stored) and self._policy.file_reference is FileReference.SIGNED_URL

    def sign(self) -> None:
        """Make the addresses that the client gets in place of storage URIs. Blocks.

        Raises:
            StoreUnavailable: The file store is away: the client gets storage URIs.
        """
        signed = {
            stored.key: self._keeper.file_store.signed_url(stored.key, seconds=self._policy.signed_url_seconds)
            for stored in self._stored.values()
        }
        self._signed = {key: address for key, address in signed.items() if address is not None}

    def rewritten(
        self, result: JsonObject, output_schema: Mapping[str, Any] | None = None, *, for_client: bool = False
    ) -> JsonObject:
        """`result` with storage URIs in place of the paths whose files were kept; `for_client` with signed addresses.

        Structured content stays as it is where `output_schema` would refuse it with URIs in it.
        """
        if not self._stored or self._policy.file_reference is FileReference.PATH:
            return result

        def uri(text: str) -> str | None:
            stored = self._stored.get(local_path(text) or "")
            if stored is None:
                return None
            return (self._signed.get(stored.key) if for_client else None) or stored.uri

        changed = self._rewritten(result, uri)
        structured = changed.get("structuredContent")
        if structured is not None and output_schema is not None and not satisfies(output_schema, structured):
            changed["structuredContent"] = result["structuredContent"]
        return changed

    def _rewritten(self, result: JsonObject, replace: Replace) -> JsonObject:
        # What earlier turns named is not this tool's to give out, even if it repeats its prompt with the transcript.
        return rewritten_result(result, replace, prose=self._policy.rewrite_text, quoted_in=transcripts_in)

    def meta(self, stored: tuple[StoredFile, ...]) -> JsonObject:
        """`perdure/files`, if there is anything to say: what was kept, and what was left alone and why."""
        if not self._stored and not self._left:
            return {}
        said: JsonObject = {
            "stored": [
                {
                    "uri": file.uri,
                    "name": file.name,
                    **({"version": file.version} if file.version else {}),
                    "size": file.size,
                    "mediaType": file.media_type,
                }
                for file in stored
            ],
            "left": [
                {"path": _sendable(alone.path), "reason": alone.reason}
                | ({"setting": alone.setting} if alone.setting else {})
                for alone in self._left[:_MOST_NAMED]
            ],
        }
        if len(self._left) > _MOST_NAMED:
            said["leftInAll"] = len(self._left)
        return {META_FILES: said}

    def left_for_their_place(self) -> list[str]:
        """The paths that a setting would admit."""
        return [_sendable(alone.path) for alone in self._left if alone.setting == "file_roots"]

    def _progress(self, doing: str, what: str, done: int, size: int) -> None:
        now = time.monotonic()
        if self._report is None or size < _WORTH_REPORTING or now - self._reported_at < _REPORT_EVERY:
            return
        self._reported_at = now
        self._report(done / size, f"{doing} {what}: {done / 1e6:.0f} of {size / 1e6:.0f} MB")


def _strings(value: Json) -> list[str]:
    """All texts within `value`, but for the names of members."""
    found: list[str] = []
    values = [value]
    for item in values:  # which grows meanwhile
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, dict):
            values += item.values()
        elif isinstance(item, list):
            values += item
    return found


def _sendable(path: str) -> str:
    """A path whose bytes may be no UTF-8, as text that can be sent."""
    return path.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
