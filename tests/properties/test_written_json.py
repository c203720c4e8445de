"""JSON is written as Python's own encoder writes it; and what is said to read as it was does."""

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from perdure.middleware.persistence.json_text import compact_json, sorted_json
from perdure.middleware.persistence.serialization import (
    answer_and_copy,
    decode_answer,
    decode_prompt,
    prompt_and_copy,
)
from perdure.middleware.persistence.turn import Answer

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


@given(TEXTS, VALUES)
def test_the_copy_of_an_answer_is_what_reading_it_gives(text: str, result: Any) -> None:
    message, copy = answer_and_copy(Answer(text=text, result=result))
    if copy is not None:
        assert repr(decode_answer(message)) == repr(copy)
        assert copy.result is not result or not isinstance(result, (dict, list))
