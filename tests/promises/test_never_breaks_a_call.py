"""Promise 2, Never breaks a call: whatever the store does, the tool's own answer reaches the client as it was."""

import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import Activate
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent
from mcp_wire import called, kept, text_of, wire, without_announcement

from perdure import Outcome, install, persisted, settings_watch
from perdure.errors import StoreTimeout, StoreUnavailable, TurnConflict
from perdure.middleware.persistence import wiring
from perdure.middleware.persistence.spool import Spool
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.turn import BegunTurn, FinishedTurn, Turn, Window

Fault = Callable[[], Any]
"""Raises, or gives the answer of a store that has gone mad."""


class FaultyStore(MemoryStore):
    """A store in memory that does what it is told instead of what it should."""

    def __init__(self, *, begin: Fault | None = None, finish: Fault | None = None, blocking: bool = True) -> None:
        super().__init__()
        self.blocking = blocking
        self._on_begin = begin
        self._on_finish = finish

    def begin(self, turn: Turn, window: Window) -> BegunTurn:
        answer: BegunTurn = self._on_begin() if self._on_begin else super().begin(turn, window)
        return answer

    def finish(self, turn: Turn) -> FinishedTurn:
        answer: FinishedTurn = self._on_finish() if self._on_finish else super().finish(turn)
        return answer


def raising(error: Exception) -> Fault:
    def fault() -> Any:
        raise error

    return fault


def answering(garbage: Any) -> Fault:
    return lambda: garbage


FAULTS = {
    "unavailable": (raising(StoreUnavailable("gone", remedy="look")), "store_unavailable"),
    "conflict": (raising(TurnConflict("used before")), "turn_conflict"),
    "operating system": (raising(OSError(28, "No space left on device", "/var/secret/path")), "internal_error"),
    "programming error": (raising(AttributeError("x")), "internal_error"),
    "a time-out of its own": (raising(StoreTimeout("slow")), "store_timeout"),
    "nothing": (answering(None), "internal_error"),
    "text": (answering("<html>Bad gateway</html>"), "internal_error"),
    "a list": (answering([]), "internal_error"),
    "an object": (answering(object()), "internal_error"),
}

every_fault = pytest.mark.parametrize(("fault", "code"), FAULTS.values(), ids=FAULTS.keys())


def _decorated(is_async: bool) -> MCPServer:
    mcp = MCPServer("faults")
    if is_async:

        @mcp.tool()
        @persisted
        async def chat(prompt: str) -> dict[str, int]:
            return {"length": len(prompt)}
    else:

        @mcp.tool(name="chat")
        @persisted
        def chat_plainly(prompt: str) -> dict[str, int]:
            return {"length": len(prompt)}

    return mcp


def _hooked() -> MCPServer:
    mcp = _bare()
    install(mcp, tools=["chat"])
    return mcp


def _bare() -> MCPServer:
    mcp = MCPServer("faults")

    @mcp.tool()
    async def chat(prompt: str) -> dict[str, int]:
        return {"length": len(prompt)}

    return mcp


SEAMS = {"async": lambda: _decorated(True), "sync": lambda: _decorated(False), "hook": _hooked}

every_seam = pytest.mark.parametrize("server", SEAMS.values(), ids=SEAMS.keys())
blocking_or_not = pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "inline"])


@pytest.fixture
def until_released() -> Iterator[Fault]:
    """A fault that hangs until the test is over."""
    over = threading.Event()

    def hang() -> Any:
        over.wait(30)
        raise StoreUnavailable("hung")

    yield hang
    over.set()


async def _answer(server: MCPServer, **arguments: Any) -> dict[str, Any]:
    """The result of one call, found to be the bare tool's own."""
    result = await called(server, "chat", {"prompt": "hello", **arguments})
    assert without_announcement(result) == await called(_bare(), "chat", {"prompt": "hello"})
    return result


# ── faults of the store ──────────────────────────────────────────────────────────────────────────────────────────


@blocking_or_not
@every_seam
@every_fault
async def test_a_store_that_fails_at_both_ends_costs_only_the_memory_and_the_result_says_so(
    fault: Fault, code: str, server: Callable[[], MCPServer], blocking: bool, activate: Activate
) -> None:
    activate(FaultyStore(begin=fault, finish=fault, blocking=blocking))
    meta = (await _answer(server()))["_meta"]
    assert meta["perdure/persisted"] is False
    assert meta["perdure/fault"] == code
    assert meta["perdure/history"]["state"] == "new"  # The client named no conversation: nothing came before.


