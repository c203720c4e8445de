"""A call of several legs (`InputRequiredResult`, protocol 2026-07-28) is one turn of one conversation."""

import asyncio
import base64
import json
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest
from conftest import Activate
from legs.asking import ASKING, BARE, Booking, Make, answer, book_with, leg
from mcp import Client
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.resolve import Elicit, Resolve
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitResult, InputRequiredResult
from mcp_wire import Json, announced_id, kept, text_of, wire, without_announcement
from pydantic import BaseModel

from perdure import Outcome, install, persisted
from perdure.middleware.meta_keys import META_IDEMPOTENCY_KEY
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.turn import FinishedTurn, Turn
from perdure.middleware.persistence.wiring import Runtime
from perdure.middleware.request_state import STAYS_OPEN
from perdure.settings import ToolSettings
from perdure.testing import FaultyStore, FrozenClock

every_way = pytest.mark.parametrize("make", ASKING.values(), ids=ASKING.keys())
signed = pytest.mark.parametrize(
    "make", [ASKING[way] for way in ("low-level, named", "class-based", "class-based, installed")]
)
"""The ways in which the SDK seals nothing."""


async def _whole_call(make: Make, booking: Booking, **more: Any) -> tuple[Json, list[Json]]:
    """Every leg by a client of its own, as for a server without sessions: the final result, and the questions."""
    server, asked, state, text = make(booking), [], None, None
    while True:
        async with Client(server) as client:
            result = await book_with(client)(state=state, text=text, **more)
        if result.get("resultType") != "input_required":
            return result, asked
        asked.append(result)
        state, text = result.get("requestState"), f"answer {len(asked)}"


# ── one turn ─────────────────────────────────────────────────────────────────────────────────────────────────────


@every_way
async def test_all_legs_are_one_turn_in_one_conversation(make: Make, runtime: Runtime) -> None:
    booking = Booking()
    result, asked = await _whole_call(make, booking)
    assert len(asked) == 2
    [turn] = kept(runtime)
    assert (turn.prompt, turn.outcome, turn.place) == ("trip", Outcome.ANSWERED, 1)
    assert turn.answer is not None
    assert turn.answer.text == "booked trip answer 2"
    assert result["_meta"]["perdure/turn-id"] == turn.id
    assert announced_id(result) == turn.continuation_id
    assert result["_meta"]["perdure/persisted"] is True
    assert "perdure/fault" not in result["_meta"]
    assert booking.turn_ids == [turn.id] * 3


@every_way
async def test_the_tool_gets_its_own_state_back_and_the_client_the_tools_own_questions(
    make: Make, runtime: Runtime
) -> None:
    booking = Booking()
    result, asked = await _whole_call(make, booking)
    expected, bare_asked = await _whole_call(BARE, bare := Booking())
    assert booking.states == bare.states == [None, "s", "ss"]
    assert text_of(without_announcement(result)) == text_of(expected)
    for question, bare_question in zip(asked, bare_asked, strict=True):
        for name in ("inputRequests", "resultType"):
            assert question[name] == bare_question[name]
        assert set(question) - {"_meta"} == set(bare_question) - {"_meta"}


@every_way
async def test_a_tool_without_a_state_of_its_own_still_has_none(make: Make, runtime: Runtime) -> None:
    booking = Booking(stateless=True, questions=1)
    await _whole_call(make, booking)
    assert booking.states == [None, None]
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.ANSWERED


@every_way
async def test_every_leg_sees_the_history_of_the_first_and_the_record_only_the_prompt(
    make: Make, runtime: Runtime
) -> None:
    booking = Booking()
    server = make(booking)
    async with Client(server) as client:
        await book_with(client)("plain", continuation_id="mine")
    await _whole_call(make, booking, continuation_id="mine")
    assert booking.histories == [[], ["plain"], ["plain"], ["plain"]]
    assert len(set(booking.prompts[1:])) == 1
    assert [(turn.prompt, turn.place) for turn in kept(runtime)] == [("plain", 1), ("trip", 2)]


