"""Many calls at once, and what a call says while it runs."""

import asyncio
import time

import pytest
from seams.suite.acting_tools import acting, waiting
from seams.worlds.world import Limit, World
from wire_form import announced_id, text_of

CALLS = 12


@pytest.mark.parametrize("tool", ["slowly", "slowly_plainly"])
async def test_calls_at_once_in_one_conversation_have_places_in_a_row_and_answers_beside_their_prompts(
    tool: str, world: World
) -> None:
    settings = {"defaults": {"history": "none"}}
    async with world.serve(waiting, settings) as client:
        arguments = [{"prompt": str(number), "continuation_id": "c"} for number in range(CALLS)]
        results = await asyncio.gather(*(client.call_tool(tool, each) for each in arguments))
    assert [text_of(result) for result in results] == [f"<{number}>" for number in range(CALLS)]
    turns = world.turns()
    assert [turn.place for turn in turns] == list(range(1, CALLS + 1))
    for turn in turns:
        assert turn.answer is not None
        assert turn.answer.text.startswith(f"<{turn.prompt}>")


async def test_calls_at_once_that_name_no_conversation_begin_one_each(world: World) -> None:
    async with world.serve(waiting) as client:
        results = await asyncio.gather(*(client.call_tool("slowly", {"prompt": "a"}) for _ in range(CALLS)))
    assert len({announced_id(result) for result in results}) == CALLS


@pytest.mark.parametrize("tool", ["slowly", "slowly_plainly"])
async def test_calls_run_beside_each_other_as_before(tool: str, world: World) -> None:
    seconds = 0.3
    async with world.serve(waiting) as client:
        started = time.monotonic()
        await asyncio.gather(*(client.call_tool(tool, {"prompt": "a", "seconds": seconds}) for _ in range(4)))
        took = time.monotonic() - started
    in_a_row = tool == "slowly_plainly" and world.has(Limit.SYNC_ON_THE_EVENT_LOOP)
    assert (took >= 4 * seconds) is in_a_row


@pytest.mark.in_this_process
async def test_two_clients_of_one_server_have_conversations_in_common(world: World) -> None:
    with world.running():
        server = world.server(waiting)
        async with world.kind.connect(server) as one, world.kind.connect(server) as other:
            await one.call_tool("slowly", {"prompt": "a", "continuation_id": "c"})
            result = await other.call_tool("slowly", {"prompt": "b", "continuation_id": "c"})
    assert result["_meta"]["perdure/history"]["turns"] == 1


async def test_progress_of_the_tool_reaches_the_client_as_before(world: World) -> None:
    async def told(of: World) -> list[tuple[float, str | None]]:
        heard: list[tuple[float, str | None]] = []
        async with of.serve(acting) as client:
            await client.call_tool("work", {}, on_progress=lambda progress, message: heard.append((progress, message)))
        return heard

    assert await told(world) == await told(world.bare) == [(1, "step 1"), (2, "step 2"), (3, "step 3")]


async def test_meta_of_the_request_reaches_the_tool(world: World) -> None:
    async with world.serve(acting) as client:
        result = await client.call_tool("meta", {}, meta={"own/key": "value"})
    assert result["structuredContent"]["own/key"] == "value"
