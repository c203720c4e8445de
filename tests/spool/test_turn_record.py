"""A turn that waits is written down whole: what is read back is what was kept, whatever it holds."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import Answer, Outcome, StoredFile, Turn
from perdure.errors import StoreError
from perdure.middleware.persistence.spool.turn_record import read_turn, write_turn
from perdure.testing.store_bench import exactly
from perdure.testing.turns import a_turn

_THEN = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)

WHOLE = Turn(
    id="01890000-0000-7000-8000-000000000000",
    principal="alice",
    continuation_id="c",
    tool="chat",
    prompt="a\0b \ud800",
    arguments={"z": -0.0, "a": [2**70, None, {"deep": "\udfff"}], "": ""},
    started_at=_THEN,
    lease_until=_THEN + timedelta(minutes=15),
    outcome=Outcome.ANSWERED,
    answer=Answer(text="x", result={"content": []}, error={"type": "E"}),
    ended_at=_THEN + timedelta(seconds=1),
    place=7,
    after_place=6,
    deferred=True,
    tokens=12,
    digest="d" * 64,
    minted=True,
    adopt=False,
    fresh_id="fresh",
    files=(StoredFile(key="k", bucket="b", name="n\ud800", sha256="s", size=1, media_type="text/plain", version=2),),
    metadata={"protocol_version": "2025-06-18"},
    expire_after=timedelta(days=30, milliseconds=5),
    stored_form=True,
)


def test_every_field_of_a_turn_comes_back() -> None:
    defaults = a_turn(continuation_id="other")
    same = [field.name for field in fields(Turn) if getattr(WHOLE, field.name) == getattr(defaults, field.name)]
    assert same == ["principal", "tool", "stored_form"], (
        "a field of WHOLE is as it is by default: the test says nothing"
    )
    assert read_turn(write_turn(WHOLE)) == WHOLE


def test_the_record_is_ascii_on_one_line() -> None:
    record = write_turn(WHOLE)
    assert record.isascii()
    assert "\n" not in record


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(text=st.text(st.characters(codec=None)), value=_JSON)
def test_any_text_and_any_json_come_back_equal(text: str, value: Any) -> None:
    turn = a_turn(text, continuation_id="c", arguments={"value": value})
    read = read_turn(write_turn(turn))
    assert read.prompt == text
    assert exactly(read.arguments) == exactly({"value": value})


def test_what_cannot_be_written_down_is_refused_in_words() -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    with pytest.raises(StoreError, match="cannot be written down"):
        write_turn(replace(a_turn("x", continuation_id="c"), arguments=endless))
