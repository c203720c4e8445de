"""`@persisted` below `@mcp.tool` of fastmcp."""

import inspect
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import fastmcp
import pytest
from conftest import Activate
from fastmcp import Client, Context, FastMCP
from fastmcp.dependencies import Depends
from fastmcp.exceptions import ToolError
from fastmcp.server.middleware import Middleware
from fastmcp.tools import ToolResult
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequest, ElicitRequestFormParams, InputRequiredResult
from mcp_wire import announced_id, kept, text_of, without_announcement
from pydantic import BaseModel
from seams.fastmcp_v4.fastmcp_shapes import SHAPES, Persist, Shape, bare
from seams.fastmcp_v4.fastmcp_wire import Json, authenticated, called, listed, wire

from perdure import DecoratorError, History, Outcome, current_conversation, persisted
from perdure.middleware import call_files
from perdure.middleware.persistence.wiring import Runtime
from perdure.middleware.tool_schema import continuation_id_schema
from perdure.settings import ToolSettings

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)


# ── every shape of handler ───────────────────────────────────────────────────────────────────────────────────────


@every_shape
async def test_an_entry_gains_one_optional_property(shape: Shape, runtime: Runtime) -> None:
    [entry] = await listed(shape.server(bare))
    [persisted_entry] = await listed(shape.server(persisted))
    added = persisted_entry["inputSchema"]["properties"].pop("continuation_id")
    assert added == continuation_id_schema()
    assert json.dumps(persisted_entry) == json.dumps(entry)  # the order of keys included


@every_shape
async def test_a_call_answers_what_the_bare_tool_answers_and_is_kept(shape: Shape, runtime: Runtime) -> None:
    [entry] = await listed(shape.server(bare))
    expected = await called(shape.server(bare), entry["name"], shape.arguments)
    result = await called(shape.server(persisted), entry["name"], shape.arguments)
    assert "isError" not in expected or expected["isError"] is False
    assert result["_meta"].get("perdure/persisted") is True, result
    assert json.dumps(without_announcement(result), sort_keys=True) == json.dumps(expected, sort_keys=True)
    [turn] = kept(runtime)
    assert (turn.tool, turn.arguments) == (entry["name"], shape.arguments)


@every_shape
async def test_a_tool_that_is_switched_off_answers_exactly_what_the_bare_tool_answers(
    shape: Shape, activate: Activate
) -> None:
    runtime = activate(defaults=ToolSettings(enabled=False))
    [entry] = await listed(shape.server(bare))
    expected = await called(shape.server(bare), entry["name"], shape.arguments)
    assert await called(shape.server(persisted), entry["name"], shape.arguments) == expected
    assert kept(runtime) == []