@every_way
async def test_the_client_of_the_sdk_drives_the_legs_by_itself(make: Make, runtime: Runtime) -> None:
    async def elicited(_context: Any, _params: Any) -> ElicitResult:
        return answer("yes")

    async with Client(make(Booking()), elicitation_callback=elicited) as client:
        result = await client.call_tool("book", {"prompt": "trip"})
        identity = announced_id(wire(result))
        again = await client.call_tool("book", {"prompt": "back", "continuation_id": identity})
    assert text_of(wire(result)) == "booked trip yes"
    assert wire(again)["_meta"]["perdure/history"]["turns"] == 1
    assert [turn.place for turn in kept(runtime)] == [1, 2]


@every_way
async def test_the_conversations_of_other_calls_are_begun_between_the_legs(make: Make, runtime: Runtime) -> None:
    booking = Booking(questions=1)
    async with Client(make(booking)) as client:
        send = book_with(client)
        first = await send(continuation_id="mine")
        await send("plain", continuation_id="mine")
        await send(state=first["requestState"], text="late", continuation_id="mine")
    assert booking.histories == [[], [], []]
    assert [(turn.prompt, turn.place, turn.outcome) for turn in kept(runtime)] == [
        ("trip", 1, Outcome.ANSWERED),
        ("plain", 2, Outcome.ANSWERED),
    ]


async def test_a_tool_with_resolved_parameters_is_one_turn_for_decorator_and_hook(runtime: Runtime) -> None:
    class Seat(BaseModel):
        row: int

    async def ask(prompt: str) -> Elicit[Seat]:
        return Elicit(f"Which row for {prompt}?", Seat)

    def make(persist: Any) -> MCPServer:
        mcp = MCPServer("resolving")

        @mcp.tool()
        @persist
        async def book(prompt: str, seat: Annotated[Seat, Resolve(ask)]) -> str:
            return f"{prompt} {seat.row}"

        return mcp

    async def elicited(_context: Any, _params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"row": 7})

    hooked = make(lambda handler: handler)
    install(hooked, tools=["book"])
    for number, server in enumerate([make(persisted), hooked], start=1):
        async with Client(server, elicitation_callback=elicited) as client:
            result = await client.call_tool("book", {"prompt": "trip"})
        assert result.content[0].text == "trip 7"  # type: ignore[union-attr]
        assert [turn.outcome for turn in kept(runtime)] == [Outcome.ANSWERED] * number


async def test_files_of_the_answer_are_kept_once(activate: Activate, tmp_path: Path) -> None:
    runtime = activate(tools={"book": ToolSettings(file_roots=(tmp_path,))})
    ticket = tmp_path / "ticket.txt"
    ticket.write_text("one way")
    mcp = MCPServer("asking")

    @mcp.tool()
    @persisted
    async def book(prompt: str, ctx: Context) -> str | InputRequiredResult:
        if not ctx.input_responses:
            return Booking()("trip", None, None)
        return str(ticket)

    async with Client(mcp) as client:
        asked = await book_with(client)()
        result = await book_with(client)(state=asked["requestState"], text="yes")
    assert text_of(result).startswith("storage://")
    assert [file.version for file in runtime.engine.files("local")] == [1]


# ── how it can end otherwise ─────────────────────────────────────────────────────────────────────────────────────


@every_way
async def test_a_call_that_nobody_goes_on_with_is_running_until_its_lease_is_over_and_interrupted_then(
    make: Make, activate: Activate
) -> None:
    async def elicited(_context: Any, _params: Any) -> ElicitResult:
        raise AssertionError("the legs are driven by hand")

    clock = FrozenClock()
    runtime = activate(clock=clock)
    async with Client(make(Booking()), elicitation_callback=elicited) as client:
        await book_with(client)()
    [turn] = kept(runtime)
    assert (turn.outcome, turn.answer) == (Outcome.RUNNING, None)
    assert runtime.engine.running.count == 0  # no process of ours runs it now
    clock.advance(timedelta(minutes=59))  # a person may have to think
    assert kept(runtime)[0].outcome is Outcome.RUNNING
    clock.advance(timedelta(minutes=2))
    assert kept(runtime)[0].outcome is Outcome.INTERRUPTED


