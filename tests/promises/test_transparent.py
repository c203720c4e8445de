"""Promise 1, Transparent: a decorated tool looks and behaves as the bare one, but for what it announces."""

import asyncio
import functools
import inspect
import json
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import anyio
import anyio.to_thread
import pytest
from conftest import Activate
from mcp import Client
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.resolve import Elicit, Resolve
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, ElicitResult, TextContent
from mcp_wire import called, kept, listed, text_of, wire, without_announcement
from pydantic import BaseModel, Field
from shapes import SHAPES, Persist, Shape, Teller, bare

from perdure import History, Outcome, current_conversation, persisted
from perdure.middleware.persistence.wiring import Runtime
from perdure.middleware.tool_schema import continuation_id_schema
from perdure.settings import ToolSettings

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
both_eras = pytest.mark.parametrize("mode", ["auto", "legacy"])
decorated_or_not = pytest.mark.parametrize("persist", [bare, persisted], ids=["bare", "persisted"])


# ── every shape of handler ───────────────────────────────────────────────────────────────────────────────────────


@every_shape
async def test_an_entry_in_tools_list_gains_one_optional_property_or_nothing_where_it_was_declared(
    shape: Shape, runtime: Runtime
) -> None:
    [entry] = await listed(shape.server(bare))
    [persisted_entry] = await listed(shape.server(persisted))

    if not shape.declares_id:
        added = persisted_entry["inputSchema"]["properties"].pop("continuation_id")
        assert added == continuation_id_schema()
        assert "continuation_id" not in persisted_entry["inputSchema"].get("required", [])
    assert json.dumps(persisted_entry) == json.dumps(entry)  # the order of keys included


@every_shape
async def test_a_call_answers_what_the_bare_tool_answers(shape: Shape, runtime: Runtime) -> None:
    [entry] = await listed(shape.server(bare))
    expected = await called(shape.server(bare), entry["name"], shape.arguments)
    result = await called(shape.server(persisted), entry["name"], shape.arguments)

    assert result.get("_meta", {}).get("perdure/persisted") is True, result
    assert json.dumps(without_announcement(result), sort_keys=True) == json.dumps(expected, sort_keys=True)
    assert len(kept(runtime)) == 1


@every_shape
async def test_a_tool_that_is_switched_off_answers_exactly_what_the_bare_tool_answers(
    shape: Shape, activate: Activate
) -> None:
    runtime = activate(defaults=ToolSettings(enabled=False))
    [entry] = await listed(shape.server(bare))

    expected = await called(shape.server(bare), entry["name"], shape.arguments)
    assert await called(shape.server(persisted), entry["name"], shape.arguments) == expected
    assert kept(runtime) == []


async def test_a_tool_with_a_history_parameter_lists_as_if_it_had_none(runtime: Runtime) -> None:
    plain, remembering = MCPServer("plain"), MCPServer("remembering")

    @plain.tool(name="chat")
    @persisted
    async def without(prompt: str, size: int = 1) -> str:
        return prompt

    without.__name__ = "chat"

    @remembering.tool()
    @persisted
    async def chat(prompt: str, history: History, size: int = 1) -> str:
        return prompt

    [expected], [entry] = await listed(plain), await listed(remembering)
    assert entry["inputSchema"]["properties"] == expected["inputSchema"]["properties"]
    assert entry["inputSchema"]["required"] == ["prompt"]


async def test_perdure_vanishes_when_the_environment_switches_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_ENABLED", "false")
    shape = next(shape for shape in SHAPES if shape.name == "async_function")

    assert await listed(shape.server(persisted)) == await listed(shape.server(bare))
    assert await called(shape.server(persisted), "chat", {"prompt": "a"}) == await called(
        shape.server(bare), "chat", {"prompt": "a"}
    )


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("even this fails")