@every_seam
@every_fault
async def test_history_that_could_not_be_read_is_unavailable_to_a_client_that_named_a_conversation(
    fault: Fault, code: str, server: Callable[[], MCPServer], activate: Activate
) -> None:
    activate(FaultyStore(begin=fault))
    result = await _answer(server(), continuation_id="mine")
    meta = result["_meta"]
    assert meta["perdure/history"] == {"state": "unavailable", "turns": 0, "omitted": 0}
    assert meta["perdure/continuation-id"] == "mine"
    assert meta["perdure/fault"] == code


@every_seam
@every_fault
async def test_a_turn_whose_begin_failed_is_kept_whole_when_it_ends(
    fault: Fault, code: str, server: Callable[[], MCPServer], activate: Activate
) -> None:
    runtime = activate(FaultyStore(begin=fault))
    meta = (await _answer(server(), continuation_id="mine"))["_meta"]
    assert meta["perdure/persisted"] is True
    [turn] = kept(runtime)
    assert (turn.id, turn.prompt, turn.outcome) == (meta["perdure/turn-id"], "hello", Outcome.ANSWERED)
    assert turn.deferred is True


@every_seam
@every_fault
async def test_a_turn_whose_end_could_not_be_kept_is_not_called_persisted(
    fault: Fault, code: str, server: Callable[[], MCPServer], activate: Activate
) -> None:
    runtime = activate(FaultyStore(finish=fault))
    meta = (await _answer(server(), continuation_id="mine"))["_meta"]
    assert (meta["perdure/persisted"], meta["perdure/fault"]) == (False, code)
    assert meta["perdure/history"]["state"] == "new"
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.RUNNING


@every_seam
@pytest.mark.parametrize("end", ["begin", "finish", "both"])
async def test_a_store_that_hangs_holds_a_call_up_for_its_budget_and_no_longer(
    end: str, server: Callable[[], MCPServer], until_released: Fault, activate: Activate
) -> None:
    faults = {name: until_released for name in ("begin", "finish") if end in (name, "both")}
    activate(FaultyStore(**faults), operation_timeout=0.3)
    started = time.monotonic()
    meta = (await _answer(server()))["_meta"]
    took = time.monotonic() - started
    assert meta["perdure/persisted"] is False
    assert meta["perdure/fault"] == "store_timeout"
    assert 0.3 <= took < 1.5


@every_seam
async def test_calls_beyond_the_threads_that_a_hung_store_holds_are_answered_too(
    server: Callable[[], MCPServer], until_released: Fault, activate: Activate
) -> None:
    activate(FaultyStore(begin=until_released, finish=until_released), operation_timeout=0.3)
    results: list[dict[str, Any]] = []
    async with Client(server()) as client:
        started = time.monotonic()
        async with anyio.create_task_group() as calls:

            async def call() -> None:
                results.append(wire(await client.call_tool("chat", {"prompt": "hello"})))

            for _ in range(30):
                calls.start_soon(call)
        assert time.monotonic() - started < 3
    assert [result["structuredContent"]["length"] for result in results] == [5] * 30
    assert {result["_meta"]["perdure/persisted"] for result in results} == {False}
    assert {result["_meta"]["perdure/fault"] for result in results} <= {"store_timeout", "store_unavailable"}


@every_seam
async def test_after_an_outage_calls_are_kept_again(server: Callable[[], MCPServer], activate: Activate) -> None:
    broken = [True]

    def sometimes() -> Any:
        if broken[0]:
            raise StoreUnavailable("gone")
        return None

    class Recovering(MemoryStore):
        blocking = True

        def begin(self, turn: Turn, window: Window) -> BegunTurn:
            sometimes()
            return super().begin(turn, window)

        def finish(self, turn: Turn) -> FinishedTurn:
            sometimes()
            return super().finish(turn)

    activate(Recovering())
    mcp = server()
    lost = (await _answer(mcp, continuation_id="mine"))["_meta"]
    broken[0] = False
    meta = (await _answer(mcp, continuation_id="mine"))["_meta"]
    assert (lost["perdure/persisted"], meta["perdure/persisted"]) == (False, True)
    assert "perdure/fault" not in meta


@every_seam
async def test_a_store_that_answers_with_a_history_of_nonsense_costs_only_the_memory(
    server: Callable[[], MCPServer], activate: Activate
) -> None:
    nonsense = BegunTurn(continuation_id="mine", place=3, history=(object(), None))  # type: ignore[arg-type]
    activate(FaultyStore(begin=answering(nonsense)))
    await _answer(server(), continuation_id="mine")


