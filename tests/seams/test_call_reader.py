"""What is read off a call: who calls, which conversation, what is asked, where history goes."""

import math
import uuid
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from perdure.middleware.call_reader import (
    Caller,
    Reading,
    ToolRequest,
    ToolShape,
    is_usable_id,
    principal_of,
    prompt_fits,
    read_call,
    readers_of,
)
from perdure.settings import HistoryMode, Policy, Settings

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
META = "perdure/continuation-id"


def read(
    arguments: dict[str, Any] | None = None,
    *,
    policy: Policy | None = None,
    settings: Settings | None = None,
    shape: ToolShape | None = None,
    **changes: Any,
) -> Reading:
    request = ToolRequest(tool="chat", arguments={"prompt": "hi"} if arguments is None else arguments, **changes)
    return read_call(request, shape or ToolShape(), policy or Policy(), settings or Settings(), NOW)


# ── who calls ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("caller", "settings", "principal"),
    [
        (Caller(), {}, "local"),
        (Caller(), {"user_id": "owner"}, "owner"),
        (Caller(remote=True), {}, "anonymous"),
        (Caller(remote=True), {"shared_user": True}, "local"),
        (Caller(remote=True), {"user_id": "owner"}, "owner"),
        (Caller(remote=True), {"user_id": "owner", "shared_user": True}, "owner"),
        (Caller("alice"), {"user_id": "owner"}, "alice"),
        (Caller("alice", remote=True), {"user_id": "owner", "shared_user": True}, "alice"),
        (Caller("", remote=True), {"user_id": "owner"}, ""),
    ],
)
def test_the_principal_is_the_tokens_subject_before_all_settings(
    caller: Caller, settings: dict[str, Any], principal: str
) -> None:
    made = Settings(**settings)
    assert principal_of(caller, made, made.policy("").user_id) == principal
    assert read(settings=made, policy=made.policy(""), caller=caller).turn.principal == principal


@pytest.mark.parametrize(
    ("caller", "settings", "readers"),
    [
        (Caller(), {}, ["local"]),
        (Caller(remote=True), {}, ["anonymous"]),
        (Caller(remote=True), {"shared_user": True}, ["local"]),
        (Caller(), {"user_id": "owner"}, ["owner"]),
        (Caller(), {"user_id": "owner", "defaults": {"user_id": "ours"}}, ["ours"]),
        (Caller(), {"tools": {"chat": {"user_id": "bob"}, "*": {"max_turns": 5}}}, ["local", "bob"]),
        (
            Caller(),
            {"user_id": "bob", "tools": {"chat": {"user_id": "bob"}, "draw": {"user_id": "eve"}}},
            ["bob", "eve"],
        ),
        (Caller("alice", remote=True), {"user_id": "owner", "tools": {"chat": {"user_id": "bob"}}}, ["alice"]),
    ],
)
def test_a_request_that_names_no_tool_reads_what_its_caller_has_with_any_tool(
    caller: Caller, settings: dict[str, Any], readers: list[str]
) -> None:
    assert readers_of(caller, Settings(**settings)) == readers


def test_nothing_in_a_call_says_who_calls() -> None:
    said = {"user_id": "mallory", "principal": "mallory", "subject": "mallory"}
    assert read({"prompt": "hi", **said}, meta=said).turn.principal == "local"


@pytest.mark.parametrize(
    ("caller", "shared", "may_choose"),
    [
        (Caller(), False, True),
        (Caller("alice", remote=True), False, True),
        (Caller(remote=True), False, False),
        (Caller(remote=True), True, True),
    ],
)
def test_who_may_be_anybody_chooses_no_id(caller: Caller, shared: bool, may_choose: bool) -> None:
    assert read(caller=caller, settings=Settings(shared_user=shared)).turn.adopt is may_choose


# ── which conversation ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("argument", "meta", "named"),
    [
        ("mine", None, "mine"),
        (None, "mine", "mine"),
        ("", "mine", "mine"),
        ("mine", "another", "mine"),
        ("bad\n", "another", None),  # one that cannot be used is not passed over for the next
        (None, None, None),
        ("", "", None),
        (7, None, None),
    ],
)
def test_the_conversation_is_named_by_the_argument_and_else_by_meta(
    argument: Any, meta: Any, named: str | None
) -> None:
    arguments = {"prompt": "hi"} if argument is None else {"prompt": "hi", "continuation_id": argument}
    reading = read(arguments, meta={} if meta is None else {META: meta})
    turn = reading.turn
    assert reading.continues is (named is not None)
    assert turn.minted is (named is None)
    assert turn.continuation_id == (named or turn.fresh_id)
    if named is None:
        assert uuid.UUID(turn.fresh_id).version == 4
    else:
        assert turn.fresh_id == ""  # nobody needs one


def test_who_may_choose_no_id_has_a_fresh_one_at_hand() -> None:
    turn = read({"prompt": "hi", "continuation_id": "mine"}, caller=Caller(remote=True)).turn
    assert turn.continuation_id == "mine"
    assert uuid.UUID(turn.fresh_id).version == 4


@pytest.mark.parametrize(
    ("caller", "key"), [(Caller(), "k1"), (Caller("alice", remote=True), "k1"), (Caller(remote=True), None)]
)
def test_an_idempotency_key_counts_only_from_a_caller_who_is_known(caller: Caller, key: str | None) -> None:
    assert read(meta={"perdure/idempotency-key": "k1"}, caller=caller).idempotency_key == key
    assert read(caller=caller).idempotency_key is None


def test_every_call_has_a_fresh_id_of_its_own() -> None:
    assert read().turn.fresh_id != read().turn.fresh_id
    assert read().turn.id != read().turn.id