def _raising(error: BaseException) -> Callable[[Persist, bool], MCPServer]:
    def make(persist: Persist, is_async: bool) -> MCPServer:
        mcp = MCPServer("raising")
        if is_async:

            @mcp.tool()
            @persist
            async def fail(prompt: str) -> str:
                raise error
        else:

            @mcp.tool(name="fail")
            @persist
            def fail_plainly(prompt: str) -> str:
                raise error

        return mcp

    return make


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize(
    "error",
    [ToolError("the file is missing"), RuntimeError("secret internals"), KeyError("x"), Unspeakable()],
    ids=lambda error: type(error).__name__,
)
async def test_a_tool_that_raises_gives_the_error_result_of_the_bare_tool(
    error: Exception, is_async: bool, runtime: Runtime
) -> None:
    make = _raising(error)
    expected = await called(make(bare, is_async), "fail", {"prompt": "a"})
    result = await called(make(persisted, is_async), "fail", {"prompt": "a"})

    assert expected["isError"] is True
    assert result == expected
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.FAILED


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_a_protocol_error_stays_one_with_its_code_and_data(is_async: bool, runtime: Runtime) -> None:
    server = _raising(MCPError(code=-32042, message="pay first", data={"url": "x"}))(persisted, is_async)
    async with Client(server) as client:
        with pytest.raises(MCPError) as raised:
            await client.call_tool("fail", {"prompt": "a"})

    assert raised.value.error.model_dump() == {"code": -32042, "message": "pay first", "data": {"url": "x"}}
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.FAILED


async def test_a_wrong_return_type_is_the_error_it_was_before_and_is_recorded_as_failed(runtime: Runtime) -> None:
    def make(persist: Persist) -> MCPServer:
        mcp = MCPServer("wrong")

        @mcp.tool()
        @persist
        async def count() -> int:
            return "many"  # type: ignore[return-value]

        return mcp

    result = await called(make(persisted), "count")
    assert result == await called(make(bare), "count")
    assert result["isError"] is True
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.FAILED


@pytest.mark.parametrize(
    "arguments", [{}, {"prompt": 3}, {"prompt": "a", "count": "many"}, {"prompt": "a", "count": 99}], ids=str
)
async def test_arguments_that_do_not_fit_are_refused_in_the_same_words(
    arguments: dict[str, Any], runtime: Runtime
) -> None:
    [shape] = [shape for shape in SHAPES if shape.name == "annotated_fields"]
    expected = await called(shape.server(bare), "chat", arguments)
    assert expected["isError"] is True
    assert await called(shape.server(persisted), "chat", arguments) == expected


async def test_unknown_arguments_are_dropped_as_the_sdk_drops_them(runtime: Runtime) -> None:
    [shape] = [shape for shape in SHAPES if shape.name == "async_function"]
    result = await called(shape.server(persisted), "chat", {"prompt": "a", "nobody": "knows", "perdure_context": "x"})
    assert text_of(result) == "A"
    [turn] = kept(runtime)
    assert turn.arguments == {"prompt": "a", "nobody": "knows", "perdure_context": "x"}


async def test_an_error_result_gains_only_meta(runtime: Runtime) -> None:
    [shape] = [shape for shape in SHAPES if shape.name == "returns_an_error_result"]
    expected = await called(shape.server(bare), "whole")
    result = await called(shape.server(persisted), "whole")
    added = {key for key in result["_meta"] if key.startswith("perdure/")}
    assert "perdure/continuation-id" in added
    assert {**result, "_meta": {k: v for k, v in result["_meta"].items() if k not in added}} == expected
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.FAILED


# ── while it runs ────────────────────────────────────────────────────────────────────────────────────────────────


@both_eras
@decorated_or_not
async def test_progress_reaches_the_client(mode: str, persist: Persist, runtime: Runtime) -> None:
    mcp = MCPServer("progress")

    @mcp.tool()
    @persist
    async def work(prompt: str, ctx: Context) -> str:
        await ctx.report_progress(1, 2, "half")
        await ctx.report_progress(2, 2)
        return prompt

    seen: list[tuple[float, float | None, str | None]] = []
    both = asyncio.Event()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))
        if len(seen) == 2:
            both.set()

    async with Client(mcp, mode=mode) as client:
        await client.call_tool("work", {"prompt": "a"}, progress_callback=note)
        await asyncio.wait_for(both.wait(), 5)
    assert seen == [(1, 2, "half"), (2, 2, None)]


@pytest.mark.filterwarnings("ignore:The logging capability")
@both_eras
@decorated_or_not
async def test_log_messages_reach_the_client(mode: str, persist: Persist, runtime: Runtime) -> None:
    mcp = MCPServer("logging")

    @mcp.tool()
    @persist
    async def work(prompt: str, ctx: Context) -> str:
        await ctx.info(f"working on {prompt}")
        return prompt

    seen: list[Any] = []
    arrived = asyncio.Event()

    async def note(params: Any) -> None:
        seen.append(params.data)
        arrived.set()

    async with Client(mcp, mode=mode, logging_callback=note, log_level="info") as client:
        await client.call_tool("work", {"prompt": "a"})
        await asyncio.wait_for(arrived.wait(), 5)
    assert seen == ["working on a"]