@every_seam
async def test_a_fault_says_nothing_of_paths_and_addresses_to_the_client(
    server: Callable[[], MCPServer], activate: Activate, caplog: pytest.LogCaptureFixture
) -> None:
    fault, _ = FAULTS["operating system"]
    activate(FaultyStore(begin=fault, finish=fault))
    assert "/var/secret/path" not in json.dumps(await _answer(server()))
    assert "/var/secret/path" in caplog.text  # It is the operator who needs it.


async def test_the_same_fault_is_logged_once_and_not_for_every_call(
    activate: Activate, caplog: pytest.LogCaptureFixture
) -> None:
    fault, _ = FAULTS["unavailable"]
    activate(FaultyStore(begin=fault, finish=fault))
    mcp = _decorated(True)
    for _ in range(5):
        await _answer(mcp)
    assert len([record for record in caplog.records if record.name == "perdure"]) == 1


@every_fault
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_an_error_of_the_tool_stays_the_error_that_the_client_sees(
    fault: Fault, code: str, is_async: bool, activate: Activate
) -> None:
    activate(FaultyStore(begin=fault, finish=fault))
    mcp = MCPServer("raising")
    if is_async:

        @mcp.tool()
        @persisted
        async def fail() -> str:
            raise RuntimeError("the tool's own")
    else:

        @mcp.tool(name="fail")
        @persisted
        def fail_plainly() -> str:
            raise RuntimeError("the tool's own")

    result = await called(mcp, "fail")
    assert (text_of(result), result["isError"]) == ("Error executing tool fail", True)


# ── faults beside the store ──────────────────────────────────────────────────────────────────────────────────────


def _count_badly(text: str) -> int:
    raise RuntimeError("cannot count")


@every_seam
async def test_a_token_counter_that_fails_costs_only_the_memory(
    server: Callable[[], MCPServer], activate: Activate
) -> None:
    activate(count_tokens=_count_badly)
    meta = (await _answer(server()))["_meta"]
    assert (meta["perdure/persisted"], meta["perdure/fault"]) == (False, "internal_error")


