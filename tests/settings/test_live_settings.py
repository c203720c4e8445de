"""A changed settings file holds from the next call on; one that cannot be used changes nothing, and says so once."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import platformdirs
import pytest

from perdure import settings_watch
from perdure.middleware.persistence.wiring import runtime
from perdure.settings import NEEDS_RESTART, Settings, ToolSettings

IN_CODE = ToolSettings()


@pytest.fixture(autouse=True)
def _in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_BACKEND", "memory")


at_once = pytest.mark.usefixtures("live_settings")


@pytest.fixture
def file() -> Path:
    return Path(os.environ["PERDURE_CONFIG"])


def max_turns() -> int:
    return runtime().policy("chat", IN_CODE).max_turns


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "perdure" and record.levelno >= 30]


# ── what takes effect ────────────────────────────────────────────────────────────────────────────────────────────


def in_place(file: Path, text: str) -> None:
    file.write_text(text)


def replaced(file: Path, text: str) -> None:
    other = file.with_name("other")
    other.write_text(text)
    other.replace(file)


def replaced_by_one_of_the_same_size_and_time(file: Path, text: str) -> None:
    before = file.stat()
    other = file.with_name("other")
    other.write_text(text.ljust(before.st_size))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)


def removed_and_made_again(file: Path, text: str) -> None:
    file.unlink()
    assert max_turns() == 5  # nothing to read: what was read before holds
    file.write_text(text)


WAYS = [in_place, replaced, replaced_by_one_of_the_same_size_and_time, removed_and_made_again]


@at_once
@pytest.mark.parametrize("write", WAYS, ids=lambda way: way.__name__)
def test_a_changed_file_holds_from_the_next_call_on(file: Path, write: Callable[[Path, str], None]) -> None:
    file.write_text("[defaults]\nmax_turns = 5  # as before")
    assert max_turns() == 5
    write(file, "[defaults]\nmax_turns = 6")
    assert max_turns() == 6
    assert max_turns() == 6


@at_once
def test_a_file_that_is_made_later_is_read_and_removed_it_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERDURE_CONFIG")
    for variable in ("XDG_CONFIG_HOME", "HOME"):
        monkeypatch.setenv(variable, str(Path(os.environ["PERDURE_DATA_DIR"]).parent / "config"))
    file = platformdirs.user_config_path("perdure") / "perdure.toml"
    assert max_turns() == 20
    file.parent.mkdir(parents=True)
    file.write_text("[defaults]\nmax_turns = 6")
    assert max_turns() == 6
    shutil.rmtree(file.parent)
    assert max_turns() == 20


@at_once
@pytest.mark.parametrize(
    ("text", "look", "before", "after"),
    [
        ("enabled = false", lambda now: now.policy("chat", IN_CODE).enabled, True, False),
        ("[tools.other]\nenabled = true", lambda now: now.policy("other").enabled, False, True),
        ('user_id = "me"', lambda now: now.policy("chat").user_id, None, "me"),
        ("shared_user = true", lambda now: now.settings.shared_user, False, True),
        ("max_total_bytes = 1", lambda now: now.settings.max_total_bytes, 1_000_000_000, 1),
        ("conversation_resources = true", lambda now: now.settings.conversation_resources, False, True),
        ("max_resource_bytes = 1", lambda now: now.settings.max_resource_bytes, 10_000_000, 1),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_each_setting_that_needs_no_restart_is_live(
    file: Path, text: str, look: Callable[[object], object], before: object, after: object
) -> None:
    assert look(runtime()) == before
    file.write_text(text)
    assert look(runtime()) == after
    file.write_text("")
    assert look(runtime()) == before


def test_every_setting_is_either_live_or_needs_a_restart() -> None:
    live = {"enabled", "user_id", "shared_user", "max_total_bytes", "max_resource_bytes", "defaults", "tools"}
    live |= {"max_conversation_turns", "max_turns_per_minute", "conversation_resources"}
    assert live | NEEDS_RESTART == set(Settings.model_fields)
    assert not live & NEEDS_RESTART


@at_once
def test_the_environment_still_stands_above_a_changed_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_DEFAULTS__MAX_TURNS", "3")
    assert max_turns() == 3
    file.write_text("[defaults]\nmax_turns = 6\nmax_tokens = 7")
    assert (max_turns(), runtime().policy("chat").max_tokens) == (3, 7)


# ── what cannot be used ──────────────────────────────────────────────────────────────────────────────────────────


@at_once
@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("[tools.chat]\nmax_turns = -1", ["tools.chat.max_turns", "greater than or equal to 0", "-1"]),
        ("[tools.chat]\nhistroy = 'auto'", ["tools.chat.histroy", 'did you mean "history"']),
        ("[tools.chat\n", ["is not TOML", "line 1"]),
        ("a = " + "[" * 10_000, ["is not TOML"]),
    ],
    ids=["value", "key", "syntax", "too deep"],
)
def test_a_broken_file_keeps_the_last_good_policy_and_says_so_once(
    file: Path, broken: str, words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text("[defaults]\nmax_turns = 5")
    assert max_turns() == 5
    file.write_text(broken)
    assert [max_turns() for _ in range(5)] == [5] * 5
    (line,) = said(caplog)
    for word in [str(file), *words, "goes on with the settings that were read before"]:
        assert word in line
    file.write_text(broken + "# changed again, and still broken")
    assert [max_turns() for _ in range(5)] == [5] * 5
    assert len(said(caplog)) == 2
    file.write_text("[defaults]\nmax_turns = 6")
    assert max_turns() == 6
    assert len(said(caplog)) == 2


@at_once
def test_a_file_that_was_broken_from_the_start_is_used_once_it_is_mended(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text("backnd = 'memory'")
    broken = runtime().engine.store
    assert len(said(caplog)) == 1
    file.write_text("still = 'broken'")
    assert runtime().engine.store is broken
    file.write_text("[defaults]\nmax_turns = 6")
    assert max_turns() == 6
    assert runtime().engine.store is not broken
    assert runtime().engine.conversations() == []
    file.write_text("[defaults]\nmax_turns = 7")
    assert max_turns() == 7


@at_once
def test_what_needs_a_restart_is_named_once_and_the_rest_takes_effect(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = runtime().engine.store
    file.write_text('bucket = "other"\nmax_connections = 3\n[defaults]\nmax_turns = 6')
    assert [max_turns() for _ in range(3)] == [6] * 3
    assert (runtime().settings.bucket, runtime().engine.store) == ("mcp-files", store)
    (line,) = said(caplog)
    assert "bucket, max_connections" in line
    assert "restart the server" in line
    file.write_text('bucket = "other"\nmax_connections = 3\n[defaults]\nmax_turns = 7')
    assert max_turns() == 7
    assert len(said(caplog)) == 1
    file.write_text('bucket = "another"')
    assert max_turns() == 20
    assert len(said(caplog)) == 2
    file.write_text("")
    assert max_turns() == 20
    assert len(said(caplog)) == 2


@at_once
def test_a_secret_that_needs_a_restart_is_not_repeated(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    runtime()
    file.write_text('database_url = "postgresql://u:the-secret-itself@h/d"')
    runtime()
    (line,) = said(caplog)
    assert "database_url" in line
    assert "the-secret-itself" not in line


def test_a_file_that_is_being_written_is_left_alone_until_it_is_at_rest(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings_watch, "_EVERY", 0.0)
    monkeypatch.setattr(settings_watch, "_AT_REST", 30.0)
    file.write_text("[tools.chat]\nenabled = false")
    assert runtime().policy("chat", IN_CODE).enabled is False
    file.write_text("")  # as an editor does before it writes
    runtime().watch._due = 0.0
    assert runtime().policy("chat", IN_CODE).enabled is False
    os.utime(file, (0, 0))
    runtime().watch._due = 0.0
    assert runtime().policy("chat", IN_CODE).enabled is True


# ── what it costs ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_file_is_looked_at_once_a_second_however_many_calls_there_are(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)
    looks: list[float] = []
    state = settings_watch._state
    monkeypatch.setattr(settings_watch, "_state", lambda: (looks.append(clock.now), state())[1])
    monkeypatch.setattr(settings_watch, "time", SimpleNamespace(monotonic=lambda: clock.now, time=time.time))
    runtime()
    looks.clear()
    for _ in range(800):
        clock.now += 0.0125
        clock.now = round(clock.now, 4)
        runtime()
    assert looks == [float(second) for second in range(1, 11)]


@at_once
def test_many_threads_follow_one_change_and_none_ever_sees_another_policy(file: Path) -> None:
    file.write_text("[defaults]\nmax_turns = 5\nmax_tokens = 5")
    assert max_turns() == 5
    seen: set[tuple[int, int]] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            policy = runtime().policy("chat", IN_CODE)
            seen.add((policy.max_turns, policy.max_tokens))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for number in range(6, 16):
        replaced(file, f"[defaults]\nmax_turns = {number}\nmax_tokens = {number}")
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert {turns - tokens for turns, tokens in seen} == {0}
    assert max_turns() == 15


@at_once
def test_a_forked_child_follows_the_file_too_even_if_it_was_forked_while_a_change_was_read(file: Path) -> None:
    from perdure.middleware.persistence import wiring

    assert max_turns() == 20
    with wiring._making:
        child = os.fork()
        if child == 0:
            try:
                file.write_text("[defaults]\nmax_turns = 6")
                os._exit(0 if max_turns() == 6 else 1)
            finally:
                os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert max_turns() == 6
