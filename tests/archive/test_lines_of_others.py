"""An archive that somebody has edited, checksum and all: refused before anything of it is imported."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from perdure.errors import PerdureError
from perdure.middleware.persistence.archive.exporting import export_to
from perdure.middleware.persistence.archive.importing import manifest_of
from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.testing.turns import a_file, a_turn, answered

Lines = list[Any]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    store = MemoryStore()
    store.finish(answered(a_turn("\ud800 and all", continuation_id="c", files=(a_file("alice", "x.pdf", "a"),))))
    store.finish(answered(a_turn("two", continuation_id="c")))
    folder = tmp_path / "archive"
    export_to(
        folder, store, LocalFileStore(tmp_path / "files", "b"), principal=None, at=datetime.now(UTC),
        progress=lambda done, known: None,
    )  # fmt: skip
    return folder


def edited(archive: Path, edit: Callable[[Lines], object]) -> Path:
    path = archive / "turns.jsonl"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    edit(lines)
    text = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    path.write_bytes(text)
    manifest = json.loads((archive / "manifest.json").read_text())
    manifest["sha256"] = hashlib.sha256(text).hexdigest()
    (archive / "manifest.json").write_text(json.dumps(manifest))
    return archive


def test_what_was_exported_is_taken(archive: Path) -> None:
    assert manifest_of(edited(archive, lambda lines: None))["turns"] == 2


@pytest.mark.parametrize(
    ("number", "changes"),
    [
        (0, {"user_id": ""}),
        (0, {"user_id": 5}),
        (0, {"continuation_id": "x" * 201}),
        (0, {"minted": 1}),
        (0, {"updated_at": "yesterday"}),
        (0, {"expires_at": "2026-01-01T00:00:00"}),
        (0, {"forked_from": "other"}),
        (0, {"forked_from": {"continuation_id": "other", "place": 0}}),
        (1, {"turn_id": 7}),
        (1, {"place": True}),
        (1, {"tool": None}),
        (1, {"prompt": ["x"]}),
        (1, {"arguments": []}),
        (1, {"started_at": "2026-01-01T00:00:00"}),
        (1, {"outcome": "interrupted"}),
        (1, {"answer": "said"}),
        (1, {"answer": {"text": 1}}),
        (1, {"tokens": 10**30}),
        (1, {"metadata": None}),
        (1, {"files": "x"}),
        (1, {"files": [{}]}),
    ],
    ids=str,
)
def test_a_field_that_cannot_be_is_named_with_its_line(archive: Path, number: int, changes: dict[str, Any]) -> None:
    (field,) = changes
    with pytest.raises(
        PerdureError, match=f"Line {number + 1} of .*turns.jsonl .*the field {field} is not what"
    ) as refused:
        manifest_of(edited(archive, lambda lines: lines[number].update(changes)))
    assert "Nothing was imported" in refused.value.remedy


@pytest.mark.parametrize("sha256", ["../../../etc/passwd", "/dev/zero", "A" * 64, "a" * 63])
def test_a_hash_that_is_none_leads_to_no_file(archive: Path, sha256: str) -> None:
    with pytest.raises(PerdureError, match="Line 2 .*the field files is not what"):
        manifest_of(edited(archive, lambda lines: lines[1]["files"][0].update(sha256=sha256)))


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (lambda lines: lines.pop(0), "Line 1 .*a turn stands before its conversation"),
        (lambda lines: lines[1].pop("kind"), "Line 2 .*neither a conversation nor a turn"),
        (lambda lines: lines[2].pop("digest"), "Line 3 .*the field digest is missing"),
        (lambda lines: lines.insert(1, [1]), "Line 2 .*no object"),
        (lambda lines: lines.append(None), "Line 4 .*no object"),
        (lambda lines: lines.append(b"{nope\n"), "Line 4 .*no JSON"),
        (lambda lines: lines.append(b"[" * 200_000), "Line 4 .*no JSON"),
        (lambda lines: lines.append(b"\xff\xfe\n"), "Line 4 .*no JSON"),
    ],
)
def test_a_line_that_is_none_is_named(archive: Path, edit: Callable[[Lines], object], fault: str) -> None:
    with pytest.raises(PerdureError, match=fault):
        manifest_of(edited(archive, edit))


@pytest.mark.parametrize("change", ['"version": 1e999', '"buckets": [1, null]', '"x": ' + "[" * 100_000])
def test_a_manifest_that_cannot_be_is_refused(archive: Path, change: str) -> None:
    path = archive / "manifest.json"
    path.write_text(path.read_text().rstrip().removesuffix("}") + f", {change}}}")
    with pytest.raises(PerdureError, match="is not the manifest of an archive"):
        manifest_of(archive)
