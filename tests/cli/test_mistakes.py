"""Whatever is written wrongly is answered with one clear line and a remedy, and changes nothing."""

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cli.conftest import Ran
from cli.kept_data import Data

SEARCH = ["conversations", "search"]

MISTAKES: list[tuple[list[str], str]] = [
    (["burn"], "burn"),
    (["--nope"], "--nope"),
    (["--config", "/nowhere/perdure.toml", "stats"], "/nowhere/perdure.toml"),
    (["conversations", "burn"], "burn"),
    (["conversations", "list", "--limit", "0"], "--limit"),
    (["conversations", "list", "--limit", "many"], "--limit"),
    (["conversations", "list", "--limit"], "--limit"),
    (["conversations", "list", "--before", "???"], "copy it from the page before"),
    (["conversations", "list", "--before", "é"], "copy it from the page before"),
    (["conversations", "list", "--before", "WyIyMDI2LTAxLTAxIiwgImEiLCAiYiJd"], "copy it from the page before"),
    (["conversations", "list", "extra"], "extra"),
    (["conversations", "show"], "ID"),
    (["conversations", "show", "nope"], "no conversation 'nope'"),
    (["conversations", "show", "c", "--user", "nobody"], "of the user 'nobody'"),
    (["conversations", "show", "c", "--after", "-1"], "--after"),
    (["conversations", "show", "c", "--limit", "0"], "--limit"),
    (["conversations", "show", "c", "--limit", "9" * 20], "--limit"),
    (["conversations", "list", "--limit", "9" * 20], "--limit"),
    (["conversations", "show", "c\udcff"], "is no text"),
    (["files", "versions", "\udcff.pdf"], "is no text"),
    ([*SEARCH, "\udcff"], "no letter"),
    ([*SEARCH, "x", "--user", "\udcff"], "is no text"),
    (["files", "get", "storage://mcp-files/x", "--output", "/nowhere/x"], "/nowhere/x"),
    (["export", "/proc/x"], "/proc/x"),
    (["import", "/etc/passwd"], "/etc/passwd"),
    (["spool", "flush", "--seconds", "nan"], "--seconds"),
    (["conversations", "fork", "c", "--at", "9" * 20], "no turn 9999"),
    (["--config", "/etc", "stats"], "/etc"),
    (["tools"], "command or by its address"),
    (["tools", "--", "/nonexistent"], "/nonexistent"),
    (["run"], "Missing argument"),
    (["run", "/nowhere/server.py"], "no file /nowhere/server.py"),
    (["run", ""], "no file ."),
    (["conversations", "show", "red\x1b[31m\nnext\x9b"], "'red\\x1b[31m\\nnext\\x9b'"),
    (["spool", "quarantine", "--discard", "\x1b]0;title\x07"], "\\x1b]0;title\\x07 is not in quarantine"),
    (["import", "x" * 100_000], "File name too long"),
    (SEARCH, "question is empty"),
    ([*SEARCH, "  "], "question is empty"),
    ([*SEARCH, '"open'], "is never closed"),
    ([*SEARCH, '"a phrase"*'], "end of a word"),
    ([*SEARCH, "or x"], "`or` stands without"),
    ([*SEARCH, "x or"], "`or` stands without"),
    ([*SEARCH, "x or or y"], "`or` stands without"),
    ([*SEARCH, "x or -y"], "cannot be combined"),
    ([*SEARCH, "--", "-x"], "shall not hold"),
    ([*SEARCH, "!!!"], "no letter"),
    ([*SEARCH, "*"], "without a word"),
    ([*SEARCH, "a*b"], "end of a word"),
    ([*SEARCH, '""'], "without a word"),
    ([*SEARCH, "x" * 3000], "3,000 characters"),
    ([*SEARCH, "toll:chat"], "no filter toll:"),
    ([*SEARCH, "tool:"], "names nothing"),
    ([*SEARCH, "x -tool:chat"], "behind a minus"),
    ([*SEARCH, "x or tool:chat"], "behind `or`"),
    ([*SEARCH, "tool:a tool:b"], "there twice"),
    ([*SEARCH, "user:a", "--user", "b"], "there twice"),
    ([*SEARCH, "outcome:fine"], "no outcome 'fine'"),
    ([*SEARCH, "x", "--outcome", "fine"], "no outcome 'fine'"),
    ([*SEARCH, "since:yesterday"], "is no time"),
    ([*SEARCH, "x", "--since", "2026-13-45"], "is no time"),
    ([*SEARCH, "since:99999999999d"], "is no time"),
    ([*SEARCH, "since:2026-01-03 until:2026-01-02"], "Nothing lies between"),
    (
        [*SEARCH, "x", "--before", "WyIyMDI2LTAxLTAxVDAwOjAwOjAwKzAwOjAwIiwgImEiLCAiYiJd"],
        "copy it from the page before",
    ),
    ([*SEARCH, "x", "--limit", "1001"], "--limit"),
    (["conversations", "fork"], "ID"),
    (["conversations", "fork", "nope"], "no conversation 'nope'"),
    (["conversations", "fork", "c", "--at", "0"], "--at"),
    (["conversations", "fork", "c", "--at", "9"], "no turn 9"),
    (["conversations", "fork", "c", "--as", "c"], "already"),
    (["conversations", "fork", "c", "--as", "x" * 201], "cannot be a conversation's id"),
    (["conversations", "fork", "c", "--as", ""], "cannot be a conversation's id"),
    (["conversations", "show", "c", "--markdown", "--json"], "exclude"),
    (["conversations", "delete"], "by its ID"),
    (["conversations", "delete", "--all"], "--all --user"),
    (["conversations", "delete", "c", "--all", "--user", "local"], "by its ID"),
    (["conversations", "delete", "--user", "local"], "by its ID"),
    (["conversations", "delete", "nope", "--yes"], "no conversation 'nope'"),
    (["conversations", "delete", "c"], "--yes"),
    (["conversations", "delete", "--all", "--user", "nobody", "--yes"], "has nothing here"),
    (["purge", "--at-most", "0"], "--at-most"),
    (["purge", "--at-most", "9" * 30], "--at-most"),
    (["purge", "now"], "now"),
    (["stats", "--nope"], "--nope"),
    (["files", "get", "storage://mcp-files/x/y"], "--output"),
    (["files", "list", "--limit", "x"], "--limit"),
    (["spool", "flush", "--seconds", "0"], "--seconds"),
    (["spool", "quarantine", "--retry", "nope"], "nope"),
    (["spool", "quarantine", "--retry", "a", "--discard", "b"], "exclude"),
    (["export"], "folder"),
    (["import", "/nowhere"], "/nowhere"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """One for all: a mistake changes nothing."""
    data = Data(tmp_path_factory.mktemp("mistakes") / "data")
    data.turn("x")
    data.turn("y", conversation="long")
    data.turn("old", conversation="old", expire_after=timedelta(microseconds=1))
    data.store.close()
    return data


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[" ".join(arguments)[:60] for arguments, _ in MISTAKES])
def test_a_mistake_is_one_line_and_its_remedy_and_changes_nothing(
    data: Data, perdure: Callable[..., Ran], arguments: list[str], words: str
) -> None:
    before = _content(data.folder)
    ran = perdure(*arguments)
    assert ran.code in (1, 2)
    assert ran.out == ""
    what, *remedy = ran.err.splitlines()
    assert what.startswith("perdure: ")
    assert [line[:8] for line in remedy] == ["Remedy: "]
    assert words in ran.err
    assert len(ran.err) < 2_000
    assert _content(data.folder) == before


def test_an_interrupt_is_one_line_too(perdure: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("perdure.cli.app.show_statistics", interrupted)
    ran = perdure("stats")
    assert (ran.code, ran.out) == (130, "")
    assert ran.err == "perdure: Stopped before its end. What was done until then stays.\n"


@pytest.mark.parametrize(
    "arguments",
    [["list", "--limit", "1000"], ["show", "long"], ["list", "--json"], ["show", "long", "--markdown"]],
    ids=" ".join,
)
def test_a_reader_that_has_seen_enough_is_no_failure(data: Data, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        ran = _run(data, ["conversations", *arguments], stdout=pipe)
    assert (ran.returncode, ran.stderr) == (0, b"")


EVERY_WAY_TO_SHOW = [["conversations", "list"], ["stats", "--json"], ["conversations", "show", "c", "--markdown"]]
"""By rich, by `write_json`, and as bytes."""


@pytest.mark.parametrize("arguments", EVERY_WAY_TO_SHOW, ids=" ".join)
def test_what_cannot_be_shown_is_said_in_one_line(data: Data, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        ran = _run(data, arguments, stdout=full)
    said = "What was to be shown cannot be written: No space left on device.\nRemedy: free some space.\n"
    assert (ran.returncode, ran.stderr.decode()) == (1, f"perdure: {said}")


@pytest.mark.parametrize("arguments", EVERY_WAY_TO_SHOW, ids=" ".join)
def test_who_closed_stdout_wants_to_see_nothing(data: Data, arguments: list[str]) -> None:
    ran = _run(data, arguments, stdout=None, preexec_fn=lambda: os.close(1))
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_a_mistake_is_an_exit_code_where_nothing_can_be_said(data: Data) -> None:
    with open("/dev/full", "wb") as full:
        assert _run(data, ["burn"], stderr=full).returncode == 2
    assert _run(data, ["burn"], stderr=None, preexec_fn=lambda: os.close(2)).returncode == 2


def test_a_disk_that_is_full_ends_an_export_in_one_line(
    perdure: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("perdure.cli.moving.export_to", full)
    ran = perdure("export", str(tmp_path / "out"))
    assert (ran.code, ran.out) == (1, "")
    assert f"{tmp_path / 'out'} cannot be written: No space left on device. The export is not whole." in ran.err


@pytest.mark.parametrize("group", [[], ["conversations"], ["files"], ["spool"]])
def test_a_group_without_a_command_says_which_there_are(perdure: Callable[..., Ran], group: list[str]) -> None:
    ran = perdure(*group)
    assert (ran.code, ran.out) == (2, "")
    assert "Commands:" in ran.err


def _run(data: Data, arguments: list[str], **given: Any) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-c", "from perdure.cli import main; main()", *arguments],
        env={**os.environ, "PERDURE_DATA_DIR": str(data.folder)}, check=False, **{"stderr": subprocess.PIPE, **given},
    )  # fmt: skip


def _content(folder: Path) -> dict[str, str]:
    """By name: of the database alone what is kept, since whoever reads it makes files beside it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(("-shm", "-wal", "-writer", "-search.db", ".lock"))
    }