class Consent(BaseModel):
    yes: bool


@both_eras
@decorated_or_not
@pytest.mark.parametrize("action", ["accept", "decline"])
async def test_a_resolver_can_ask_the_user(mode: str, persist: Persist, action: str, runtime: Runtime) -> None:
    async def ask(path: str) -> Elicit[Consent]:
        return Elicit(f"Delete {path}?", Consent)

    mcp = MCPServer("asking")

    @mcp.tool()
    @persist
    async def delete(path: str, consent: Annotated[Consent, Resolve(ask)]) -> str:
        return f"{path}: {consent.yes}"

    asked: list[str] = []

    async def answer(_context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action=action, content={"yes": True} if action == "accept" else None)

    result = await called(mcp, "delete", {"path": "a.txt"}, mode=mode, elicitation_callback=answer)
    assert asked == ["Delete a.txt?"]
    if action == "accept":
        assert text_of(result) == "a.txt: True"
    else:
        assert result["isError"] is True
    if persist is persisted and action == "accept":
        [turn] = kept(runtime)
        assert (turn.outcome, turn.arguments) == (Outcome.ANSWERED, {"path": "a.txt"})


@decorated_or_not
async def test_a_body_can_ask_the_user(persist: Persist, runtime: Runtime) -> None:
    mcp = MCPServer("asking")

    @mcp.tool()
    @persist
    async def delete(path: str, ctx: Context) -> str:
        consent = await ctx.elicit(f"Delete {path}?", Consent)
        return f"{path}: {consent.action}"

    async def answer(_context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"yes": True})

    result = await called(mcp, "delete", {"path": "a.txt"}, mode="legacy", elicitation_callback=answer)
    assert text_of(result) == "a.txt: accept"


@both_eras
@decorated_or_not
async def test_cancellation_reaches_an_async_tool_at_once(mode: str, persist: Persist, runtime: Runtime) -> None:
    mcp = MCPServer("cancelling")
    started, ended = asyncio.Event(), asyncio.Event()
    met: list[str] = []

    @mcp.tool()
    @persist
    async def wait(prompt: str) -> str:
        started.set()
        try:
            await anyio.sleep_forever()
        except BaseException as error:
            met.append(type(error).__name__)
            raise
        finally:
            ended.set()
        return prompt

    async with Client(mcp, mode=mode) as client:
        async with anyio.create_task_group() as calls:

            async def call() -> None:
                with anyio.CancelScope() as scope:
                    calls.start_soon(cancel_when_started, scope)
                    await client.call_tool("wait", {"prompt": "a"})

            async def cancel_when_started(scope: anyio.CancelScope) -> None:
                await asyncio.wait_for(started.wait(), 5)
                scope.cancel()

            calls.start_soon(call)
        await asyncio.wait_for(ended.wait(), 5)
        assert met == ["CancelledError"]
        # The server goes on as before.
        assert [tool.name for tool in (await client.list_tools()).tools] == ["wait"]
    if persist is persisted:
        [turn] = kept(runtime)
        assert turn.outcome is Outcome.CANCELLED


@both_eras
@decorated_or_not
async def test_a_time_out_of_the_client_is_what_it_was(mode: str, persist: Persist, runtime: Runtime) -> None:
    mcp = MCPServer("slow")

    @mcp.tool()
    @persist
    async def wait(prompt: str) -> str:
        await anyio.sleep_forever()
        return prompt

    async with Client(mcp, mode=mode) as client:
        with pytest.raises(MCPError, match="[Tt]imed out"):
            await client.call_tool("wait", {"prompt": "a"}, read_timeout_seconds=0.2)


@decorated_or_not
async def test_a_time_out_within_the_tool_is_its_own_business(persist: Persist, runtime: Runtime) -> None:
    mcp = MCPServer("slow")

    @mcp.tool()
    @persist
    async def wait(prompt: str) -> str:
        with anyio.move_on_after(0.01):
            await anyio.sleep_forever()
        return f"{prompt}: gave up"

    assert text_of(await called(mcp, "wait", {"prompt": "a"})) == "a: gave up"


