"""Calls that do not end well: the client gets what it gets without perdure, and the record says what happened."""

import asyncio
from pathlib import Path

import pytest
from seams.suite.acting_tools import acting, waiting
from seams.worlds.world import CallRefused, Json, Limit, World
from wire_form import text_of, without_announcement

from perdure import Outcome


async def _asked_of_both(world: World, tool: str, arguments: Json) -> tuple[Json, Json]:
    """The results without and with perdure, the latter less what perdure adds."""
    async with world.bare.serve(acting) as client:
        expected = await client.call_tool(tool, arguments)
    async with world.serve(acting) as client:
        result = await client.call_tool(tool, arguments)
    announced = "perdure/turn-id" in result.get("_meta", {})
    return expected, without_announcement(result) if announced else result


@pytest.mark.parametrize("tool", ["crash", "crash_plainly"])
async def test_a_crash_reaches_the_client_as_before_and_the_record_with_its_words(tool: str, world: World) -> None:
    expected, result = await _asked_of_both(world, tool, {"prompt": "Ann"})
    assert result == expected
    assert result["isError"]
    assert ("the secret of Ann" in text_of(result)) is world.has(Limit.CRASH_TEXT_IS_SENT)
    [turn] = world.turns()
    assert turn.outcome is Outcome.FAILED
    assert turn.answer is not None
    kept = str(turn.answer.error or turn.answer.result)
    assert ("the secret of Ann" in kept) is not world.has(Limit.CRASH_TEXT_IS_LOST)


@pytest.mark.parametrize("tool", ["refuse", "fail"])
async def test_what_a_tool_refuses_in_words_reaches_client_and_record_alike(tool: str, world: World) -> None:
    expected, result = await _asked_of_both(world, tool, {"prompt": "now"})
    assert result == expected
    [turn] = world.turns()
    assert turn.outcome is Outcome.FAILED
    assert turn.answer is not None
    assert "not now" in str(turn.answer.error or turn.answer.result)


async def test_an_error_of_the_protocol_stays_one_and_is_recorded_as_a_failure(world: World) -> None:
    if world.has(Limit.NO_PROTOCOL_ERROR):
        expected, result = await _asked_of_both(world, "pay", {"prompt": "a"})
        assert result == expected
        assert "pay first" in text_of(result)
    else:
        async with world.serve(acting) as client:
            with pytest.raises(CallRefused) as refused:
                await client.call_tool("pay", {"prompt": "a"})
        assert (refused.value.code, refused.value.message) == (-32042, "pay first")
    [turn] = world.turns()
    assert turn.outcome is Outcome.FAILED


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # an error in tests, and in no server
async def test_a_result_that_its_own_schema_refuses_is_an_error_as_before(world: World) -> None:
    if world.has(Limit.RESULTS_ARE_NOT_CHECKED):
        for of in (world.bare, world):
            async with of.serve(acting) as client:
                with pytest.raises(RuntimeError, match="Invalid structured content"):
                    await client.call_tool("counts", {})
        outcome = Outcome.ANSWERED
    else:
        expected, result = await _asked_of_both(world, "counts", {})
        assert result == expected
        assert result["isError"]
        outcome = Outcome.FAILED
    [turn] = world.turns()
    assert turn.outcome is outcome


@pytest.mark.parametrize("arguments", [{}, {"prompt": 3}, {"prompt": []}], ids=str)
async def test_arguments_that_do_not_fit_are_refused_in_the_same_words(arguments: Json, world: World) -> None:
    expected, result = await _asked_of_both(world, "fail", arguments)
    assert result == expected
    assert all(turn.outcome is Outcome.FAILED for turn in world.turns())


async def test_a_tool_that_does_not_exist_is_refused_in_the_same_words_and_is_nobodys_turn(world: World) -> None:
    async def words(of: World) -> str:
        async with of.serve(acting) as client:
            try:
                return str(await client.call_tool("nothing", {}))
            except CallRefused as refused:
                return refused.message

    assert await words(world) == await words(world.bare)
    assert world.turns() == []


async def _until(path: Path) -> None:
    while not path.exists():
        await asyncio.sleep(0.01)


async def test_a_call_that_its_client_cancels_is_cancelled_in_the_tool_and_recorded_as_that(
    world: World, tmp_path: Path
) -> None:
    marker = tmp_path / "cancelled"
    async with world.serve(waiting, alone=True) as client:
        await client.give_up("wait", {"marker": str(marker)}, lambda: _until(marker.with_name("cancelled.begun")))
        await asyncio.wait_for(_until(marker.with_name("cancelled.cancelled")), 10)
        result = await client.call_tool("slowly", {"prompt": "still here"})  # the server has lived through it
    assert text_of(result) == "<still here>"
    [cancelled] = [turn for turn in world.turns() if turn.tool == "wait"]
    assert cancelled.outcome is Outcome.CANCELLED


async def test_a_call_under_way_when_the_connection_ends_is_recorded_as_cancelled(world: World, tmp_path: Path) -> None:
    marker = tmp_path / "closed"
    async with world.serve(waiting, alone=True) as client:
        call = asyncio.ensure_future(client.call_tool("wait", {"marker": str(marker)}))
        await asyncio.wait_for(_until(marker.with_name("closed.begun")), 10)
        call.cancel()
    with pytest.raises((asyncio.CancelledError, CallRefused)):
        await call
    [turn] = world.turns()
    assert turn.outcome is Outcome.CANCELLED


async def test_a_call_that_its_client_no_longer_waits_for_is_kept_with_how_it_ended(
    world: World, tmp_path: Path
) -> None:
    marker = tmp_path / "late"
    async with world.serve(waiting, alone=True) as client:
        with pytest.raises(CallRefused):
            await client.call_tool("wait", {"marker": str(marker)}, timeout=0.3)
        marker.with_name("late.go-on").touch()
        await client.call_tool("slowly", {"prompt": "a", "seconds": 0.1})
    [turn] = [turn for turn in world.turns() if turn.tool == "wait"]
    # Some clients tell the server that they have given up.
    assert turn.outcome in (Outcome.ANSWERED, Outcome.CANCELLED)
