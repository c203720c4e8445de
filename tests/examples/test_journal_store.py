"""examples/journal_store.py keeps the contract, is plugged in by a setting, and survives what it says it survives."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from journal_store import JournalStore, open_store
from mcp import Client, StdioServerParameters

from perdure.errors import SettingsError
from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.wiring import build
from perdure.settings import Settings
from perdure.settings_loader import load_settings
from perdure.stores import Clock, FileStore, MemoryStore, Store, StoreUnavailable, SystemClock, Window
from perdure.testing import StoreContract
from perdure.testing.turns import a_turn, answered

EXAMPLES = Path(__file__).parents[2] / "examples"

ALL = Window(1000, 1_000_000)


class TestJournalStore(StoreContract):
    def make_store(self, clock: Clock, folder: Path) -> Store:
        return JournalStore(folder / "journal.jsonl", clock)


def prompts(store: Store) -> list[str]:
    return [turn.prompt for turn in store.turns("alice", "c")]


def tell(store: Store, *said: str) -> None:
    for prompt in said:
        turn = a_turn(prompt, continuation_id="c")
        store.begin(turn, ALL)
        store.finish(answered(turn))


def test_a_line_that_a_crash_cut_short_is_taken_off_and_what_comes_next_is_kept(tmp_path: Path) -> None:
    store = open_store(SystemClock(), tmp_path)
    tell(store, "one", "two")
    store.close()
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])

    again = open_store(SystemClock(), tmp_path)
    assert [turn.outcome for turn in again.turns("alice", "c")] == ["answered", "running"]
    tell(again, "three")
    again.close()
    assert prompts(open_store(SystemClock(), tmp_path)) == ["one", "two", "three"]


def test_a_disk_that_takes_no_more_is_named_and_nothing_is_said_to_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(SystemClock(), tmp_path)
    tell(store, "one")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreUnavailable, match="No space left"):
            tell(store, "two")
    with pytest.raises(StoreUnavailable):
        tell(store, "three")
    assert prompts(store) == ["one", "two"]
    assert store.turns("alice", "c")[1].answer is None


def test_a_second_process_is_refused_in_words(tmp_path: Path) -> None:
    store = open_store(SystemClock(), tmp_path)
    with pytest.raises(StoreUnavailable, match=r"Another process has .*journal\.jsonl"):
        open_store(SystemClock(), tmp_path)
    store.close()
    open_store(SystemClock(), tmp_path).close()


# ── plugged in ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_server_that_is_told_to_use_it_remembers_after_sigkill(tmp_path: Path) -> None:
    settings = tmp_path / "perdure.toml"
    settings.write_text('backend = "journal_store:open_store"')
    server = StdioServerParameters(
        command="/bin/sh",
        args=["-c", f'echo $$ > "{tmp_path}/pid"; exec "{sys.executable}" "{EXAMPLES}/chat_server.py"'],
        env={**os.environ, "PERDURE_CONFIG": str(settings)},
    )
    async with Client(server) as client:
        told = await client.call_tool("chat", {"prompt": "I live in Lisbon.", "continuation_id": "c"})
        assert told.meta is not None
        assert told.meta["perdure/persisted"] is True
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    async with Client(server) as client:
        answer = await client.call_tool("chat", {"prompt": "What did I say?", "continuation_id": "c"})
        assert answer.content[0].text == "You said: I live in Lisbon."  # type: ignore[union-attr]


def test_the_command_line_reads_it_and_the_doctor_looks_at_it(tmp_path: Path) -> None:
    settings = tmp_path / "perdure.toml"
    settings.write_text('backend = "journal_store:open_store"')
    store = open_store(SystemClock(), Path(os.environ["PERDURE_DATA_DIR"]))
    turn = a_turn("I live in Lisbon.", continuation_id="my-project", principal="local")
    store.finish(answered(turn))
    store.close()

    def perdure(*arguments: str) -> str:
        environment = {**os.environ, "PERDURE_CONFIG": str(settings), "PYTHONPATH": str(EXAMPLES)}
        command = [str(Path(sys.executable).parent / "perdure"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout

    assert "my-project" in perdure("conversations", "list")
    assert "journal_store:open_store answers: 1 conversation." in perdure("doctor")


def both(clock: Clock, folder: Path) -> tuple[Store, FileStore]:
    return MemoryStore(clock), LocalFileStore(folder / "elsewhere", "of-its-own")


def test_a_factory_may_bring_a_file_store_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "somebody_elses", sys.modules[__name__])
    runtime = build(Settings(backend="somebody_elses:both", data_dir=tmp_path))
    assert runtime.keeper.file_store.bucket == "of-its-own"


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("no_such_package:store", r"no_such_package:store cannot be made \(ModuleNotFoundError.*as package\.module:"),
        ("journal_store:no_such_function", "AttributeError"),
        ("os.path:join", "TypeError"),
    ],
)
def test_a_backend_that_cannot_be_made_is_named_with_the_remedy(tmp_path: Path, backend: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        build(Settings(backend=backend, data_dir=tmp_path))


def test_what_is_no_backend_is_refused_with_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "perdure.toml").write_text('backend = "journal_store"')
    with pytest.raises(SettingsError, match="'sqlite', 'postgres', 'supabase' or 'memory', or a store of your own as"):
        load_settings(tmp_path / "perdure.toml")