@decorated_or_not
async def test_a_sync_tool_runs_in_a_worker_thread_and_leaves_the_event_loop_free(
    persist: Persist, runtime: Runtime
) -> None:
    mcp = MCPServer("threads")
    go_on = threading.Event()
    threads: list[threading.Thread] = []

    @mcp.tool()
    @persist
    def block(prompt: str) -> str:
        threads.append(threading.current_thread())
        return f"{prompt}: {go_on.wait(5)}"

    @mcp.tool()
    async def release() -> None:
        go_on.set()

    async with Client(mcp) as client, anyio.create_task_group() as calls:
        results: list[Any] = []

        async def call() -> None:
            results.append(wire(await client.call_tool("block", {"prompt": "a"})))

        calls.start_soon(call)
        await client.call_tool("release")
    assert text_of(results[0]) == "a: True"
    assert threads[0] is not threading.main_thread()


async def test_fifty_calls_run_at_the_same_time_and_each_gets_its_own_answer(runtime: Runtime) -> None:
    mcp = MCPServer("many")
    inside = 0
    all_inside = asyncio.Event()

    @mcp.tool()
    @persisted
    async def chat(prompt: str) -> str:
        nonlocal inside
        inside += 1
        if inside == 50:
            all_inside.set()
        await asyncio.wait_for(all_inside.wait(), 10)
        conversation = current_conversation()
        assert conversation is not None
        return f"{prompt} in {conversation.continuation_id}"

    answers: dict[int, dict[str, Any]] = {}
    async with Client(mcp) as client, anyio.create_task_group() as calls:

        async def call(number: int) -> None:
            answers[number] = wire(await client.call_tool("chat", {"prompt": f"prompt {number}"}))

        for number in range(50):
            calls.start_soon(call, number)
    assert len({answer["_meta"]["perdure/continuation-id"] for answer in answers.values()}) == 50
    for number, answer in answers.items():
        assert text_of(answer) == f"prompt {number} in {answer['_meta']['perdure/continuation-id']}"
    assert {turn.prompt for turn in kept(runtime)} == {f"prompt {number}" for number in range(50)}


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_fifty_calls_at_the_same_time_are_all_kept_by_the_default_store(is_async: bool) -> None:
    mcp = MCPServer("many")
    if is_async:

        @mcp.tool()
        @persisted
        async def chat(prompt: str) -> str:
            return prompt
    else:

        @mcp.tool(name="chat")
        @persisted
        def chat_plainly(prompt: str) -> str:
            return prompt

    metas: list[dict[str, Any]] = []
    async with Client(mcp) as client, anyio.create_task_group() as calls:

        async def call(number: int) -> None:
            result = await client.call_tool("chat", {"prompt": f"{number}", "continuation_id": "one"})
            metas.append(wire(result)["_meta"])

        for number in range(50):
            calls.start_soon(call, number)
    assert [meta for meta in metas if not meta["perdure/persisted"] or "perdure/fault" in meta] == []


# ── called from Python ───────────────────────────────────────────────────────────────────────────────────────────


def _add(a: int, b: int = 2, *more: int, scale: int = 1) -> int:
    """Adds."""
    return (a + b + sum(more)) * scale


async def _add_later(a: int, b: int = 2, *, scale: int = 1) -> int:
    """Adds later."""
    return (a + b) * scale


async def test_a_direct_call_returns_what_the_function_returns(runtime: Runtime) -> None:
    add, add_later = persisted(_add), persisted(_add_later)
    assert add(1) == 3
    assert add(1, 2, 3, scale=2) == 12
    assert add(a=1, b=1) == 2
    assert await add_later(1, scale=3) == 9
    assert kept(runtime) == []


async def test_a_direct_call_raises_what_the_function_raises(runtime: Runtime) -> None:
    error = KeyError("mine")

    @persisted
    async def fail() -> None:
        raise error

    with pytest.raises(KeyError) as raised:
        await fail()
    assert raised.value is error
    with pytest.raises(TypeError, match="required"):
        persisted(_add)()  # type: ignore[call-arg]


@pytest.mark.parametrize("function", [_add, _add_later, Teller("x").greet, Teller.greet_plainly])
def test_a_decorated_function_still_shows_what_it_is(function: Callable[..., Any]) -> None:
    decorated = persisted(function)
    for attribute in ("__name__", "__qualname__", "__doc__", "__module__"):
        assert getattr(decorated, attribute) == getattr(function, attribute)
    assert inspect.iscoroutinefunction(decorated) == inspect.iscoroutinefunction(function)
    assert inspect.unwrap(decorated) == function
    added = ("continuation_id", "perdure_context")
    shown = inspect.signature(decorated)
    rest = [parameter for name, parameter in shown.parameters.items() if name not in added]
    assert shown.replace(parameters=rest) == inspect.signature(function)


