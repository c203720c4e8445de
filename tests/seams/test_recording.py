"""What is kept of a call: all that was said, how it ended, and no secret; what the caller sees stays as it was."""

import asyncio
import json
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest
from conftest import Activate
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent
from mcp_wire import called, kept, text_of, without_announcement
from pydantic import BaseModel
from shapes import bare

from perdure import Outcome, Turn, install, persisted
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.turn import BegunTurn, Window
from perdure.middleware.persistence.wiring import Runtime
from perdure.settings import ToolSettings
from perdure.testing import FrozenClock

both_eras = pytest.mark.parametrize("mode", ["auto", "legacy"])


class Report(BaseModel):
    title: str
    pages: list[int]


def _reporting(persist: Callable[[Any], Any], *, hook: bool = False, is_async: bool = True) -> MCPServer:
    mcp = MCPServer("recording")
    if is_async:

        @mcp.tool()
        @persist
        async def report(prompt: str, pages: int = 1, extra: dict[str, Any] | None = None) -> Report:
            return Report(title=prompt.upper(), pages=list(range(pages)))
    else:

        @mcp.tool(name="report")
        @persist
        def report_plainly(prompt: str, pages: int = 1, extra: dict[str, Any] | None = None) -> Report:
            return Report(title=prompt.upper(), pages=list(range(pages)))

    if hook:
        install(mcp, tools=["report"])
    return mcp


SEAMS = {
    "async": lambda: _reporting(persisted),
    "sync": lambda: _reporting(persisted, is_async=False),
    "hook": lambda: _reporting(bare, hook=True),
    "both": lambda: _reporting(persisted, hook=True),
}
every_seam = pytest.mark.parametrize("make", SEAMS.values(), ids=SEAMS.keys())


# ── an answer ────────────────────────────────────────────────────────────────────────────────────────────────────


@every_seam
async def test_prompt_arguments_answer_tool_and_version_are_kept(
    make: Callable[[], MCPServer], runtime: Runtime
) -> None:
    arguments = {"prompt": "tea", "pages": 2, "extra": {"z": None, "a": [1.5, -0.0, 10**20, "é\u2028\0"]}}
    result = await called(make(), "report", {**arguments, "continuation_id": "mine"})
    [turn] = kept(runtime)
    assert (turn.prompt, turn.tool, turn.principal, turn.continuation_id) == ("tea", "report", "local", "mine")
    assert json.dumps(turn.arguments) == json.dumps(arguments)
    assert turn.outcome is Outcome.ANSWERED
    assert turn.answer is not None
    assert turn.answer.text == text_of(result)
    assert turn.answer.result["structuredContent"] == {"title": "TEA", "pages": [0, 1]}
    assert turn.answer.result["content"] == without_announcement(result)["content"]
    assert turn.answer.error is None
    assert turn.metadata["protocol_version"] == "2026-07-28"
    assert turn.id == result["_meta"]["perdure/turn-id"]


@every_seam
async def test_the_protocol_version_of_an_older_client_is_kept(make: Callable[[], MCPServer], runtime: Runtime) -> None:
    await called(make(), "report", {"prompt": "tea"}, mode="legacy")
    [turn] = kept(runtime)
    assert turn.metadata["protocol_version"] < "2026"


@every_seam
async def test_nothing_that_perdure_adds_to_a_result_is_kept_as_the_tools_answer(
    make: Callable[[], MCPServer], runtime: Runtime
) -> None:
    await called(make(), "report", {"prompt": "tea"})
    [turn] = kept(runtime)
    assert turn.answer is not None
    assert "continuation" not in json.dumps(turn.answer.result)
    assert "perdure" not in json.dumps(turn.answer.result)


async def test_the_time_that_the_body_took_is_kept(activate: Activate) -> None:
    clock = FrozenClock()
    runtime = activate(clock=clock)
    began = clock.now()
    mcp = MCPServer("timing")

    @mcp.tool()
    @persisted
    async def chat(prompt: str) -> str:
        clock.advance(3)
        return prompt

    await called(mcp, "chat", {"prompt": "a"})
    [turn] = kept(runtime)
    assert (turn.started_at, turn.ended_at) == (began, began + timedelta(seconds=3))


async def test_arguments_are_kept_as_they_were_sent_and_not_as_they_were_understood(runtime: Runtime) -> None:
    await called(_reporting(persisted), "report", {"prompt": "tea", "pages": "2", "unknown": True})
    [turn] = kept(runtime)
    assert turn.arguments == {"prompt": "tea", "pages": "2", "unknown": True}