@every_way
async def test_a_lease_that_cannot_be_had_for_a_question_keeps_neither_it_nor_its_answer_from_anybody(
    make: Make, activate: Activate, caplog: pytest.LogCaptureFixture
) -> None:
    store = FaultyStore(MemoryStore())
    runtime = activate(store)
    store.fail("renew")
    await _whole_call(make, Booking())
    assert [turn.outcome for turn in kept(runtime)] == [Outcome.ANSWERED]
    assert "turn.lease_not_renewed" in caplog.text


@every_way
async def test_a_leg_that_fails_ends_the_turn_and_another_answer_is_a_turn_of_the_same_conversation(
    make: Make, runtime: Runtime
) -> None:
    async with Client(make(Booking(questions=1))) as client:
        send = book_with(client)
        asked = await send()
        failed = await send(state=asked["requestState"], text="refuse")
        assert failed["isError"] is True
        result = await send(state=asked["requestState"], text="better")
    first, second = kept(runtime)
    assert (first.outcome, second.outcome) == (Outcome.FAILED, Outcome.ANSWERED)
    assert first.continuation_id == second.continuation_id == announced_id(result)
    assert result["_meta"]["perdure/turn-id"] == second.id


@every_way
async def test_the_last_leg_sent_again_for_a_lost_reply_is_still_one_turn(make: Make, runtime: Runtime) -> None:
    async with Client(make(Booking(questions=1))) as client:
        send = book_with(client)
        asked = await send()
        results = [await send(state=asked["requestState"], text="yes") for _ in range(3)]
        results += await asyncio.gather(*(send(state=asked["requestState"], text="yes") for _ in range(5)))
    [turn] = kept(runtime)
    assert {result["_meta"]["perdure/turn-id"] for result in results} == {turn.id}


@every_way
async def test_an_idempotency_key_that_comes_with_every_leg_refuses_none_and_gives_the_answer_again(
    make: Make, activate: Activate
) -> None:
    runtime = activate(defaults=ToolSettings(replay=True))
    booking = Booking(questions=1)
    async with Client(make(booking)) as client:
        send = partial(leg, client, {"prompt": "trip"}, meta={META_IDEMPOTENCY_KEY: "trip 7"})
        asked = await send()
        results = [await send(state=asked["requestState"], text="yes") for _ in range(2)]
    assert [text_of(result) for result in results] == ["booked trip yes"] * 2
    [turn] = kept(runtime)
    assert (turn.outcome, len(booking.states)) == (Outcome.ANSWERED, 2)


@every_way
async def test_a_tool_that_was_switched_off_between_the_legs_gets_its_own_state(make: Make, activate: Activate) -> None:
    booking = Booking(questions=1)
    server = make(booking)
    activate()
    async with Client(server) as client:
        asked = await book_with(client)()
        activate(tools={"book": ToolSettings(enabled=False)})
        result = await book_with(client)(state=asked["requestState"], text="yes")
    assert text_of(result) == "booked trip yes"
    assert booking.states == [None, "s"]


@every_way
async def test_with_the_store_away_on_one_leg_the_call_is_one_turn_all_the_same(make: Make, activate: Activate) -> None:
    for broken_on in (1, 2):
        store = FaultyStore(MemoryStore())
        runtime = activate(store)
        async with Client(make(Booking(questions=1))) as client:
            if broken_on == 1:
                store.fail("begin")
            asked = await book_with(client)()
            store.heal()
            if broken_on == 2:
                store.fail("begin")
            result = await book_with(client)(state=asked["requestState"], text="yes")
        [turn] = kept(runtime)
        assert (turn.outcome, turn.place) == (Outcome.ANSWERED, 1)
        assert announced_id(result) == turn.continuation_id