async def test_a_direct_call_of_a_method_reaches_its_instance(runtime: Runtime) -> None:
    class Counter:
        step = 2

        def __init__(self) -> None:
            self.count = 0

        @persisted
        def up(self, by: int) -> int:
            self.count += by
            return self.count

        @persisted
        @classmethod
        async def double(cls, number: int) -> int:
            return number * cls.step

        @staticmethod
        @persisted
        def half(number: int) -> int:
            return number // 2

    counter = Counter()
    assert (counter.up(2), counter.up(by=3), Counter.up(counter, 1)) == (2, 5, 6)
    assert await Counter.double(4) == await counter.double(4) == 8
    assert Counter.half(4) == counter.half(4) == 2
    assert kept(runtime) == []


async def test_a_direct_call_of_a_tool_that_takes_one_dictionary_is_no_turn(runtime: Runtime) -> None:
    mcp = MCPServer("dictionary")

    @mcp.tool()
    @persisted
    async def run(arguments: dict[str, Any]) -> list[TextContent]:
        return [TextContent(type="text", text=str(arguments))]

    assert len(await run({"a": 1})) == 1
    assert kept(runtime) == []


async def test_a_direct_call_with_a_history_parameter_gets_an_empty_history_or_the_one_it_is_given(
    runtime: Runtime,
) -> None:
    @persisted
    async def count(prompt: str, history: History) -> int:
        return len(history)

    [turn] = await _one_turn(runtime)
    assert await count("a") == 0  # type: ignore[call-arg]
    assert await count("a", History([turn])) == 1
    assert await count("a", history=History([turn, turn])) == 2


async def _one_turn(runtime: Runtime) -> list[Any]:
    [shape] = [shape for shape in SHAPES if shape.name == "async_function"]
    await called(shape.server(persisted), "chat", {"prompt": "a"})
    return kept(runtime)


# ── one tool calls another ───────────────────────────────────────────────────────────────────────────────────────


def _nested(persist_outer: Persist, call_inner: Callable[..., Awaitable[Any]]) -> MCPServer:
    mcp = MCPServer("nested")

    @mcp.tool()
    @persisted
    async def inner(text: str, ctx: Context) -> str:
        conversation = current_conversation()
        return f"inner {text} {conversation.continuation_id if conversation else None}"

    @mcp.tool()
    @persist_outer
    async def outer(prompt: str, ctx: Context) -> str:
        return f"outer got {await call_inner(mcp, inner, prompt, ctx)!r}"

    return mcp


async def _directly(mcp: MCPServer, inner: Any, prompt: str, ctx: Context) -> Any:
    return await inner(prompt, ctx)


async def _directly_by_name(mcp: MCPServer, inner: Any, prompt: str, ctx: Context) -> Any:
    return await inner(text=prompt, ctx=ctx)


async def _through_the_server(mcp: MCPServer, inner: Any, prompt: str, ctx: Context) -> Any:
    result = await mcp.call_tool("inner", {"text": prompt}, ctx)
    assert isinstance(result, CallToolResult)
    assert result.structured_content is not None
    assert [block.text for block in result.content if isinstance(block, TextContent)] == list(
        result.structured_content.values()
    )
    return result.structured_content["result"]


@pytest.mark.parametrize("call_inner", [_directly, _directly_by_name, _through_the_server])
async def test_a_persisted_tool_that_a_persisted_tool_calls_is_part_of_its_turn(
    call_inner: Callable[..., Awaitable[Any]], runtime: Runtime
) -> None:
    result = await called(_nested(persisted, call_inner), "outer", {"prompt": "a"}, {})
    assert text_of(result) == f"outer got 'inner a {result['_meta']['perdure/continuation-id']}'"
    [turn] = kept(runtime)
    assert (turn.tool, turn.outcome) == ("outer", Outcome.ANSWERED)


@pytest.mark.parametrize("call_inner", [_directly, _directly_by_name])
async def test_a_persisted_function_that_a_bare_tool_calls_behaves_as_if_bare(
    call_inner: Callable[..., Awaitable[Any]], runtime: Runtime
) -> None:
    result = await called(_nested(bare, call_inner), "outer", {"prompt": "a"})
    assert text_of(result) == "outer got 'inner a None'"
    assert kept(runtime) == []