@pytest.mark.parametrize(
    ("arguments", "prompt"),
    [
        ({"prompt": "p", "query": "q"}, "p"),
        ({"query": "q"}, "q"),
        ({"query": "q", "size": 3}, '{"query": "q", "size": 3}'),
        ({"size": 3}, '{"size": 3}'),
        ({}, ""),
    ],
    ids=str,
)
async def test_what_a_reader_sees_as_the_prompt(arguments: dict[str, Any], prompt: str, runtime: Runtime) -> None:
    mcp = MCPServer("prompts")

    @mcp.tool()
    @persisted
    async def search(prompt: str = "", query: str = "", size: int = 1) -> str:
        return "found"

    await called(mcp, "search", arguments)
    [turn] = kept(runtime)
    assert (turn.prompt, turn.arguments) == (prompt, arguments)


async def test_an_answer_of_many_blocks_reads_as_text_and_keeps_them_all(runtime: Runtime) -> None:
    mcp = MCPServer("blocks")

    @mcp.tool()
    @persisted
    async def show() -> CallToolResult:
        return CallToolResult(
            content=[
                TextContent(type="text", text="one"),
                TextContent(type="text", text="two", _meta={"k": 1}),
            ],
            _meta={"own": [None]},
        )

    expected = await called(mcp, "show")
    [turn] = kept(runtime)
    assert turn.answer is not None
    assert turn.answer.text == "one\n\ntwo"
    assert turn.answer.result["content"] == expected["content"][:2]
    assert turn.answer.result["_meta"] == {"own": [None]}


async def test_a_turn_is_there_while_its_body_runs(runtime: Runtime) -> None:
    mcp, seen = MCPServer("running"), list[Turn]()

    @mcp.tool()
    @persisted
    async def chat(prompt: str) -> str:
        seen.extend(kept(runtime))
        return prompt

    await called(mcp, "chat", {"prompt": "a"})
    assert [(turn.prompt, turn.outcome, turn.answer) for turn in seen] == [("a", Outcome.RUNNING, None)]


# ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────

ERRORS = [
    ToolError("the file is missing"),
    RuntimeError("database password wrong"),
    KeyError("x"),
    MCPError(code=-32000, message="pay first"),
    ExceptionGroup("several", [ValueError("a")]),
]


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_a_tool_that_raises_is_recorded_as_failed_with_what_it_raised(
    error: Exception, is_async: bool, runtime: Runtime
) -> None:
    mcp = MCPServer("raising")
    if is_async:

        @mcp.tool()
        @persisted
        async def fail(prompt: str) -> str:
            raise error
    else:

        @mcp.tool(name="fail")
        @persisted
        def fail_plainly(prompt: str) -> str:
            raise error

    async with Client(mcp) as client:
        try:
            await client.call_tool("fail", {"prompt": "a"})
        except MCPError:
            assert isinstance(error, MCPError)
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.FAILED
    assert turn.answer is not None
    assert turn.answer.error == {"type": type(error).__name__, "message": str(error)}
    assert turn.answer.result is None
    assert turn.ended_at is not None


async def test_a_result_that_is_an_error_is_recorded_as_failed_with_its_text(runtime: Runtime) -> None:
    mcp = MCPServer("errors")

    @mcp.tool()
    @persisted
    async def fail() -> CallToolResult:
        return CallToolResult(content=[TextContent(type="text", text="not today")], is_error=True)

    await called(mcp, "fail")
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.FAILED
    assert turn.answer is not None
    assert turn.answer.text == "not today"
    assert turn.answer.result["isError"] is True


async def test_the_hook_records_what_the_client_saw_of_a_failure(runtime: Runtime) -> None:
    mcp = MCPServer("raising")

    @mcp.tool()
    async def fail(prompt: str) -> str:
        raise RuntimeError("secret internals")

    expected = await called(mcp, "fail", {"prompt": "a"})
    install(mcp, tools=["fail"])
    result = await called(mcp, "fail", {"prompt": "a"})
    assert without_announcement(result) == expected
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.FAILED
    assert turn.answer is not None
    assert turn.answer.text == "Error executing tool fail"


# ── cancellation ─────────────────────────────────────────────────────────────────────────────────────────────────


