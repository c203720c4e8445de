"""Which conversation a call continues: what a client may send as an id, and that nothing it sends is an error."""

import os
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from conftest import Activate
from mcp.server.mcpserver import MCPServer
from mcp_wire import Json, announced_id, called, kept, listed, text_of

from perdure import Outcome, install, persisted
from perdure.middleware.persistence.turn import new_continuation_id
from perdure.middleware.persistence.wiring import Runtime

META = "perdure/continuation-id"


def _decorated() -> MCPServer:
    mcp = MCPServer("ids")

    @mcp.tool()
    @persisted
    async def chat(text: str) -> str:
        return text

    return mcp


def _sync() -> MCPServer:
    mcp = MCPServer("ids")

    @mcp.tool(name="chat")
    @persisted
    def chat_plainly(text: str) -> str:
        return text

    return mcp


def _hooked() -> MCPServer:
    mcp = MCPServer("ids")

    @mcp.tool()
    async def chat(text: str) -> str:
        return text

    install(mcp, tools=["chat"])
    return mcp


every_seam = pytest.mark.parametrize("make", [_decorated, _sync, _hooked])
Make = Callable[[], MCPServer]


async def _say(server: MCPServer, meta: Json | None = None, **arguments: Any) -> Json:
    result = await called(server, "chat", {"text": "a", **arguments}, meta=meta)
    assert not result["isError"], result
    assert text_of(result) == "a"
    assert result["_meta"]["perdure/persisted"] is True
    return result


def is_fresh(identity: str) -> bool:
    return UUID(identity).version == 4


@every_seam
async def test_without_an_id_a_conversation_is_begun_under_a_fresh_one(make: Make, runtime: Runtime) -> None:
    server = make()
    first, second = await _say(server), await _say(server)
    assert is_fresh(announced_id(first))
    assert announced_id(first) != announced_id(second)
    assert second["_meta"]["perdure/history"]["state"] == "new"


@every_seam
async def test_an_id_in_the_arguments_continues_its_conversation(make: Make, runtime: Runtime) -> None:
    server = make()
    identity = announced_id(await _say(server))
    again = await _say(server, continuation_id=identity)
    assert announced_id(again) == identity
    assert again["_meta"]["perdure/history"] == {"state": "loaded", "turns": 1, "omitted": 0}
    assert [turn.place for turn in kept(runtime)] == [1, 2]


@every_seam
async def test_an_id_in_meta_continues_its_conversation(make: Make, runtime: Runtime) -> None:
    server = make()
    identity = announced_id(await _say(server))
    again = await _say(server, {META: identity})
    assert announced_id(again) == identity
    assert again["_meta"]["perdure/history"]["turns"] == 1


@every_seam
async def test_of_two_ids_the_argument_wins(make: Make, runtime: Runtime) -> None:
    assert announced_id(await _say(make(), {META: "in-meta"}, continuation_id="in-argument")) == "in-argument"


@every_seam
@pytest.mark.parametrize("absent", [None, ""], ids=repr)
async def test_an_argument_that_says_nothing_leaves_it_to_meta(absent: Any, make: Make, runtime: Runtime) -> None:
    assert announced_id(await _say(make(), {META: "in-meta"}, continuation_id=absent)) == "in-meta"


@every_seam
async def test_an_unusable_argument_is_not_replaced_by_another_conversation(make: Make, runtime: Runtime) -> None:
    server = make()
    await _say(server, continuation_id="in-meta")
    result = await _say(server, {META: "in-meta"}, continuation_id="x" * 201)
    assert is_fresh(announced_id(result))


USABLE = {
    "chosen by the client": "my-project",
    "one character": "x",
    "as long as can be": "x" * 200,
    "as long as can be, in wide characters": "🦜" * 200,
    "spaces inside": "my project, part 2",
    "spaces around": "  mine ",
    "emoji with joiners": "👩‍👩‍👧 family",
    "right to left": "שלום",
    "quotes and markup": """'; DROP TABLE chat_sessions; -- "<b>&amp;""",
    "looks like a path": "../../etc/passwd",
    "wildcards": "%_*?",
    "braces": "{continuation_id}",
    "looks like json": '{"a": 1}',
    "looks like a list": "[1]",
    "looks like a number": "123",
    "looks like null": "null",
    "upper case": "My-Project",
}