@pytest.mark.parametrize("through_the_server", [False, True], ids=["directly", "through the server"])
async def test_a_persisted_tool_that_calls_itself_is_one_turn(through_the_server: bool, runtime: Runtime) -> None:
    mcp = MCPServer("recursive")

    @mcp.tool()
    @persisted
    async def count(number: int, ctx: Context) -> int:
        if number == 0:
            return 0
        if not through_the_server:
            return 1 + await count(number - 1, ctx=ctx)
        result = await mcp.call_tool("count", {"number": number - 1}, ctx)
        assert isinstance(result, CallToolResult)
        return 1 + int(result.structured_content["result"])  # type: ignore[index]

    assert text_of(await called(mcp, "count", {"number": 3})) == "3"
    [turn] = kept(runtime)
    assert turn.arguments == {"number": 3}


async def test_a_tool_that_a_body_calls_through_the_server_is_part_of_its_turn(runtime: Runtime) -> None:
    async def without_context(mcp: MCPServer, inner: Any, prompt: str, ctx: Context) -> Any:
        result = await mcp.call_tool("inner", {"text": prompt})
        assert isinstance(result, CallToolResult)
        return result.content[0].text if isinstance(result.content[0], TextContent) else None

    result = await called(_nested(persisted, without_context), "outer", {"prompt": "a"})
    [turn] = kept(runtime)
    assert turn.tool == "outer"
    assert text_of(result) == f"outer got 'inner a {turn.continuation_id}'"


async def test_a_tool_called_through_the_server_outside_of_any_request_is_a_turn(runtime: Runtime) -> None:
    mcp = MCPServer("direct")

    @mcp.tool()
    @persisted
    async def chat(prompt: str) -> str:
        return prompt

    await mcp.call_tool("chat", {"prompt": "a"})
    [turn] = kept(runtime)
    assert (turn.tool, turn.prompt, turn.principal) == ("chat", "a", "local")


@pytest.mark.parametrize("value", [b"\xff\xfe", float("nan"), "\ud800", {1: (2,)}], ids=repr)
async def test_a_call_through_the_server_may_carry_values_that_json_has_not(value: Any, runtime: Runtime) -> None:
    mcp = MCPServer("values")

    @mcp.tool()
    @persisted
    async def show(value: Any) -> str:
        return ascii(value)

    result = await mcp.call_tool("show", {"value": value})
    assert isinstance(result, CallToolResult)
    assert result.content[0] == TextContent(type="text", text=ascii(value))


@pytest.mark.parametrize(
    "shape", [shape for shape in SHAPES if shape.name.startswith("returns_")], ids=lambda shape: shape.name
)
async def test_a_call_through_the_server_gives_python_what_the_bare_tool_gives(shape: Shape, runtime: Runtime) -> None:
    """Its author may look into the result without ever sending it."""
    plain, server = shape.server(bare), shape.server(persisted)
    [tool] = await plain.list_tools()
    expected = await plain.call_tool(tool.name, shape.arguments)
    result = await server.call_tool(tool.name, shape.arguments)
    assert isinstance(expected, CallToolResult)
    assert isinstance(result, CallToolResult)
    assert result.content[: len(expected.content)] == expected.content
    structured = result.structured_content
    if isinstance(structured, dict) and "continuation_id" not in (expected.structured_content or {}):
        structured = {name: value for name, value in structured.items() if name != "continuation_id"}
    assert structured == expected.structured_content
    assert result.is_error == expected.is_error


# ── beside other decorators ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_decorator_above_gets_the_handlers_own_value(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    def louder(function: Callable[..., Awaitable[str]]) -> Callable[..., Awaitable[str]]:
        @functools.wraps(function)
        async def inner(*args: Any, **kwargs: Any) -> str:
            return (await function(*args, **kwargs)).upper()

        return inner

    mcp = MCPServer("stacked")

    @mcp.tool()
    @louder
    @persisted
    async def chat(prompt: str) -> str:
        return f"said {prompt}"

    with caplog.at_level(logging.WARNING, logger="perdure"):
        result = await called(mcp, "chat", {"prompt": "a"})
    assert text_of(result) == "SAID A"
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.ANSWERED
    assert "directly below @mcp.tool()" in caplog.text


async def test_one_handler_serves_two_servers_and_two_names(runtime: Runtime) -> None:
    @persisted
    async def chat(prompt: Annotated[str, Field(min_length=1)]) -> str:
        return prompt

    first, second = MCPServer("first"), MCPServer("second")
    first.add_tool(chat, name="talk")
    first.add_tool(chat, name="speak")
    second.add_tool(chat)
    for server, name in ((first, "talk"), (first, "speak"), (second, "chat")):
        assert text_of(await called(server, name, {"prompt": name})) == name
    assert [turn.tool for turn in kept(runtime)] == ["talk", "speak", "chat"]
