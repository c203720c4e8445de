"""JSON is written as Python's own encoder writes it; and what is said to read as it was does."""

import json
import math
from collections import OrderedDict
from enum import StrEnum
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from perdure.middleware.persistence.common_bodies import written_out
from perdure.middleware.persistence.copied_turns import copied_answer
from perdure.middleware.persistence.json_text import compact_json, sorted_json
from perdure.middleware.persistence.serialization import (
    answer_and_copy,
    decode_answer,
    decode_prompt,
    encode_prompt,
    prompt_and_copies,
    prompt_and_copy,
)
from perdure.middleware.persistence.turn import Answer
from perdure.testing.store_bench import exactly

TEXTS = st.text(st.characters(codec=None), max_size=20) | st.just("a text that stands in several places")
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
VALUES = st.recursive(
    LEAVES,
    lambda items: (
        st.lists(items, max_size=4)
        | st.dictionaries(TEXTS, items, max_size=4)
        | st.tuples(items, items)
        | st.dictionaries(st.integers(), items, max_size=2)
    ),
    max_leaves=12,
)


SAID = "a text that is long enough to be kept once"


class Spoken(StrEnum):
    SAID = SAID


ONE_TEXT = [{"type": "text", "text": SAID}]
MEMBERS = {
    "content": st.just(ONE_TEXT)
    | st.just([{"text": SAID, "type": "text"}])
    | st.sampled_from(
        [
            [{"type": "text", "text": Spoken.SAID}],
            [OrderedDict(text=SAID, type="text")],
            [{"type": "text", "text": SAID + "!"}],
            [{"type": "text", "text": SAID, "annotations": None}],
            [OrderedDict(type="text", text=SAID)],
            [*ONE_TEXT, *ONE_TEXT],
            tuple(ONE_TEXT),
            [SAID],
            [],
        ]
    ),
    "structuredContent": st.just({"result": SAID}) | st.sampled_from([{"result": "another"}, {"value": SAID}, {}]),
    "isError": st.just(False) | st.sampled_from([True, 0, 0.0, None]),
    "resultType": st.just("complete") | st.sampled_from(["input_required", Spoken.SAID]),
    "more": st.none(),
}
RESULTS = st.sampled_from(
    [
        ("content",),
        ("content", "structuredContent"),
        ("structuredContent", "content"),
        ("content", "isError"),
        ("isError", "content"),
        ("content", "structuredContent", "isError"),
        ("content", "resultType"),
        ("content", "resultType", "structuredContent"),
        ("content", "structuredContent", "resultType"),
        ("content", "structuredContent", "isError", "resultType"),
        ("content", "more"),
        ("structuredContent",),
        (),
    ]
).flatmap(lambda names: st.fixed_dictionaries({name: MEMBERS[name] for name in names}))
"""That are, and that are nearly, as tools give them most often."""


@given(VALUES)
def test_json_text_is_that_of_pythons_own_encoder(value: Any) -> None:
    assert compact_json(value) == json.dumps(value, separators=(",", ":"))


@given(st.dictionaries(TEXTS, LEAVES | st.dictionaries(TEXTS, LEAVES)))
def test_sorted_json_text_is_that_of_pythons_own_encoder(value: Any) -> None:
    assert sorted_json(value) == json.dumps(value, separators=(",", ":"), sort_keys=True)


def test_numbers_that_json_does_not_know_are_written_as_ever() -> None:
    assert compact_json([math.nan, math.inf, -math.inf]) == "[NaN,Infinity,-Infinity]"


@given(TEXTS, st.dictionaries(TEXTS, VALUES, max_size=4))
def test_the_copy_of_arguments_is_what_reading_them_gives(prompt: str, arguments: Any) -> None:
    message, copy = prompt_and_copy(prompt, arguments)
    if copy is not None:
        read = decode_prompt(message)
        assert (read.text, repr(read.arguments)) == (prompt, repr(copy))