@every_seam
@pytest.mark.parametrize("identity", USABLE.values(), ids=USABLE.keys())
async def test_an_unknown_id_that_can_be_used_becomes_the_conversations(
    identity: str, make: Make, runtime: Runtime
) -> None:
    server = make()
    first = await _say(server, continuation_id=identity)
    again = await _say(server, {META: identity})
    assert announced_id(first) == announced_id(again) == identity
    assert first["_meta"]["perdure/history"]["state"] == "new"
    assert again["_meta"]["perdure/history"]["turns"] == 1
    assert {turn.continuation_id for turn in kept(runtime)} == {identity}


async def test_ids_that_differ_only_in_case_are_different(runtime: Runtime) -> None:
    server = _decorated()
    await _say(server, continuation_id="Mine")
    assert (await _say(server, continuation_id="mine"))["_meta"]["perdure/history"]["state"] == "new"


UNUSABLE = {
    "one too long": "x" * 201,
    "a megabyte": "x" * 1_000_000,
    "white space": "   ",
    "wide white space": "\u3000\u2003",
    "NUL": "a\0b",
    "line feed": "a\nb",
    "tab": "a\tb",
    "escape": "\x1b[2J",
    "delete": "a\x7f",
    "C1 control": "a\x85b",
    "line separator": "a\u2028b",
    "integer": 7,
    "zero": 0,
    "float": 1.5,
    "true": True,
    "false": False,
    "list": ["x"],
    "empty list": [],
    "object": {"continuation_id": "x"},
    "empty object": {},
}


@every_seam
@pytest.mark.parametrize("sent", UNUSABLE.values(), ids=UNUSABLE.keys())
async def test_an_id_that_cannot_be_used_begins_a_fresh_conversation_and_is_no_error(
    sent: Any, make: Make, runtime: Runtime
) -> None:
    server = make()
    first, second = await _say(server, continuation_id=sent), await _say(server, continuation_id=sent)
    assert is_fresh(announced_id(first))
    assert announced_id(first) != announced_id(second)
    assert {result["_meta"]["perdure/history"]["state"] for result in (first, second)} == {"new"}


@every_seam
@pytest.mark.parametrize(
    "sent", [value for value in UNUSABLE.values() if isinstance(value, str)], ids=lambda value: ascii(value)[:20]
)
async def test_an_id_in_meta_that_cannot_be_used_begins_a_fresh_conversation(
    sent: str, make: Make, runtime: Runtime
) -> None:
    assert is_fresh(announced_id(await _say(make(), {META: sent})))


@pytest.mark.parametrize("sent", [7, ["x"], {"a": 1}, None, True], ids=repr)
@pytest.mark.parametrize("make", [_decorated, _hooked])
async def test_an_id_in_meta_of_another_type_begins_a_fresh_conversation(
    sent: Any, make: Make, runtime: Runtime
) -> None:
    # Clients of the handshake era may send anything there; the SDK refuses it from later ones by itself.
    result = await called(make(), "chat", {"text": "a"}, meta={META: sent}, mode="legacy")
    assert is_fresh(announced_id(result))


@every_seam
async def test_no_id_reaches_a_tool_that_does_not_declare_it_or_its_record(make: Make, runtime: Runtime) -> None:
    await _say(make(), continuation_id="mine")
    [turn] = kept(runtime)
    assert turn.arguments == {"text": "a"}
    assert turn.prompt == "a"


# ── a handler with a `continuation_id` of its own ────────────────────────────────────────────────────────────────


def _declaring(persist: Callable[[Any], Any]) -> MCPServer:
    mcp = MCPServer("declaring")

    @mcp.tool()
    @persist
    async def chat(text: str, continuation_id: Any = "default") -> str:
        return repr(continuation_id)

    return mcp


def _declaring_hooked() -> MCPServer:
    mcp = _declaring(lambda handler: handler)
    install(mcp, tools=["chat"])
    return mcp


declaring = pytest.mark.parametrize(
    "make", [lambda: _declaring(persisted), _declaring_hooked], ids=["decorated", "hook"]
)


