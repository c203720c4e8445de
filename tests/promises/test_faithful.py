"""Promise 10, Faithful: whatever text or JSON a tool accepts or returns comes back equal."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest
from conftest import MakeDatabase
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from perdure.middleware.persistence.engine import Engine
from perdure.middleware.persistence.ports import Store
from perdure.middleware.persistence.redaction import Redactor
from perdure.middleware.persistence.serialization import (
    StoredMessage,
    decode_answer,
    decode_prompt,
    digest,
    encode_answer,
    encode_prompt,
)
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.turn import Answer, Json, JsonObject, Outcome, Window
from perdure.testing import FrozenClock
from perdure.testing.turns import a_turn, ended


def as_parsed(text: str) -> str:
    """`text` with the halves of surrogate pairs joined, as every parser joins them; lone ones stay.

    JSON writes a pair and the character it stands for alike (RFC 8259, section 7): no wire can carry them apart.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


pieces = st.text(st.characters(codec=None), max_size=10) | st.sampled_from(
    ["\0", "\ud800", "\udfff", "\ufffd", "\\", '"', "\n"]
)
texts = st.lists(pieces, max_size=8).map("".join).map(as_parsed)
scalars = (
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats(allow_nan=False, allow_infinity=False)
)


@st.composite
def messages(draw: st.DrawFn) -> tuple[str, JsonObject]:
    """A text and a JSON object in which that text stands here and there, as a prompt does among its arguments."""
    text = draw(texts | texts.map(lambda short: as_parsed((short or "repeat") * 20)))
    leaves = scalars | texts | st.just(text)
    values = st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
    )
    return text, draw(st.dictionaries(texts | st.just(text), values, max_size=4))