PROTOCOLS = st.sampled_from(["2025-06-18", "2025-11-25", "2026-07-28"])
PROMPTS = st.just({"prompt": SAID}) | st.sampled_from(
    [{"prompt": Spoken.SAID}, OrderedDict(prompt=SAID), {"prompt": SAID, "n": 1}, {"text": SAID}, {"prompt": None}, {}]
)
METADATA = st.builds(lambda version: {"protocol_version": version}, PROTOCOLS) | st.sampled_from(
    [
        {},
        {"protocol_version": Spoken.SAID},
        {"protocol_version": "2099-01-01"},
        {"protocol_version": ["2026-07-28"]},
        {"protocol_version": "2026-07-28", "more": 1},
        {"client": "2026-07-28"},
        OrderedDict(protocol_version="2026-07-28"),
    ]
)
"""As most calls have them, and nearly so."""


@given(st.just(SAID) | TEXTS, PROMPTS | st.dictionaries(TEXTS, VALUES, max_size=2), METADATA)
def test_the_copies_of_a_prompt_are_what_reading_it_gives(prompt: str, arguments: Any, metadata: Any) -> None:
    message, copies = prompt_and_copies(prompt, arguments, metadata)
    if copies is not None:
        read = decode_prompt(message)
        assert repr(read) == repr(copies)
        assert copies.arguments is not arguments
        assert copies.metadata is not metadata or not metadata
        assert message == encode_prompt(prompt, read.arguments, read.metadata)


@given(PROTOCOLS)
def test_the_commonest_prompts_are_a_number(version: str) -> None:
    message, copies = prompt_and_copies(SAID, {"prompt": SAID}, {"protocol_version": version})
    assert message.body is not None
    assert message.body.isdecimal()
    assert copies == (SAID, {"prompt": SAID}, {"protocol_version": version})


@given(TEXTS, VALUES)
def test_the_copy_of_an_answer_is_what_reading_it_gives(text: str, result: Any) -> None:
    message, copy = answer_and_copy(Answer(text=text, result=result))
    if copy is not None:
        assert repr(decode_answer(message)) == repr(copied_answer(copy))
        assert copy.result is not result or not isinstance(result, (dict, list))


@example({"content": ONE_TEXT, "isError": 0}, None)
@example({"content": [{"text": SAID, "type": "text"}]}, None)
@given(RESULTS, st.none() | st.just({"type": "ToolError", "message": SAID}))
def test_what_is_written_without_json_reads_as_if_it_had_been_written_with_it(result: Any, error: Any) -> None:
    message, copy = answer_and_copy(Answer(text=SAID, result=result, error=error))
    read = decode_answer(message)
    assert repr((read.text, read.result, read.error)) == repr((SAID, *json.loads(json.dumps([result, error]))))
    assert copy is None or repr(copied_answer(copy)) == repr(read)


@given(st.dictionaries(st.sampled_from(["prompt", "model"]), st.sampled_from([SAID, Spoken.SAID, "another", None, 1])))
def test_arguments_that_are_written_without_json_do_too(arguments: Any) -> None:
    message, copy = prompt_and_copy(SAID, arguments)
    read = decode_prompt(message)
    assert repr((read.text, read.arguments)) == repr((SAID, json.loads(json.dumps(arguments))))
    assert copy is None or repr(copy) == repr(read.arguments)


def test_what_tools_give_most_often_is_written_as_a_number_and_its_copy_is_nobody_elses() -> None:
    plain = {"content": [{"type": "text", "text": SAID}]}
    in_hooks = {"content": [{"text": SAID, "type": "text"}]}
    structured = {"structuredContent": {"result": SAID}}
    complete = {"resultType": "complete"}
    of_fastmcp = {"_meta": {"fastmcp": {"wrap_result": True}}}
    for result in (
        *({**plain, **said, **more} for more in ({}, {"isError": False}, complete) for said in ({}, structured)),
        *({**in_hooks, **more, **said} for more in ({}, complete) for said in ({}, structured)),
        {**of_fastmcp, **plain, **structured, **complete},
        {**of_fastmcp, **in_hooks, **complete, **structured},
    ):
        message, copy = answer_and_copy(Answer(text=SAID, result=result))
        assert message.body is not None
        assert message.body.isdecimal()
        assert json.loads(written_out(message.body))["value"]["error"] is None
        assert exactly(decode_answer(message).result) == exactly(result)
        assert copy is not None
        assert exactly(copy.result) == exactly(result)
        assert copy.result["content"][0] is not result["content"][0]
    message, arguments = prompt_and_copy(SAID, {"prompt": SAID})
    assert (message.body, arguments) == ("1", {"prompt": SAID})