@every_seam
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PERDURE_DATA_DIR", "~nobody-of-that-name/data"),
        ("PERDURE_CONFIG", "~nobody-of-that-name/perdure.toml"),
        ("PERDURE_CONFIG", "/nowhere/perdure.toml"),
        ("PERDURE_BACKEND", "stone tablets"),
        ("PERDURE_OPERATION_TIMEOUT", "soon"),
        ("PERDURE_DEFAULTS", "{not json"),
        ("PERDURE_TOLLS", "x"),
        ("PERDURE_COUNT_TOKENS", "no.such.module"),
    ],
    ids=lambda value: value,
)
async def test_settings_that_cannot_be_used_cost_only_the_memory(
    variable: str,
    value: str,
    server: Callable[[], MCPServer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(variable, value)
    meta = (await _answer(server()))["_meta"]
    assert (meta["perdure/persisted"], meta["perdure/fault"]) == (False, "settings_invalid")
    assert "Remedy" in caplog.text


@every_seam
@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), RuntimeError("nobody expects this")])
@pytest.mark.parametrize("step", ["load_settings", "build"])
async def test_a_file_system_that_fails_while_perdure_starts_costs_only_the_memory(
    step: str,
    error: Exception,
    server: Callable[[], MCPServer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(wiring, step, lambda *_: raising(error)())
    meta = (await _answer(server()))["_meta"]
    assert (meta["perdure/persisted"], meta["perdure/fault"]) == (False, "settings_invalid")
    assert str(error) in caplog.text
    assert "Remedy" in caplog.text


@every_seam
@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), RuntimeError("nobody expects this")])
@pytest.mark.parametrize("step", ["settings_file", "usual_settings_file"])
async def test_a_settings_file_that_cannot_be_watched_costs_nothing(
    step: str, error: Exception, server: Callable[[], MCPServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PERDURE_CONFIG")
    monkeypatch.setattr(settings_watch, step, raising(error))
    assert (await _answer(server()))["_meta"]["perdure/persisted"] is True


@every_seam
async def test_a_settings_file_whose_state_cannot_be_told_is_as_none(
    server: Callable[[], MCPServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Nowhere:
        def stat(self) -> None:
            raise RuntimeError("nobody expects this")

    monkeypatch.setattr(settings_watch, "settings_file", Nowhere)
    assert (await _answer(server()))["_meta"]["perdure/persisted"] is True


async def test_with_settings_that_cannot_be_used_a_file_that_a_tool_gives_out_is_neither_read_nor_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PERDURE_BACKEND", "stone tablets")
    given = tmp_path / "given.txt"
    given.write_text("content")
    mcp = MCPServer("files")

    @mcp.tool()
    @persisted
    async def write() -> str:
        return str(given)

    result = await called(mcp, "write")
    assert text_of(result) == str(given)
    assert result["_meta"]["perdure/fault"] == "settings_invalid"
    assert "perdure/files" not in result["_meta"]
    assert not (tmp_path / "perdure-home" / "data").exists()
    said = [record.getMessage() for record in caplog.records if record.name == "perdure"]
    assert ["settings.invalid" in line for line in said] == [True]  # and nothing that leads away from it


@every_seam
async def test_a_spool_that_cannot_be_looked_at_when_perdure_starts_costs_nothing(
    server: Callable[[], MCPServer], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Spool, "wake", lambda _: raising(PermissionError(13, "Permission denied"))())
    meta = (await _answer(server()))["_meta"]
    assert meta["perdure/persisted"] is True
    assert "Permission denied" in caplog.text


class _Failing(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError(28, "No space left on device")


@every_seam
async def test_a_log_that_fails_costs_nothing_and_what_it_could_not_take_goes_to_stderr(
    server: Callable[[], MCPServer], activate: Activate, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = _Failing()
    logging.getLogger("perdure").addHandler(handler)
    try:
        activate(FaultyStore(begin=raising(StoreUnavailable("gone", remedy="look"))))
        meta = (await _answer(server()))["_meta"]
    finally:
        logging.getLogger("perdure").removeHandler(handler)
    assert (meta["perdure/persisted"], meta["perdure/fault"]) == (True, "store_unavailable")
    said = capsys.readouterr()
    assert "gone Remedy: look" in said.err
    assert "No space left on device" in said.err
    assert said.out == ""


class _Odd:
    async def execute(self, arguments: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        answer["self"] = answer
        return answer

    async def execute_bytes(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"blob": b"\xff\xfe"}

    async def execute_pair(self, arguments: dict[str, Any]) -> tuple[list[TextContent], dict[str, Any]]:
        return [TextContent(type="text", text="a")], {"when": object()}

    async def execute_odd_blocks(self, arguments: dict[str, Any]) -> list[Any]:
        return [object(), {"type": "text", "text": b"\xff"}]


@pytest.mark.parametrize("method", ["execute", "execute_bytes", "execute_pair", "execute_odd_blocks"])
async def test_a_lowlevel_answer_that_is_no_json_reaches_its_caller_untouched(method: str, activate: Activate) -> None:
    activate()
    tool = _Odd()
    handler = persisted(getattr(tool, method))
    expected = await getattr(tool, method)({})
    answer = await handler({"prompt": "a"})
    assert type(answer) is type(expected)


@pytest.mark.parametrize("sent", [None, [("prompt", "a")], "text"], ids=repr)
async def test_lowlevel_arguments_of_another_type_reach_the_method_as_they_are(sent: Any, activate: Activate) -> None:
    activate()

    class Tool:
        @persisted
        async def execute(self, arguments: dict[str, Any]) -> Any:
            return arguments

    assert await Tool().execute(sent) == sent


async def test_a_request_whose_arguments_are_no_object_is_refused_as_before(activate: Activate) -> None:
    activate()

    async def outcome(server: MCPServer) -> str:
        async with Client(server, mode="legacy") as client:
            try:
                sent = {"name": "chat", "arguments": ["hello"]}
                return str(await client.session._dispatcher.send_raw_request("tools/call", sent))
            except MCPError as error:
                return str(error)

    def make() -> MCPServer:
        mcp = MCPServer("faults")

        @mcp.tool()
        async def chat(prompt: str = "hello") -> dict[str, int]:
            return {"length": len(prompt)}

        return mcp

    hooked = make()
    install(hooked, tools=["chat"])
    assert await outcome(make()) == "Invalid request parameters"
    assert await outcome(hooked) == "Invalid request parameters"


# ── a real server process ────────────────────────────────────────────────────────────────────────────────────────

_SERVER = """
    from mcp.server.mcpserver import MCPServer
    from perdure import install, persisted

    mcp = MCPServer("real")

    @mcp.tool()
    @persisted
    async def chat(prompt: str) -> str:
        return prompt.upper()

    @mcp.tool()
    @persisted
    def fail(prompt: str) -> str:
        raise RuntimeError("the tool's own")

    @mcp.tool()
    def plain(prompt: str) -> str:
        return prompt

    install(mcp, tools=["plain"])
    mcp.run()
"""


def _a_file(home: Path, content: bytes) -> Path:
    path = home / "in-the-way"
    path.write_bytes(content)
    return path


def _typo_in_the_file(home: Path) -> dict[str, str]:
    (home / "perdure.toml").write_text("[tools.chat]\nmax_turn = 3\n")
    return {}


def _no_toml(home: Path) -> dict[str, str]:
    (home / "perdure.toml").write_text("[tools.chat\n")
    return {}


def _data_directory_is_a_file(home: Path) -> dict[str, str]:
    return {"PERDURE_DATA_DIR": str(_a_file(home, b"x") / "data")}


def _corrupt_database(home: Path) -> dict[str, str]:
    (home / "data").mkdir()
    (home / "data" / "perdure.db").write_bytes(b"this is no database, and never was one" * 100)
    return {}


def _unknown_variable(home: Path) -> dict[str, str]:
    return {"PERDURE_MAX_TURNS": "3"}


def _no_fault(home: Path) -> dict[str, str]:
    return {}


REAL_FAULTS = [
    (_typo_in_the_file, ["perdure.toml", "tools.chat.max_turn", 'did you mean "max_turns"', "Remedy"]),
    (_no_toml, ["perdure.toml", "is not TOML", "line 1", "Remedy"]),
    (_data_directory_is_a_file, ["in-the-way", "Remedy"]),
    (_corrupt_database, ["perdure.db", "Remedy"]),
    (_unknown_variable, ["PERDURE_MAX_TURNS", "Remedy"]),
    (_no_fault, []),
]


@pytest.mark.parametrize(("prepare", "said"), REAL_FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_server_process_answers_says_what_is_wrong_on_stderr_and_nothing_of_ours_on_stdout(
    prepare: Callable[[Path], dict[str, str]], said: list[str], tmp_path: Path
) -> None:
    environment = prepare(tmp_path / "perdure-home")
    before = (tmp_path / "perdure-home" / "data" / "perdure.db").read_bytes() if prepare is _corrupt_database else None
    answers, stdout, stderr = _talk(tmp_path, environment)

    for line in stdout:
        message = json.loads(line)
        assert message["jsonrpc"] == "2.0"
    assert [answers[number]["content"][0]["text"] for number in (1, 2, 3)] == [
        "HELLO",
        "Error executing tool fail",
        "hello",
    ]
    assert [answers[number].get("isError", False) for number in (1, 2, 3)] == [False, True, False]
    for number in (1, 3):
        # Beside a damaged database there is room for the spool, until somebody has seen to it.
        assert answers[number]["_meta"]["perdure/persisted"] is (prepare in (_no_fault, _corrupt_database))
    for words in said:
        assert words in stderr.replace("\n", ""), stderr
    if prepare is _no_fault:
        assert "perdure:" not in stderr
    if before is not None:
        assert (tmp_path / "perdure-home" / "data" / "perdure.db").read_bytes() == before


def _talk(folder: Path, environment: dict[str, str]) -> tuple[dict[int, dict[str, Any]], list[str], str]:
    """Three calls of a server process over its pipes, read as text: results by id, lines on stdout, all of stderr."""
    script = folder / "server.py"
    script.write_text(textwrap.dedent(_SERVER))
    # Terminal width: else the SDK's log handler breaks lines in the middle of words.
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(folder / "stderr").open("w"),
        env={**os.environ, "COLUMNS": "10000", **environment},
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    watchdog = threading.Timer(20, process.kill)
    watchdog.start()
    answers: dict[int, dict[str, Any]] = {}
    lines: list[str] = []
    try:
        client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        for message in (
            {"id": 0, "method": "initialize", "params": client},
            {"method": "notifications/initialized"},
            *(
                {"id": number, "method": "tools/call", "params": {"name": name, "arguments": {"prompt": "hello"}}}
                for number, name in enumerate(("chat", "fail", "plain"), start=1)
            ),
        ):
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
            process.stdin.flush()
            while "id" in message and message["id"] not in answers:
                lines.append(process.stdout.readline())
                received = json.loads(lines[-1])
                if "id" in received:
                    answers[received["id"]] = received["result"]
        process.stdin.close()
        lines += process.stdout.read().splitlines()
        process.wait(10)
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
    return answers, lines, (folder / "stderr").read_text()


def test_a_result_is_what_the_sdk_makes_of_it() -> None:
    """Guards the comparison above: a bare result has no announcement that could be stripped."""
    result = wire(CallToolResult(content=[], _meta={"perdure/continuation-id": "x"}))
    assert without_announcement(result) == {"content": [], "isError": False, "resultType": "complete"}