@pytest.mark.parametrize("value", ["a", "x" * 200, "my project", " a ", "ü🦜", "\u00a0a", "a\u200db"], ids=ascii)
def test_an_id_that_can_be_used(value: str) -> None:
    assert is_usable_id(value)


@pytest.mark.parametrize(
    "value",
    ["", "x" * 201, " ", "\u3000", "a\0", "\x1fa", "a\x7f", "a\u0085b", "\ud800", "a\u2028", "\u2029a", 7, None, ["a"]],
    ids=ascii,
)
def test_an_id_that_cannot_be_used(value: object) -> None:
    assert not is_usable_id(value)


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("declares", [False, True])
def test_the_id_is_recorded_only_where_it_is_the_tools_own_argument(declares: bool) -> None:
    arguments = {"continuation_id": "mine", "prompt": "hi", "n": 1}
    turn = read(arguments, shape=ToolShape(declares_id=declares)).turn
    assert turn.arguments == (arguments if declares else {"prompt": "hi", "n": 1})
    assert list(arguments) == ["continuation_id", "prompt", "n"]  # the caller's stay as they are


def test_a_turn_begins_now_and_is_running_for_a_minute_unless_it_is_renewed() -> None:
    turn = read().turn
    assert (turn.tool, turn.started_at, turn.lease_until) == ("chat", NOW, NOW + timedelta(minutes=1))
    assert uuid.UUID(turn.id).int >> 80 == int(NOW.timestamp() * 1000)


def test_a_turn_expires_as_its_policy_says() -> None:
    assert read(policy=Policy(expire_after=timedelta(days=30))).turn.expire_after == timedelta(days=30)
    assert read().turn.expire_after is None


def test_the_version_of_the_protocol_is_recorded_where_it_is_known() -> None:
    assert read(protocol_version="2026-07-28").turn.metadata == {"protocol_version": "2026-07-28"}
    assert read().turn.metadata == {}


@pytest.mark.parametrize(
    ("arguments", "name", "prompt", "argument"),
    [
        ({"prompt": "hi", "n": 1}, None, "hi", "prompt"),
        ({"query": "hi", "prompt": "not this"}, "query", "hi", "query"),
        ({"query": "hi"}, None, "hi", None),
        ({"query": 7}, None, '{"query": 7}', None),
        ({"prompt": 7}, None, '{"prompt": 7}', None),
        ({"a": "ü", "b": [1]}, None, '{"a": "ü", "b": [1]}', None),
        ({"prompt": "hi", "n": 1}, "query", '{"prompt": "hi", "n": 1}', None),
        ({}, None, "", None),
    ],
)
def test_the_prompt_is_its_argument_or_the_only_text_or_all_there_is(
    arguments: dict[str, Any], name: str | None, prompt: str, argument: str | None
) -> None:
    reading = read(arguments, policy=Policy(prompt_argument=name))
    assert (reading.turn.prompt, reading.prompt_argument) == (prompt, argument)


def test_arguments_that_cannot_be_written_down_have_no_prompt() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert read({"a": endless}).turn.prompt == ""
    assert read({"a": math.inf}).turn.prompt == '{"a": Infinity}'


# ── where history goes ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("asked", "takes", "arguments", "mode"),
    [
        ("auto", True, {"prompt": "hi"}, "parameter"),
        ("auto", False, {"prompt": "hi"}, "prompt"),
        ("auto", False, {"query": "hi"}, "none"),
        ("prompt", True, {"prompt": "hi"}, "prompt"),
        ("prompt", False, {"query": "hi"}, "none"),
        ("none", True, {"prompt": "hi"}, "none"),
        ("parameter", False, {"prompt": "hi"}, "parameter"),
    ],
)
def test_where_history_goes(asked: str, takes: bool, arguments: dict[str, Any], mode: str) -> None:
    reading = read(arguments, policy=Policy(history=HistoryMode(asked)), shape=ToolShape(takes_history=takes))
    assert reading.history_mode is HistoryMode(mode)


@pytest.mark.parametrize(
    ("schema", "fits"),
    [
        (None, True),
        ({}, True),
        ({"properties": None}, True),
        ({"properties": {"another": {"type": "integer"}}}, True),
        ({"properties": {"prompt": {"type": "string", "maxLength": 5}}}, True),
        ({"properties": {"prompt": {"type": "string", "maxLength": 4}}}, False),
        ({"properties": {"prompt": {"$ref": "#/$defs/Text"}}, "$defs": {"Text": {"maxLength": 5}}}, True),
        ({"properties": {"prompt": {"$ref": "#/$defs/Text"}}, "$defs": {"Text": {"maxLength": 4}}}, False),
        ({"properties": {"another": {}}, "$defs": {"Text": {"maxLength": 4}}}, True),
    ],
)
def test_a_text_fits_where_the_tools_schema_lets_it_stand(schema: dict[str, Any] | None, fits: bool) -> None:
    assert prompt_fits(schema, "prompt", "12345") is fits


@pytest.mark.parametrize(
    ("subject", "claims", "principal"),
    [
        ("alice", None, "alice"),
        (None, {"sub": "alice"}, "alice"),
        ("alice", {"sub": "mallory"}, "alice"),
        (None, {"sub": 7}, "7"),
        (None, {}, "client:app"),
        ("", None, "client:app"),
        ("client:app", None, "subject:client:app"),
        (None, {"sub": "client:app"}, "subject:client:app"),
        ("subject:alice", None, "subject:subject:alice"),
    ],
)
def test_a_tokens_subject_is_worded_once_for_every_sdk(
    subject: str | None, claims: dict[str, Any] | None, principal: str
) -> None:
    token: Any = SimpleNamespace(client_id="app", subject=subject, claims=claims)
    assert Caller.by_token(token) == Caller(principal, remote=True)
