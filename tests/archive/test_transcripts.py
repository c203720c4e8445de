"""`perdure export --markdown`: what people read is all that was said, and nothing that was said can pass for more."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from perdure.errors import PerdureError
from perdure.middleware.persistence.archive.transcript import Written, write_transcripts
from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.turn import Answer, Outcome, StoredFile
from perdure.testing.turns import a_turn, answered, ended

NOW = datetime(2026, 1, 31, tzinfo=UTC)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def file_store(tmp_path: Path) -> LocalFileStore:
    return LocalFileStore(tmp_path / "kept", "mcp-files")


def test_a_conversation_is_a_file_that_reads_from_top_to_bottom(
    store: MemoryStore, file_store: LocalFileStore, tmp_path: Path
) -> None:
    arguments = {"prompt": "what?", "depth": 2}
    store.finish(answered(a_turn("what?", continuation_id="my-project", arguments=arguments), "so:\n\n# it is"))
    broken = Answer(error={"type": "ValueError", "message": "no <such> thing"})
    store.finish(ended(a_turn("and?", continuation_id="my-project"), Outcome.FAILED, broken))
    assert _write(tmp_path, store, file_store) == Written(conversations=1, turns=2)
    assert (tmp_path / "out" / "alice" / "my-project.md").read_text().splitlines()[4:] == [
        "## 1. chat, 2026-01-01 12:30:15 UTC, answered",
        "",
        "**Prompt**",
        "",
        "> what?",
        "",
        "Arguments:",
        "",
        "```json",
        "{",
        '  "depth": 2',
        "}",
        "```",
        "",
        "**Answer**",
        "",
        "> so:",
        ">",
        "> # it is",
        "",
        "## 2. chat, 2026-01-01 12:30:15 UTC, failed",
        "",
        "**Prompt**",
        "",
        "> and?",
        "",
        "**Answer**",
        "",
        ">",
        "",
        "Error: ValueError: no \\<such\\> thing",
    ]
    assert "[my-project](<alice/my-project.md>), alice: 2 turns" in (tmp_path / "out" / "index.md").read_text()


def test_files_lie_beside_it_and_one_that_is_gone_is_said_to_be(
    store: MemoryStore, file_store: LocalFileStore, tmp_path: Path
) -> None:
    there = _file("2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881", "report.txt")
    gone = _file("0" * 64, "gone.txt")
    (tmp_path / "snapshot").write_text("x")
    file_store.put(there.key, tmp_path / "snapshot", media_type="text/plain")
    store.finish(answered(a_turn(continuation_id="c", files=(there, gone)), ""))
    written = _write(tmp_path, store, file_store)
    assert (written.files, written.missing) == (1, [gone.uri])
    text = (tmp_path / "out" / "alice" / "c.md").read_text()
    assert f"File: [report.txt](<../files/{there.sha256}/report.txt>), version 1, 1 bytes" in text
    assert "File: gone.txt (its content is gone), version 1" in text
    assert (tmp_path / "out" / "files" / there.sha256 / "report.txt").read_text() == "x"


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", ".hidden", "\x1b[2J", "A" * 200, "ü", "C", "c"])
def test_no_name_leads_out_of_the_folder_or_hides_another(
    store: MemoryStore, file_store: LocalFileStore, tmp_path: Path, name: str
) -> None:
    store.finish(answered(a_turn("theirs", continuation_id=name, principal=name), name))
    store.finish(answered(a_turn("another", continuation_id="c", principal="c"), "x"))
    store.finish(answered(a_turn("another", continuation_id="_", principal="_"), "x"))
    written = _write(tmp_path, store, file_store)
    pages = [path for path in (tmp_path / "out").rglob("*.md") if path.name != "index.md"]
    assert len(pages) == written.conversations
    assert not any(path.name.startswith(".") for path in pages)
    assert {path.name for path in tmp_path.iterdir()} <= {"out", "kept", "perdure-home"}
    assert "\x1b" not in (tmp_path / "out" / "index.md").read_text()


def test_nothing_is_written_into_a_folder_that_is_not_empty(
    store: MemoryStore, file_store: LocalFileStore, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(PerdureError, match="is not empty"):
        _write(tmp_path, store, file_store)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def _write(tmp_path: Path, store: MemoryStore, file_store: LocalFileStore) -> Written:
    return write_transcripts(
        tmp_path / "out", store, file_store, principal=None, at=NOW, progress=lambda done, known: None
    )


def _file(sha256: str, name: str) -> StoredFile:
    key = f"alice/{sha256}/{name}"
    return StoredFile(key=key, bucket="mcp-files", name=name, sha256=sha256, size=1, media_type="text/plain")