@every_shape
async def test_perdure_vanishes_when_the_environment_switches_it_off(
    shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERDURE_ENABLED", "false")
    assert await listed(shape.server(persisted)) == await listed(shape.server(bare))


# ── conversations ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_conversation_goes_on_in_the_prompt_and_in_the_history_parameter(runtime: Runtime) -> None:
    mcp = FastMCP("remembering")

    @mcp.tool
    @persisted
    def chat(prompt: str) -> str:
        return f"I was given {prompt.count('the first')}"

    @mcp.tool
    @persisted
    async def look(text: str, history: History, ctx: Context) -> list[str]:
        return [turn.prompt for turn in history]

    first = await called(mcp, "chat", {"prompt": "the first"})
    second = await called(mcp, "chat", {"prompt": "go on", "continuation_id": announced_id(first)})
    assert (text_of(first), text_of(second)) == ("I was given 1", "I was given 1")
    assert "the first" not in json.dumps([turn.prompt for turn in kept(runtime)[1:]])
    seen = await called(mcp, "look", {"text": "?", "continuation_id": announced_id(first)})
    assert seen["structuredContent"]["result"] == ["the first", "go on"]


async def test_the_typed_client_of_fastmcp_unwraps_a_result_as_before(runtime: Runtime) -> None:
    mcp = FastMCP("typed")

    @mcp.tool
    @persisted
    def numbers() -> list[int]:
        return [1, 2]

    async with Client(mcp) as client:
        result = await client.call_tool("numbers", {})
    assert result.data == [1, 2]
    assert result.structured_content is not None
    assert set(result.structured_content) == {"result", "continuation_id"}


async def test_the_id_may_come_in_meta_instead(runtime: Runtime) -> None:
    mcp = FastMCP("meta")
    mcp.tool(persisted(_echo))
    result = await called(mcp, "_echo", {"text": "a"}, meta={"perdure/continuation-id": "mine"})
    assert announced_id(result) == "mine"


async def test_a_conversation_is_known_in_the_body_of_a_synchronous_tool(runtime: Runtime) -> None:
    mcp = FastMCP("ambient")
    threads: list[threading.Thread] = []

    @mcp.tool
    @persisted
    def who() -> str:
        threads.append(threading.current_thread())
        conversation = current_conversation()
        return conversation.continuation_id if conversation else "none"

    result = await called(mcp, "who", {"continuation_id": "mine"})
    assert text_of(result) == "mine"
    assert threads[0] is not threading.main_thread()


async def _echo(text: str) -> str:
    return text


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Unfit(BaseModel):
    number: int


@pytest.mark.parametrize("masked", [False, True], ids=["told", "masked"])
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize(
    "fail",
    [
        lambda: (_ for _ in ()).throw(ToolError("the file is missing")),
        lambda: (_ for _ in ()).throw(RuntimeError("secret internals")),
        lambda: (_ for _ in ()).throw(MCPError(code=-32042, message="pay first")),
        lambda: (_ for _ in ()).throw(TimeoutError("upstream")),
        lambda: Unfit.model_validate({"number": "x"}),
        lambda: ToolResult(content="no luck", is_error=True),
    ],
    ids=["ToolError", "RuntimeError", "MCPError", "TimeoutError", "ValidationError", "is_error"],
)
async def test_a_tool_that_fails_gives_the_error_of_the_bare_tool(
    fail: Callable[[], Any], is_async: bool, masked: bool, runtime: Runtime
) -> None:
    def make(persist: Persist) -> FastMCP:
        mcp = FastMCP("failing", mask_error_details=masked, version="1")

        async def tell(prompt: str) -> ToolResult:
            return fail()

        def tell_plainly(prompt: str) -> ToolResult:
            return fail()

        mcp.tool(persist(tell if is_async else tell_plainly), name="tell")
        return mcp

    expected = await called(make(bare), "tell", {"prompt": "a"})
    result = await called(make(persisted), "tell", {"prompt": "a"})
    assert expected["isError"] is True
    meta = result.get("_meta", {})
    ours = {key: value for key, value in meta.items() if not key.startswith("perdure/")}
    assert {**result, "_meta": ours} == {**expected, "_meta": expected.get("_meta", {})}
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.FAILED


@pytest.mark.parametrize("arguments", [{}, {"text": 3}, {"text": "a", "more": 1}], ids=str)
async def test_arguments_that_do_not_fit_are_refused_in_the_same_words(arguments: Json, runtime: Runtime) -> None:
    def make(persist: Persist) -> FastMCP:
        mcp = FastMCP("choosy", version="1")
        mcp.tool(persist(_echo), name="chat")
        return mcp

    assert await called(make(persisted), "chat", arguments) == await called(make(bare), "chat", arguments)
    assert kept(runtime) == []


async def test_a_tool_that_takes_longer_than_its_timeout_is_kept_as_cancelled(runtime: Runtime) -> None:
    mcp = FastMCP("slow")

    @mcp.tool(timeout=0.05)
    @persisted
    async def sleep(prompt: str) -> str:
        await anyio.sleep(60)
        return "never"

    result = await called(mcp, "sleep", {"prompt": "a"})
    assert "timed out" in text_of(result)
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.CANCELLED


async def test_a_question_to_the_client_passes_as_it_is(runtime: Runtime) -> None:
    question = InputRequiredResult(
        input_requests={
            "sure": ElicitRequest(
                params=ElicitRequestFormParams(message="Sure?", requested_schema={"type": "object", "properties": {}})
            )
        }
    )
    mcp = FastMCP("asking")

    @mcp.tool
    @persisted
    async def pay(prompt: str) -> str | InputRequiredResult:
        return question

    async with Client(mcp) as client:
        result = await client.session.call_tool("pay", {"prompt": "a"}, allow_input_required=True)
    asked = wire(result)
    assert asked["resultType"] == "input_required"
    assert list(asked["inputRequests"]) == ["sure"]


# ── who calls whom ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_tool_that_another_tool_calls_belongs_to_the_turn_of_that_one(runtime: Runtime) -> None:
    mcp = FastMCP("nested")
    mcp.tool(persisted(_echo), name="inner")

    @mcp.tool
    @persisted
    async def outer(prompt: str, ctx: Context) -> str:
        result = await ctx.fastmcp.call_tool("inner", {"text": prompt})
        return result.content[0].text  # type: ignore[union-attr]

    @mcp.tool
    async def forgetful(prompt: str, ctx: Context) -> str:
        result = await ctx.fastmcp.call_tool("inner", {"text": prompt})
        return result.content[0].text  # type: ignore[union-attr]

    assert text_of(await called(mcp, "outer", {"prompt": "a"})) == "a"
    assert text_of(await called(mcp, "forgetful", {"prompt": "b"})) == "b"
    assert [(turn.tool, turn.prompt) for turn in kept(runtime)] == [("outer", "a")]


async def test_a_server_that_is_a_client_of_another_records_each_its_own_turn(runtime: Runtime) -> None:
    behind, front = FastMCP("behind"), FastMCP("front")
    behind.tool(persisted(_echo), name="chat")

    @front.tool
    @persisted
    async def relay(prompt: str) -> str:
        return text_of(await called(behind, "chat", {"text": prompt}))

    await called(front, "relay", {"prompt": "a"})
    assert sorted(turn.tool for turn in kept(runtime)) == ["chat", "relay"]


async def test_a_handler_that_is_called_from_python_is_the_bare_function(runtime: Runtime) -> None:
    handler = persisted(_echo)
    FastMCP("some").tool(handler)
    assert await handler("a") == "a"
    assert kept(runtime) == []


async def test_a_tool_that_its_server_is_told_to_call_is_kept_without_a_client(runtime: Runtime) -> None:
    mcp = FastMCP("direct")

    @mcp.tool
    @persisted
    async def chat(text: str, ctx: Context, words: list[str] = Depends(list)) -> str:  # noqa: B008
        return f"{ctx.fastmcp.name} {text}"

    result = await mcp.call_tool("chat", {"text": "a"})
    assert (result.meta or {})["perdure/persisted"] is True
    assert [(turn.tool, turn.arguments) for turn in kept(runtime)] == [("chat", {"text": "a"})]


async def test_two_users_of_one_client_have_each_their_own_conversations(runtime: Runtime) -> None:
    mcp = FastMCP("private")
    mcp.tool(persisted(_echo), name="chat")
    for subject, claims in (("ann", {}), (None, {"sub": "bob"}), (None, {})):
        with authenticated(client_id="app", subject=subject, claims=claims):
            await called(mcp, "chat", {"text": "a", "continuation_id": "mine"})
    assert sorted(turn.principal for turn in kept(runtime)) == ["ann", "bob", "client:app"]


# ── beside other things ──────────────────────────────────────────────────────────────────────────────────────────


async def test_middleware_of_fastmcp_may_change_a_result_as_before(runtime: Runtime) -> None:
    class Louder(Middleware):
        async def on_call_tool(self, context: Any, call_next: Any) -> ToolResult:
            result: ToolResult = await call_next(context)
            assert result.structured_content is not None
            result.structured_content["result"] += "!"
            return result

    mcp = FastMCP("loud", middleware=[Louder()])
    mcp.tool(persisted(_echo), name="chat")
    result = await called(mcp, "chat", {"text": "a"})
    assert result["structuredContent"]["result"] == "a!"
    assert result["_meta"]["perdure/persisted"] is True


async def test_progress_of_a_tool_reaches_its_client(runtime: Runtime) -> None:
    mcp = FastMCP("working")
    told: list[tuple[float, str | None]] = []

    @mcp.tool
    @persisted
    async def work(prompt: str, ctx: Context) -> str:
        await ctx.report_progress(1, 2, "half")
        return prompt

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, message))

    async with Client(mcp) as client:
        await client.call_tool("work", {"prompt": "a"}, progress_handler=note)
        await anyio.wait_all_tasks_blocked()
    assert told == [(1, "half")]