@declaring
@pytest.mark.parametrize(
    "sent", ["mine", "x" * 201, "", "  ", 7, None, ["x"], {"a": 1}, "a\nb"], ids=lambda v: repr(v)[:9]
)
async def test_a_handler_that_declares_the_id_gets_it_as_it_was_sent(sent: Any, make: Make, runtime: Runtime) -> None:
    result = await called(make(), "chat", {"text": "a", "continuation_id": sent})
    assert text_of(result) == repr(sent)
    [turn] = kept(runtime)
    assert turn.arguments == {"text": "a", "continuation_id": sent}
    assert turn.continuation_id == ("mine" if sent == "mine" else announced_id(result))


@declaring
async def test_a_handler_that_declares_the_id_keeps_its_default_where_none_is_sent(
    make: Make, runtime: Runtime
) -> None:
    result = await called(make(), "chat", {"text": "a"}, meta={META: "mine"})
    assert text_of(result) == "'default'"
    assert announced_id(result) == "mine"


async def test_a_handler_that_declares_a_required_id_fails_without_one_as_it_always_did(runtime: Runtime) -> None:
    def make(persist: Callable[[Any], Any]) -> MCPServer:
        mcp = MCPServer("required")

        @mcp.tool()
        @persist
        async def chat(continuation_id: str) -> str:
            return continuation_id

        return mcp

    for arguments in ({}, {"continuation_id": 7}):
        expected = await called(make(lambda handler: handler), "chat", arguments)
        assert expected["isError"] is True
        assert await called(make(persisted), "chat", arguments) == expected


async def test_a_handler_that_takes_the_id_under_another_name_still_gets_it(runtime: Runtime) -> None:
    from typing import Annotated

    from pydantic import Field

    def make(persist: Callable[[Any], Any]) -> MCPServer:
        mcp = MCPServer("alias")

        @mcp.tool()
        @persist
        async def chat(
            text: str, thread: Annotated[str, Field(validation_alias="continuation_id", description="mine")] = "none"
        ) -> str:
            return thread

        return mcp

    assert await listed(make(persisted)) == await listed(make(lambda handler: handler))
    assert text_of(await called(make(persisted), "chat", {"text": "a", "continuation_id": "mine"})) == "mine"


# ── conversations and tools ──────────────────────────────────────────────────────────────────────────────────────


async def test_one_conversation_can_be_continued_by_another_tool(runtime: Runtime) -> None:
    mcp = MCPServer("two")

    @mcp.tool()
    @persisted
    async def ask(text: str) -> str:
        return text

    @mcp.tool()
    @persisted
    async def answer(text: str) -> str:
        return text

    first = await called(mcp, "ask", {"text": "a"})
    second = await called(mcp, "answer", {"text": "b", "continuation_id": announced_id(first)})
    assert second["_meta"]["perdure/history"]["turns"] == 1
    assert [turn.tool for turn in kept(runtime)] == ["ask", "answer"]


async def test_users_of_one_store_do_not_share_conversations(activate: Activate) -> None:
    ann = activate(user_id="ann")
    await _say(_decorated(), continuation_id="shared")
    activate(ann.engine.store, user_id="bob")
    assert (await _say(_decorated(), continuation_id="shared"))["_meta"]["perdure/history"]["state"] == "new"
    activate(ann.engine.store, user_id="ann")
    assert (await _say(_decorated(), continuation_id="shared"))["_meta"]["perdure/history"]["turns"] == 1


async def test_a_failed_turn_stays_in_its_conversation_and_out_of_its_history(runtime: Runtime) -> None:
    mcp = MCPServer("failing")

    @mcp.tool()
    @persisted
    async def chat(text: str) -> str:
        if text == "fail":
            raise RuntimeError("no")
        return text

    for text in ("a", "fail", "b"):
        result = await called(mcp, "chat", {"text": text, "continuation_id": "mine"})
    assert result["_meta"]["perdure/history"] == {"state": "loaded", "turns": 1, "omitted": 1}
    assert [turn.outcome for turn in kept(runtime)] == [Outcome.ANSWERED, Outcome.FAILED, Outcome.ANSWERED]


def test_a_forked_child_makes_other_ids_than_its_parent() -> None:
    new_continuation_id()  # so that there are random bits left of the parent's
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writing, new_continuation_id().encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as made:
        assert made.read() not in ("", new_continuation_id())
    os.waitpid(child, 0)