class Cancelling:
    """A client that takes its call back once the tool has begun."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.given_up = threading.Event()

    async def call(self, mcp: MCPServer, mode: str) -> None:
        async with Client(mcp, mode=mode) as client, anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:

                async def give_up() -> None:
                    while not self.begun.is_set():  # the event is a thread's, so that sync tools can set it
                        await anyio.sleep(0.005)
                    scope.cancel()
                    if mode == "legacy":
                        # The notice overtakes nothing: once this is answered, the server has read it.
                        await client.list_tools()
                    self.given_up.set()

                group.start_soon(give_up)
                await client.call_tool("work", {"prompt": "a"})


@both_eras
async def test_a_cancelled_async_tool_is_recorded_as_cancelled(mode: str, runtime: Runtime) -> None:
    mcp, client, ended = MCPServer("cancelling"), Cancelling(), asyncio.Event()

    @mcp.tool()
    @persisted
    async def work(prompt: str) -> str:
        client.begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()
        return prompt

    await client.call(mcp, mode)
    await asyncio.wait_for(ended.wait(), 5)
    [turn] = kept(runtime)
    assert (turn.outcome, turn.prompt) == (Outcome.CANCELLED, "a")
    assert turn.ended_at is not None
    assert turn.answer is not None
    assert turn.answer.result is None


async def test_a_cancelled_tool_is_recorded_by_a_store_that_blocks(activate: Activate, tmp_path: Path) -> None:
    runtime = activate(SqliteStore(tmp_path / "cancelled.db"))
    mcp, client = MCPServer("cancelling"), Cancelling()

    @mcp.tool()
    @persisted
    async def work(prompt: str) -> str:
        client.begun.set()
        await anyio.sleep_forever()
        return prompt

    await client.call(mcp, "auto")
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.CANCELLED
    runtime.engine.store.close()


@both_eras
async def test_a_sync_tool_cancelled_midway_is_recorded_as_cancelled_with_what_it_still_answered(
    mode: str, runtime: Runtime
) -> None:
    mcp, client = MCPServer("cancelling"), Cancelling()

    @mcp.tool()
    @persisted
    def work(prompt: str) -> str:
        client.begun.set()
        assert client.given_up.wait(5)
        return "too late"

    await client.call(mcp, mode)
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.CANCELLED
    assert turn.answer is not None
    assert turn.answer.text == "too late"


@both_eras
async def test_a_sync_tool_that_asks_whether_it_is_cancelled_is_recorded_as_cancelled(
    mode: str, runtime: Runtime
) -> None:
    mcp, client, met = MCPServer("cancelling"), Cancelling(), list[str]()

    @mcp.tool()
    @persisted
    def work(prompt: str) -> str:
        client.begun.set()
        assert client.given_up.wait(5)
        try:
            anyio.from_thread.check_cancelled()
        except BaseException as error:
            met.append(type(error).__name__)
            raise
        return prompt

    await client.call(mcp, mode)
    assert met == ["CancelledError"]
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.CANCELLED


async def test_a_cancelled_call_of_the_hook_is_recorded_as_cancelled(runtime: Runtime) -> None:
    mcp, client = MCPServer("cancelling"), Cancelling()

    @mcp.tool()
    async def work(prompt: str) -> str:
        client.begun.set()
        await anyio.sleep_forever()
        return prompt

    install(mcp, tools=["work"])
    await client.call(mcp, "auto")
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.CANCELLED


@pytest.mark.parametrize("hook", [False, True], ids=["decorator", "hook"])
async def test_the_body_of_a_call_that_is_cancelled_while_it_is_begun_does_not_start(
    hook: bool, activate: Activate
) -> None:
    client, started = Cancelling(), list[str]()

    class Slow(MemoryStore):
        blocking = True

        def begin(self, turn: Turn, window: Window) -> BegunTurn:
            client.begun.set()
            assert client.given_up.wait(5)
            return super().begin(turn, window)

    runtime = activate(Slow())
    mcp = MCPServer("cancelling")

    async def work(prompt: str) -> str:
        started.append(prompt)
        return prompt

    mcp.add_tool(work if hook else persisted(work))
    if hook:
        install(mcp, tools=["work"])
    await client.call(mcp, "auto")
    assert started == []
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.CANCELLED


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────────────

KEY = "sk-ant-" + "api03-abcdefghijklmnopqrstuvwxyz0123"
TOKEN = "ghp_" + "0123456789abcdefghijABCDEFGHIJ0123456789"


def _careless(persist: Callable[[Any], Any], *, hook: bool = False) -> MCPServer:
    mcp = MCPServer("careless")

    @mcp.tool()
    @persist
    async def login(prompt: str, password: str = "", options: dict[str, Any] | None = None) -> dict[str, Any]:
        assert KEY in prompt or "fail" not in prompt
        if "fail" in prompt:
            raise ToolError(f"refused {KEY}")
        return {"echo": prompt, "token": TOKEN, "api_key": "plain-but-named", "nested": [{TOKEN: [KEY]}]}

    if hook:
        install(mcp, tools=["login"])
    return mcp


CARELESS = {"prompt": f"use {KEY} please", "password": "hunter2", "options": {"auth_token": "abc", "deep": [TOKEN]}}

careless = pytest.mark.parametrize(
    "make", [lambda: _careless(persisted), lambda: _careless(bare, hook=True)], ids=["decorator", "hook"]
)


@careless
async def test_the_caller_sees_what_the_tool_said_secrets_and_all(
    make: Callable[[], MCPServer], runtime: Runtime
) -> None:
    expected = await called(_careless(bare), "login", CARELESS)
    assert without_announcement(await called(make(), "login", CARELESS)) == expected
    assert KEY in json.dumps(expected)


@careless
async def test_no_secret_is_written_anywhere(make: Callable[[], MCPServer], activate: Activate, tmp_path: Path) -> None:
    runtime = activate(SqliteStore(tmp_path / "database" / "careless.db"))
    await called(make(), "login", CARELESS)
    await called(make(), "login", {"prompt": f"fail {KEY}"})
    # While it is open, the newest pages are in the write-ahead log; after that, in the database.
    written = _everything_in(tmp_path / "database")
    runtime.engine.store.close()
    written += _everything_in(tmp_path / "database")
    assert b"please" in written
    for secret in (KEY, TOKEN, "hunter2", "plain-but-named"):
        assert secret.encode() not in written


def _everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@careless
async def test_what_was_redacted_stays_visible_as_such(make: Callable[[], MCPServer], runtime: Runtime) -> None:
    await called(make(), "login", CARELESS)
    [turn] = kept(runtime)
    assert turn.prompt == "use [redacted:anthropic-key] please"
    assert turn.arguments["prompt"] == turn.prompt
    assert turn.arguments["password"] == "[redacted:password]"
    assert turn.arguments["options"] == {"auth_token": "[redacted:auth_token]", "deep": ["[redacted:github-token]"]}
    assert turn.answer is not None
    assert turn.answer.result["structuredContent"]["nested"] == [
        {"[redacted:github-token]": ["[redacted:anthropic-key]"]}
    ]
    assert KEY not in turn.answer.text
    assert TOKEN not in turn.answer.text


async def test_secrets_in_an_error_are_redacted_and_the_caller_sees_them(runtime: Runtime) -> None:
    result = await called(_careless(persisted), "login", {"prompt": f"fail {KEY}"})
    assert KEY in text_of(result)
    [turn] = kept(runtime)
    assert turn.answer is not None
    assert turn.answer.error == {"type": "ToolError", "message": "refused [redacted:anthropic-key]"}


async def test_a_later_turn_is_not_given_the_secrets_of_an_earlier_one(runtime: Runtime) -> None:
    mcp, received = MCPServer("history"), list[str]()

    @mcp.tool()
    @persisted
    async def chat(prompt: str) -> str:
        received.append(prompt)
        return f"the key is {KEY}"

    for prompt in (f"my key is {KEY}", f"and now {KEY}"):
        await called(mcp, "chat", {"prompt": prompt, "continuation_id": "mine"})
    assert received[0] == f"my key is {KEY}"
    before, now = received[1].rsplit("\n\n", 1)
    assert KEY not in before
    assert now == f"and now {KEY}"


async def test_a_tools_own_patterns_are_redacted_too(activate: Activate) -> None:
    runtime = activate(tools={"report": ToolSettings(redact_patterns=(r"\b\d{4}-\d{4}\b",))})
    result = await called(_reporting(persisted), "report", {"prompt": "card 1234-5678"})
    assert result["structuredContent"]["title"] == "CARD 1234-5678"
    [turn] = kept(runtime)
    assert turn.prompt == "card [redacted:pattern]"
    assert turn.answer is not None
    assert "1234-5678" not in json.dumps(turn.answer.result) + turn.answer.text


@pytest.mark.parametrize(
    "secret",
    [
        {"password": "hunter2-hunter2"},
        {"password": 12345678901},
        {"client_secret": ["aaaa-bbbb-cccc"]},
        {"deep": {"api_key": {"value": "aaaa-bbbb-cccc"}}},
        {"api_key": 'quoted \\"aaaa-bbbb-cccc\\"'},
    ],
    ids=str,
)
async def test_a_value_under_a_secret_name_is_in_no_part_of_the_record(
    secret: dict[str, Any], activate: Activate, tmp_path: Path
) -> None:
    """The SDK writes a dictionary twice: as structured content, and as JSON in a text block."""
    runtime = activate(SqliteStore(tmp_path / "database" / "named.db"))
    mcp = MCPServer("named")

    @mcp.tool()
    @persisted
    async def read(config: dict[str, Any]) -> dict[str, Any]:
        return config

    await called(mcp, "read", {"config": secret})
    written = _everything_in(tmp_path / "database")
    runtime.engine.store.close()
    written += _everything_in(tmp_path / "database")
    assert b"read" in written
    for value in (b"hunter2-hunter2", b"12345678901", b"aaaa-bbbb-cccc"):
        assert value not in written


async def test_redaction_can_be_switched_off_for_a_tool(activate: Activate) -> None:
    runtime = activate(tools={"login": ToolSettings(redact=False)})
    await called(_careless(persisted), "login", CARELESS)
    [turn] = kept(runtime)
    assert turn.arguments == CARELESS
