"""The envelope around a tool's request state: any state comes back, and nothing that was altered counts."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from perdure.errors import RequestStateRefused
from perdure.middleware.request_state import STAYS_OPEN, Binding, OpenTurn, is_envelope, opened, own_state, wrapped

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

any_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=200)
"""With NUL, lone surrogates and everything."""

states = st.none() | any_text | st.just("-") | any_text.map(lambda text: f"perdure.1.{text}")
times = st.integers(1_600_000_000_000_000, 4_000_000_000_000_000).map(lambda us: EPOCH + timedelta(microseconds=us))
turns = st.builds(
    OpenTurn,
    id=st.uuids().map(str),
    continuation_id=any_text,
    minted=st.booleans(),
    continues=st.booleans(),
    started_at=times,
    place=st.none() | st.integers(1),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)
bindings = st.builds(
    Binding, principal=any_text, tool=any_text, arguments=st.dictionaries(any_text, json_values, max_size=3)
)
keys = st.binary(min_size=1, max_size=64)


@given(states, turns, bindings, keys, times)
def test_any_state_and_any_turn_come_back(
    state: str | None, turn: OpenTurn, binding: Binding, key: bytes, now: datetime
) -> None:
    envelope = wrapped(state, turn, binding, key, now)
    assert is_envelope(envelope)
    assert own_state(envelope) == state
    assert opened(envelope, binding, key, now) == turn
    assert envelope.isascii()
    assert own_state(own_state(wrapped(envelope, turn, binding, key, now)) or "") == state  # a proxy before a server


@given(states, turns, bindings, keys, times, st.data())
def test_no_altered_envelope_counts(
    state: str | None, turn: OpenTurn, binding: Binding, key: bytes, now: datetime, data: st.DataObject
) -> None:
    envelope = wrapped(state, turn, binding, key, now)
    start = data.draw(st.integers(0, len(envelope)))
    end = data.draw(st.integers(start, min(len(envelope), start + 3)))
    alphabet = st.text(st.sampled_from("ABab01-_.=~ \n\0é\ud800"), max_size=3)
    altered = envelope[:start] + data.draw(alphabet) + envelope[end:]
    assume(altered != envelope)
    with pytest.raises(RequestStateRefused):
        opened(altered, binding, key, now)
    own_state(altered)


@given(states, turns, bindings, bindings, keys, keys, times)
def test_an_envelope_counts_for_no_other_call_and_with_no_other_key(
    state: str | None, turn: OpenTurn, binding: Binding, other: Binding, key: bytes, other_key: bytes, now: datetime
) -> None:
    envelope = wrapped(state, turn, binding, key, now)
    if other.text() != binding.text():
        with pytest.raises(RequestStateRefused):
            opened(envelope, other, key, now)
    # An HMAC fills a short key up with zeros.
    if other_key.rstrip(b"\0") != key.rstrip(b"\0"):
        with pytest.raises(RequestStateRefused):
            opened(envelope, binding, other_key, now)


@given(any_text, any_text, any_text, any_text, keys, times)
def test_principal_and_tool_are_told_apart_wherever_the_line_between_them_is(
    one: str, two: str, three: str, four: str, key: bytes, now: datetime
) -> None:
    assume((one, two) != (three, four))
    first, second = (Binding(principal=a, tool=b, arguments={}) for a, b in ((one, two), (three, four)))
    assert first.text() != second.text()


@given(states, turns, bindings, keys, times, st.timedeltas(timedelta(0), STAYS_OPEN * 2))
def test_an_envelope_counts_until_it_is_too_old(
    state: str | None, turn: OpenTurn, binding: Binding, key: bytes, now: datetime, age: timedelta
) -> None:
    envelope = wrapped(state, turn, binding, key, now)
    assume(abs(age - STAYS_OPEN) > timedelta(milliseconds=1))
    if age < STAYS_OPEN:
        assert opened(envelope, binding, key, now + age) == turn
    else:
        with pytest.raises(RequestStateRefused):
            opened(envelope, binding, key, now + age)


@given(any_text | st.none() | st.integers())
def test_what_is_no_envelope_is_left_as_it_is(value: Any) -> None:
    if not is_envelope(value) and isinstance(value, str):
        assert own_state(value) == value
