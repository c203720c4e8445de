"""What perdure adds to a call is counted in functions of its own that run: a clock would measure the machine."""

import functools
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from mcp import Client
from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel, field_serializer

import perdure
from perdure import install, persisted
from perdure.middleware.persistence import wiring
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.settings import Settings, ToolSettings

OURS = str(Path(perdure.__file__).parent)

MADE = "<made for "
"""How the file names begin of functions that `quick_values` writes."""

WARM_UP = 5

COUNTED = 3
"""Calls, of which the one with the fewest functions counts: now and then one has to do what serves many, such as to
make ids, or to look whether OpenTelemetry is there, once a second."""


@contextmanager
def counting(names: list[str]) -> Iterator[None]:
    """Into `names` goes each function of perdure's that is called meanwhile."""

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event != "call":
            return
        code = frame.f_code
        if code.co_filename.startswith(OURS):
            names.append(code.co_qualname)
        elif code.co_filename.startswith(MADE):
            names.append(f"{code.co_filename.removeprefix(MADE).removesuffix('>')}.{code.co_name}")

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)


async def called(handler: Callable[..., Any], runtime: wiring.Runtime, *, hooked: bool = False) -> list[str]:
    """The functions of perdure's that run in one call, when others have come before."""
    server = MCPServer("counted", log_level="ERROR")
    server.tool(name="chat")(handler)
    if hooked:
        install(server, tools=["chat"])
    each: list[list[str]] = [[] for _ in range(COUNTED)]
    with wiring.activated(runtime):
        async with Client(server) as client:
            for _ in range(WARM_UP):
                await client.call_tool("chat", {"prompt": "warm"})
            for names in each:
                with counting(names):
                    result = await client.call_tool("chat", {"prompt": "counted"})
                assert not result.is_error
    return min(each, key=len)


async def chat(prompt: str) -> str:
    return f"answered {prompt}"


WAYS: dict[str, tuple[Callable[..., Any], bool]] = {"decorated": (persisted(chat), False), "installed": (chat, True)}
"""The handler, and whether a hook stands before its server."""

MOST_FUNCTIONS = {"decorated": 116, "installed": 106}


def in_memory(folder: Path, **settings: Any) -> wiring.Runtime:
    return wiring.build(Settings(data_dir=folder, **settings), store=MemoryStore())


@pytest.mark.parametrize("way", WAYS)
async def test_a_persisted_call_runs_few_functions_and_copies_its_turn_seldom(way: str, tmp_path: Path) -> None:
    handler, hooked = WAYS[way]
    names = await called(handler, in_memory(tmp_path), hooked=hooked)
    assert names.count("PersistedCall.announce") == 1
    assert sum(name.startswith("Turn.") and name not in ("Turn.made", "Turn.is_new") for name in names) <= 6
    assert len(names) <= MOST_FUNCTIONS[way], names


async def left_to_the_collector(handler: Callable[..., Any], runtime: wiring.Runtime, *, hooked: bool = False) -> float:
    """The objects that one call leaves behind, and that refer to one another in a circle."""
    server = MCPServer("collected", log_level="ERROR")
    server.tool(name="chat")(handler)
    if hooked:
        install(server, tools=["chat"])
    with wiring.activated(runtime):
        async with Client(server) as client:
            for _ in range(WARM_UP):
                await client.call_tool("chat", {"prompt": "warm"})
            gc.collect()
            gc.disable()
            try:
                for _ in range(20):
                    await client.call_tool("chat", {"prompt": "counted"})
                return gc.collect() / 20
            finally:
                gc.enable()


@pytest.mark.parametrize("way", WAYS)
async def test_a_persisted_call_leaves_no_more_to_the_garbage_collector_than_a_bare_one(
    way: str, tmp_path: Path
) -> None:
    handler, hooked = WAYS[way]
    bare = await left_to_the_collector(chat, in_memory(tmp_path))
    assert await left_to_the_collector(handler, in_memory(tmp_path), hooked=hooked) < bare + 2


async def test_the_sdk_makes_the_result_of_a_decorated_tools_value_once(tmp_path: Path) -> None:
    made: list[str] = []

    class Said(BaseModel):
        text: str

        @field_serializer("text")
        def written(self, text: str) -> str:
            made.append(text)
            return text

    async def chat(prompt: str) -> Said:
        return Said(text=prompt)

    async def written(handler: Callable[..., Any]) -> int:
        made.clear()
        await called(handler, in_memory(tmp_path))
        return len(made)

    chat.__annotations__ = {"prompt": str, "return": Said}
    assert 0 < await written(persisted(chat)) == await written(chat)


async def test_a_switched_off_tools_call_runs_four_functions(tmp_path: Path) -> None:
    decorated = persisted(chat)
    names: list[str] = []

    @functools.wraps(decorated)
    async def spied(**given: Any) -> Any:
        await decorated(**given)
        with counting(names):
            return await decorated(**given)

    await called(spied, in_memory(tmp_path, tools={"chat": ToolSettings(enabled=False)}))
    each = len(names) // (WARM_UP + COUNTED)
    assert names[-each:] == names[:each]
    assert each <= 4, names[:each]


async def test_a_function_that_is_switched_off_under_one_name_is_kept_under_another(tmp_path: Path) -> None:
    decorated = persisted(chat)
    server = MCPServer("two names", log_level="ERROR")
    server.tool(name="off")(decorated)
    server.tool(name="on")(decorated)
    with wiring.activated(in_memory(tmp_path, tools={"off": ToolSettings(enabled=False)})) as runtime:
        async with Client(server) as client:
            for name in ("off", "on", "off", "on"):
                await client.call_tool(name, {"prompt": "hello"})
        kept = [runtime.engine.turns("local", line.continuation_id) for line in runtime.engine.conversations()]
    assert [turn.tool for turns in kept for turn in turns] == ["on", "on"]