@every_way
async def test_a_history_that_cannot_be_read_on_a_later_leg_is_unavailable_and_never_empty(
    make: Make, activate: Activate
) -> None:
    """Though only the first leg named the conversation."""
    store = FaultyStore(_Noting())
    runtime = activate(store)
    async with Client(make(Booking(questions=1))) as client:
        await book_with(client)("plain", continuation_id="mine")
        first = await client.session.call_tool(
            "book", {"prompt": "trip"}, meta={"perdure/continuation-id": "mine"}, allow_input_required=True
        )
        store.fail("begin")
        result = await book_with(client)(state=wire(first)["requestState"], text="yes")
    assert result["_meta"]["perdure/history"]["state"] == "unavailable"
    assert result["_meta"]["perdure/persisted"] is True
    assert announced_id(result) == "mine"
    assert [turn.prompt for turn in kept(runtime)] == ["plain", "trip"]
    assert isinstance(store.inner, _Noting)
    # It has its place from the first leg: for no store is it one that comes late.
    assert [(turn.place, turn.deferred) for turn in store.inner.finished] == [(1, False), (2, False)]


class _Noting(MemoryStore):
    """Notes how the turns come that are finished."""

    def __init__(self) -> None:
        super().__init__()
        self.finished: list[Turn] = []

    def finish(self, turn: Turn) -> FinishedTurn:
        self.finished.append(turn)
        return super().finish(turn)


# ── whose envelope ───────────────────────────────────────────────────────────────────────────────────────────────


def _altered(token: str) -> list[str]:
    """Every way to change one part of it, and to put together two."""
    *start, known, state, tag = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(known + "=" * (-len(known) % 4)))

    def with_claims(**changed: Any) -> str:
        text = base64.urlsafe_b64encode(json.dumps(claims | changed).encode()).decode().rstrip("=")
        return ".".join([*start, text, state, tag])

    return [
        with_claims(conversation="theirs"),
        with_claims(turn="00000000-0000-7000-8000-000000000000"),
        with_claims(expires=9e12),
        ".".join([*start, known, "c3M", tag]),
        ".".join([*start, known, state, tag[:-1]]),
        ".".join([*start, known, state, tag + "="]),
        ".".join([*start, known, state, ""]),
        ".".join([*start, "", state, ""]),
    ]