@pytest.fixture(scope="module", params=["memory", "sqlite", "postgres"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_database: MakeDatabase
) -> Iterator[Store]:
    made: Store
    match request.param:
        case "memory":
            made = MemoryStore()
        case "sqlite":
            made = SqliteStore(tmp_path_factory.mktemp("faithful") / "perdure.db")
        case _:
            made = PostgresStore(make_database())
    yield made
    made.close()


def as_it_is(value: Json) -> str:
    """Two JSON values are the same if these texts are: `==` takes -0.0 for 0, 1.0 for 1, and any order of keys."""
    return json.dumps(value)


@given(messages())
@example(("\0" * 20, {"prompt": "\0" * 20}))
@example(("x" * 20, {"zero": -0.0, "x" * 20: "x" * 20, "at": [["x" * 20]], "value": None, "text": "y"}))
def test_a_prompt_comes_back_from_its_stored_form(message: tuple[str, JsonObject]) -> None:
    prompt, arguments = message
    for metadata in ({}, arguments):
        found = decode_prompt(encode_prompt(prompt, arguments, metadata))
        assert found.text == prompt
        assert as_it_is([found.arguments, found.metadata]) == as_it_is([arguments, metadata])


@given(messages(), messages(), st.booleans())
def test_an_answer_comes_back_from_its_stored_form(
    message: tuple[str, JsonObject], other: tuple[str, JsonObject], failed: bool
) -> None:
    text, result = message
    answer = Answer(text=text, result=None if failed else result, error=other[1] if failed else None)
    found = decode_answer(encode_answer(answer))
    assert found.text == text
    assert as_it_is([found.result, found.error]) == as_it_is([answer.result, answer.error])


@given(messages())
def test_a_stored_form_is_text_that_every_database_can_hold(message: tuple[str, JsonObject]) -> None:
    stored = encode_prompt(*message)
    assert "\0" not in stored.content.encode("utf-8").decode("utf-8")
    assert stored.body is not None
    assert stored.body.isascii()
    assert "\0" not in stored.body


@given(texts)
def test_the_readable_text_is_the_text_itself_but_for_what_databases_refuse(text: str) -> None:
    readable = encode_prompt(text, {}).content
    assert len(readable) == len(text)
    assert all(
        kept == given or (kept == "�" and (given == "\0" or "\ud800" <= given <= "\udfff"))
        for kept, given in zip(readable, text, strict=True)
    )


def test_a_message_without_an_exact_form_is_its_readable_text() -> None:
    assert decode_prompt(StoredMessage("by hand", None)) == ("by hand", {}, {})
    assert decode_answer(StoredMessage("by hand", None)) == Answer(text="by hand")


def test_a_text_that_stands_twice_is_kept_once() -> None:
    text = "a long answer " * 1000
    result = {"content": [{"type": "text", "text": text}], "structuredContent": {"result": text}}
    stored = encode_answer(Answer(text=text, result=result))
    assert stored.body is not None
    assert len(stored.content) + len(stored.body) < len(text) * 1.1


@given(messages(), messages())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_turn_comes_back_from_the_store_as_it_was(
    store: Store, asked: tuple[str, JsonObject], told: tuple[str, JsonObject]
) -> None:
    turn = a_turn(asked[0], arguments=asked[1], metadata=told[1], continuation_id=str(uuid.uuid4()))
    store.finish(ended(turn, Outcome.ANSWERED, Answer(text=told[0], result=told[1], error=asked[1]), tokens=1))
    (kept,) = store.turns("alice", turn.continuation_id)
    (seen,) = store.begin(a_turn(continuation_id=turn.continuation_id), Window(1, 1)).history
    for found in (kept, seen):
        assert found.answer is not None
        assert (found.prompt, found.answer.text) == (asked[0], told[0])
        assert as_it_is([found.arguments, found.metadata]) == as_it_is([asked[1], told[1]])
        assert as_it_is([found.answer.result, found.answer.error]) == as_it_is([told[1], asked[1]])


@pytest.mark.parametrize("text", ["a megabyte of ü\n" * 65_536, "with \0 and \udc80 " * 65_536], ids=["clean", "hard"])
def test_a_megabyte_comes_back_equal(store: Store, text: str) -> None:
    turn = a_turn(text, continuation_id=str(uuid.uuid4()))
    result = {"content": [{"type": "text", "text": text}], "structuredContent": {text[:100]: [text, -0.0]}}
    store.finish(ended(turn, Outcome.ANSWERED, Answer(text=text, result=result)))
    (kept,) = store.turns("alice", turn.continuation_id)
    assert kept.answer is not None
    assert (kept.prompt, kept.answer.text) == (text, text)
    assert as_it_is([kept.arguments, kept.answer.result]) == as_it_is([turn.arguments, result])


def test_json_comes_back_however_deep_it_is(store: Store) -> None:
    """The MCP SDK parses 200 levels and writes 255."""
    value: Json = "the bottom of it all"
    for level in range(250):
        value = [value] if level % 2 else {"down": value}
    engine = Engine(store, FrozenClock())
    turn = replace(a_turn(continuation_id=str(uuid.uuid4())), arguments={"value": value}, stored_form=False)
    engine.finish(ended(turn, Outcome.ANSWERED, Answer(text="the bottom of it all", result=value)), Redactor())
    (kept,) = store.turns("alice", turn.continuation_id)
    assert kept.answer is not None
    assert as_it_is([kept.arguments, kept.answer.result]) == as_it_is([{"value": value}, value])


@given(messages(), st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_change_a_digest(message: tuple[str, JsonObject], dice: object) -> None:
    arguments = message[1]
    items = list(arguments.items())
    dice.shuffle(items)  # type: ignore[attr-defined]
    assert digest("tool", dict(items)) == digest("tool", arguments)


@given(messages(), messages())
def test_other_arguments_have_another_digest(one: tuple[str, JsonObject], other: tuple[str, JsonObject]) -> None:
    same = json.dumps(one[1], sort_keys=True) == json.dumps(other[1], sort_keys=True)
    assert (digest("tool", one[1]) == digest("tool", other[1])) is same
    assert digest("tool", one[1]) != digest("another tool", one[1])