async def test_a_file_goes_out_as_a_storage_uri_and_comes_back_as_a_path(runtime: Runtime, tmp_path: Path) -> None:
    mcp = FastMCP("files", mask_error_details=True)

    @mcp.tool
    @persisted
    async def write(text: str) -> str:
        path = tmp_path / "note.txt"
        path.write_text(text)
        return str(path)

    @mcp.tool
    @persisted
    async def read(prompt: str, path: Path, ctx: Context, times: int = 1) -> str:
        return path.read_text() * times

    uri = text_of(await called(mcp, "write", {"text": "kept"}))
    assert uri.startswith("storage://")
    (tmp_path / "note.txt").unlink()
    assert text_of(await called(mcp, "read", {"prompt": "?", "path": uri, "times": "2"})) == "keptkept"

    missing = await called(mcp, "read", {"prompt": "?", "path": uri + "-gone"})
    assert missing["isError"] is True
    assert uri + "-gone" in text_of(missing)  # in words, though this server masks what its tools raise


async def test_progress_on_a_large_file_goes_on_where_the_tool_itself_left_off(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()  # a second passes with every look at the clock, so that every piece is reported
    monkeypatch.setattr(call_files, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    mcp = FastMCP("working")
    told: list[float] = []

    @mcp.tool
    @persisted
    async def write(ctx: Context) -> str:
        path = tmp_path / "large.bin"
        path.write_bytes(b"x" * 12_000_000)
        await ctx.report_progress(50, 100)
        return str(path)

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append(progress)

    async with Client(mcp) as client:
        await client.call_tool("write", {}, progress_handler=note)
        await anyio.wait_all_tasks_blocked()
    assert told[0] == 50
    assert len(told) > 5
    assert all(before < after for before, after in itertools.pairwise(told))


# ── where the decorator stands ───────────────────────────────────────────────────────────────────────────────────


def test_above_the_servers_decorator_it_is_refused_in_words() -> None:
    mcp = FastMCP("wrong")
    with pytest.raises(DecoratorError, match="directly below"):

        @persisted
        @mcp.tool
        def chat(prompt: str) -> str:
            return prompt


def test_on_a_tool_object_it_is_refused_in_words() -> None:
    with pytest.raises(DecoratorError, match="directly below"):
        persisted(fastmcp.tools.Tool.from_function(_echo))


def test_a_handler_looks_as_before_when_its_author_inspects_it() -> None:
    handler = persisted(_echo)
    FastMCP("some").tool(handler)
    assert handler.__name__ == "_echo"
    assert "text" in inspect.signature(handler).parameters


LATE = """
import asyncio, sys
from perdure import persisted

assert "fastmcp" not in sys.modules

@persisted
async def chat(prompt: str) -> str:
    return prompt

from fastmcp import Client, FastMCP
mcp = FastMCP("late")
mcp.tool(chat)

async def main():
    async with Client(mcp) as client:
        [tool] = await client.list_tools()
        assert list(tool.input_schema["properties"]) == ["prompt", "continuation_id"], tool
        result = await client.call_tool_mcp("chat", {"prompt": "a"})
        print(result.meta["perdure/persisted"])

asyncio.run(main())
"""


def test_a_handler_that_was_decorated_before_fastmcp_was_imported_is_kept_all_the_same() -> None:
    ran = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout.strip(), ran.returncode) == ("True", 0), ran.stderr


def test_importing_perdure_imports_no_fastmcp() -> None:
    code = "import perdure, sys; from perdure import persisted; print('fastmcp' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "False"