@signed
async def test_an_altered_envelope_gives_access_to_nothing_and_the_tool_is_called_all_the_same(
    make: Make, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    booking = Booking(questions=1)
    async with Client(make(booking)) as client:
        send = book_with(client)
        await send("plain", continuation_id="theirs")
        asked = await send()
        for forged in _altered(asked["requestState"]):
            result = await send(state=forged, text="yes")
            assert text_of(result) == "booked trip yes"
            assert result["_meta"]["perdure/fault"] == "request_state_refused"
            assert announced_id(result) != "theirs"
            assert result["_meta"]["perdure/history"]["turns"] == 0
    assert len([turn for turn in kept(runtime) if turn.continuation_id == "theirs"]) == 1
    assert "request_state_key" in caplog.text


@signed
@pytest.mark.parametrize("other", ["arguments", "key", "age"])
async def test_an_envelope_counts_only_for_its_own_call_its_own_key_and_its_own_day(
    make: Make, other: str, activate: Activate
) -> None:
    clock = FrozenClock()
    store = MemoryStore(clock)
    runtime = activate(store, clock=clock, request_state_key="a" * 32)
    async with Client(make(Booking(questions=1))) as client:
        send = book_with(client)
        asked = await send()
        prompt = "trip"
        match other:
            case "arguments":
                prompt = "other trip"
            case "key":
                runtime = activate(store, clock=clock, request_state_key="b" * 32)
            case "age":
                clock.advance(STAYS_OPEN)
        result = await send(prompt, state=asked["requestState"], text="yes")
    assert text_of(result) == f"booked {prompt} yes"
    assert result["_meta"]["perdure/fault"] == "request_state_refused"
    turns = {turn.outcome: turn for turn in kept(runtime)}
    open_turn, own = turns.pop(Outcome.RUNNING if other != "age" else Outcome.INTERRUPTED), turns.pop(Outcome.ANSWERED)
    assert turns == {}
    assert own.continuation_id != open_turn.continuation_id


@signed
async def test_an_envelope_in_the_hands_of_another_principal_is_none(make: Make, activate: Activate) -> None:
    store = MemoryStore()
    server = make(Booking(questions=1))
    activate(store, user_id="alice", request_state_key="a" * 32)
    async with Client(server) as client:
        asked = await book_with(client)()
    runtime = activate(store, user_id="mallory", request_state_key="a" * 32)
    async with Client(server) as client:
        await book_with(client)(state=asked["requestState"], text="yes")
    by = {turn.principal: turn for turn in kept(runtime)}
    assert by["alice"].answer is None
    assert by["mallory"].continuation_id != by["alice"].continuation_id


@signed
async def test_an_envelope_with_the_tag_that_only_the_sdks_seal_protects_is_none_where_there_is_no_seal(
    make: Make, runtime: Runtime
) -> None:
    """The key that stands in for the seal is in our source: anybody has it."""
    from perdure.middleware.request_state import SEALED_BY_SDK, Binding, OpenTurn, wrapped

    now = runtime.engine.clock.now()
    turn = OpenTurn(
        id="00000000-0000-7000-8000-000000000000",
        continuation_id="theirs",
        minted=False,
        continues=True,
        started_at=now,
        place=1,
    )
    binding = Binding(principal="local", tool="book", arguments={"prompt": "trip"})
    async with Client(make(Booking(questions=1))) as client:
        await book_with(client)("plain", continuation_id="theirs")
        result = await book_with(client)(state=wrapped("s", turn, binding, SEALED_BY_SDK, now), text="yes")
    assert announced_id(result) != "theirs"


async def test_where_the_sdk_seals_its_own_refusal_stands(runtime: Runtime) -> None:
    async with Client(ASKING["named"](Booking(questions=1))) as client:
        asked = await book_with(client)()
        with pytest.raises(MCPError, match="requestState"):
            await book_with(client)("other", state=asked["requestState"], text="yes")


async def test_where_the_sdk_seals_no_key_is_made(runtime: Runtime) -> None:
    await _whole_call(ASKING["named"], Booking())
    await _whole_call(ASKING["decorated"], Booking())
    assert not list(runtime.own_folder.glob("*.key"))
    await _whole_call(ASKING["low-level, named"], Booking())
    [key] = runtime.own_folder.glob("*.key")
    assert key.stat().st_mode & 0o777 == 0o600


async def test_a_key_that_cannot_be_kept_holds_for_the_life_of_the_process_and_is_told_of(
    activate: Activate, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    runtime = activate(data_dir=tmp_path / "file" / "under it")
    await _whole_call(ASKING["low-level, named"], Booking())
    assert [turn.outcome for turn in kept(runtime)] == [Outcome.ANSWERED]
    assert "PERDURE_REQUEST_STATE_KEY" in caplog.text


async def test_a_state_that_is_not_ours_reaches_the_tool_as_it_is(runtime: Runtime) -> None:
    for state in ("s", "perdure.1.", "perdure.1.a.b", "perdure.1.a.b.c.d", "perdure.2.a.b.c"):
        booking = Booking(questions=1)
        async with Client(ASKING["low-level, named"](booking)) as client:
            await book_with(client)(state=state, text="yes")
        assert booking.states == [state]


async def test_a_middleware_of_the_servers_own_that_stands_further_in_sees_the_tools_own_state(
    runtime: Runtime,
) -> None:
    seen: list[Any] = []

    async def look(ctx: Any, call_next: Any) -> Any:
        if ctx.method == "tools/call":
            seen.append((ctx.params or {}).get("requestState"))
        return await call_next(ctx)

    server = ASKING["low-level, named"](Booking(questions=1))
    server.middleware.append(look)
    async with Client(server) as client:
        asked = await book_with(client)()
        await book_with(client)(state=asked["requestState"], text="yes")
    assert seen == [None, "s"]
