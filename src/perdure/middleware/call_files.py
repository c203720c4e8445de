"""The files of one call: those that its arguments name by storage URIs, and those that its result names by paths."""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from perdure.middleware.path_rewriting import local_path, rewritten_arguments, rewritten_result, storage_uri
from perdure.middleware.persistence.files.allowed_roots import AllowedRoots
from perdure.middleware.persistence.files.keeper import FileKeeper, FileLimits, Keeping
from perdure.middleware.persistence.turn import Json, JsonObject, StoredFile
from perdure.settings import FileReference, Policy

__all__ = ["CallFiles", "Report"]

Report = Callable[[float, str], None]
"""Told how far the work on a file is, from 0 to 1, and in words. May be called from any thread."""

_WORTH_REPORTING = 8_000_000
"""Bytes: less is done before anybody looks."""

_REPORT_EVERY = 0.25
"""Seconds."""

_MOST_NAMED = 20
"""Paths left alone that are named in `_meta`."""

_NAMES_A_URI = re.compile(r"(?:^|[_-])(?i:ur[il]s?)$|[a-z](?:Ur[il]|UR[IL])s?$")


class CallFiles:
    def __init__(
        self, keeper: FileKeeper, principal: str, policy: Policy, roots: AllowedRoots, *, max_total_bytes: int
    ) -> None:
        self.report: Report | None = None
        self._keeper = keeper
        self._principal = principal
        self._policy = policy
        self._roots = roots
        self._max_total_bytes = max_total_bytes
        self._keeping: Keeping | None = None
        self._reported_at = 0.0

    # ── in ───────────────────────────────────────────────────────────────────────────────────────────────────

    def are_named_in(self, arguments: JsonObject) -> bool:
        """Whether a whole value of `arguments` is a storage URI."""
        return self._policy.files and _any_string(arguments, lambda text: storage_uri(text) is not None)

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

        properties = (schema or {}).get("properties") or {}
        changed: JsonObject = {}
        for name, value in arguments.items():
            wants_uri = _wants_uri(name, properties.get(name))

            def replaced(text: str, wants_uri: bool = wants_uri) -> str | None:
                if (uri := storage_uri(text)) is None:
                    return None
                path = local(uri)
                return path.as_uri() if wants_uri else str(path)

            changed |= rewritten_arguments({name: value}, replaced)
        return changed

    # ── out ──────────────────────────────────────────────────────────────────────────────────────────────────

    def might_be_named_in(self, result: JsonObject) -> bool:
        """Whether anything in `result` could be a path: cheap, and never wrongly false."""
        return self._policy.files and _any_string(result, lambda text: "/" in text)

    def keep(self, result: JsonObject) -> tuple[StoredFile, ...]:
        """Keep the files that `result` names. Blocks.

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
            self._principal, self._roots, limits, lambda done, size: self._progress("keeping", "a file", done, size)
        )

        def kept(text: str) -> str | None:
            path = local_path(text)
            return keeping.uri_for(path) if path is not None else None

        rewritten_result(result, kept, prose=self._policy.rewrite_text)
        return keeping.files()

    def rewritten(self, result: JsonObject) -> JsonObject:
        """`result` with storage URIs in place of the paths whose files were kept."""
        keeping = self._keeping
        if keeping is None or not keeping.stored or self._policy.file_reference is FileReference.PATH:
            return result

        def uri(text: str) -> str | None:
            stored = keeping.stored.get(local_path(text) or "")
            return stored.uri if stored is not None else None

        return rewritten_result(result, uri, prose=self._policy.rewrite_text)

    def meta(self, stored: tuple[StoredFile, ...]) -> JsonObject:
        """`perdure/files`, if there is anything to say: what was kept, and what was left alone and why."""
        if self._keeping is None or not (self._keeping.stored or self._keeping.left):
            return {}
        left = list(self._keeping.left.values())
        said: JsonObject = {
            "stored": [
                {
                    "uri": file.uri,
                    "name": file.name,
                    "version": file.version,
                    "size": file.size,
                    "mediaType": file.media_type,
                }
                for file in stored
            ],
            "left": [
                {"path": alone.path, "reason": alone.reason} | ({"setting": alone.setting} if alone.setting else {})
                for alone in left[:_MOST_NAMED]
            ],
        }
        if len(left) > _MOST_NAMED:
            said["leftInAll"] = len(left)
        return {"perdure/files": said}

    def left_for_their_place(self) -> list[str]:
        """The paths that a setting would admit."""
        left = self._keeping.left.values() if self._keeping is not None else ()
        return [alone.path for alone in left if alone.setting == "file_roots"]

    def _progress(self, doing: str, what: str, done: int, size: int) -> None:
        now = time.monotonic()
        if self.report is None or size < _WORTH_REPORTING or now - self._reported_at < _REPORT_EVERY:
            return
        self._reported_at = now
        self.report(done / size, f"{doing} {what}: {done / 1e6:.0f} of {size / 1e6:.0f} MB")


def _any_string(value: Json, wanted: Callable[[str], bool]) -> bool:
    match value:
        case str():
            return wanted(value)
        case dict():
            return any(_any_string(item, wanted) for item in value.values())
        case list():
            return any(_any_string(item, wanted) for item in value)
        case _:
            return False


def _wants_uri(name: str, schema: object) -> bool:
    """Whether an argument is one that takes a URI: by its schema's format, else by its name."""
    match schema:
        case {"format": "uri" | "uri-reference" | "iri"} | {"items": {"format": "uri" | "uri-reference" | "iri"}}:
            return True
        case {"format": _}:
            return False
        case _:
            return _NAMES_A_URI.search(name) is not None
