"""A tool's own id is replaced where it stands, and nothing else of its result changes: for any JSON text."""

import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.middleware.call_reader import is_usable_id
from perdure.middleware.result_ids import ResultIds

OWN = "0c9a3f3e-9d3b-4d5e-8b1c-6a5f0e7d2c11"
NEW = "an-id-of-ours"

Json = dict[str, Any]


def texts(*texts: str) -> Json:
    return {"content": [{"type": "text", "text": text} for text in texts]}


def replaced(text: str, *id_path: str, new: str = NEW) -> str:
    [block] = ResultIds.at(id_path).replaced(texts(text), new)["content"]
    return str(block["text"])


# ── any JSON text ────────────────────────────────────────────────────────────────────────────────────────────────

space = st.text(alphabet=" \t\n\r", max_size=3)
names = st.sampled_from(["id", "offer", "a", "", "0", 'qu"ote', "ключ", "\x00"]) | st.text(max_size=4)


def spelled(text: str, escaped: frozenset[int]) -> str:
    """A JSON string: the characters at some of its places written as escapes, the others as they are if they can be."""
    written = []
    for place, character in enumerate(text):
        plain = json.dumps(character, ensure_ascii=False)[1:-1]
        code_units = character.encode("utf-16-be", "surrogatepass")
        units = [code_units[at : at + 2].hex() for at in range(0, len(code_units), 2)]
        written.append("".join(f"\\u{unit}" for unit in units) if place in escaped else plain)
    return '"' + "".join(written) + '"'


strings = st.builds(spelled, st.text(max_size=8), st.frozensets(st.integers(0, 8), max_size=3))
numbers = st.sampled_from(["0", "-0.0", "1.50", "1e5", "1E+05", "12345678901234567890123", "9" * 5000])
scalars = strings | numbers | st.sampled_from(["true", "false", "null", "NaN"])


def _array(items: list[str], pad: list[str]) -> str:
    return f"[{pad[0]}{f'{pad[1]},{pad[2]}'.join(items)}{pad[3]}]"


def _object(members: list[tuple[str, str]], pad: list[str]) -> str:
    written = [f"{name}{pad[3]}:{pad[4]}{value}" for name, value in members]
    return f"{{{pad[0]}{f'{pad[1]},{pad[2]}'.join(written)}{pad[5]}}}"


pads = st.lists(space, min_size=6, max_size=6)
spelled_names = st.builds(spelled, names, st.frozensets(st.integers(0, 4), max_size=2))

ON_THE_WAY = ["id", "offer", "0", "имя"]
other_names = st.builds(spelled, st.text(max_size=4).filter(lambda name: name not in ON_THE_WAY), st.just(frozenset()))
json_texts = st.recursive(
    scalars,
    lambda inner: (
        st.builds(_array, st.lists(inner, max_size=4), pads)
        | st.builds(_object, st.lists(st.tuples(spelled_names, inner), max_size=4), pads)
    ),
    max_leaves=12,
)


@st.composite
def with_an_id_within(draw: st.DrawFn) -> tuple[str, str, str, list[str]]:
    """What stands before an id's characters in a JSON text, those characters, what stands after, and the path."""
    path = draw(st.lists(st.sampled_from(ON_THE_WAY), min_size=1, max_size=3))
    escaped = draw(st.frozensets(st.integers(0, len(OWN)), max_size=5))
    before, written, after = '"', spelled(OWN, escaped)[1:-1], '"'
    for name in reversed(path):
        pad = draw(pads)
        others = draw(st.lists(st.tuples(other_names, json_texts), max_size=2))
        if name == "0" and draw(st.booleans()):
            before = f"[{pad[0]}{before}"
            after = f"{after}{pad[1]}{''.join(f',{pad[2]}{value}' for _, value in others)}]"
        else:
            leading = "".join(f"{other}{pad[3]}:{value}{pad[4]}," for other, value in others)
            key = spelled(name, draw(st.frozensets(st.integers(0, 4), max_size=2)))
            before = f"{{{pad[0]}{leading}{pad[1]}{key}{pad[2]}:{pad[3]}{before}"
            after = f"{after}{pad[5]}}}"
    return draw(space) + before, written, after + draw(space), path


new_ids = st.text(min_size=1, max_size=20).filter(is_usable_id) | st.sampled_from(['qu"ote', "back\\slash", "мой", NEW])


@given(with_an_id_within(), new_ids)
def test_only_the_characters_of_the_id_change(found: tuple[str, str, str, list[str]], new: str) -> None:
    before, written, after, path = found
    changed = replaced(before + written + after, ".".join(path), new=new)
    assert changed == before + json.dumps(new, ensure_ascii=False)[1:-1] + after


@given(json_texts)
def test_a_text_that_has_no_id_at_the_path_stays_as_it_is(text: str) -> None:
    result = texts(text)
    assert ResultIds.at(["there.is.no.such.path"]).replaced(result, NEW) is result


@given(st.text(max_size=60) | json_texts.map(lambda text: text[:-1]))
def test_a_text_that_is_no_json_stays_as_it_is(text: str) -> None:
    assert replaced(f"x{text}", "id", "0", "offer.id") == f"x{text}"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


@given(values, st.lists(st.sampled_from(["id", "offer", "имя"]), min_size=1, max_size=3), st.booleans())
def test_structured_content_and_its_text_change_alike(other: Any, path: list[str], wrapped: bool) -> None:
    value: Any = OWN
    for name in reversed(path):
        value = {"before": other, name: value, "after": other}
    structured = {"result": value} if wrapped else value
    result = texts(json.dumps(value)) | {"structuredContent": structured}
    changed = ResultIds.at([".".join(path)]).replaced(result, NEW)
    text = json.dumps(value).replace(OWN, NEW)
    assert changed["content"][0]["text"] == text
    assert json.dumps(changed["structuredContent"]) == json.dumps(structured).replace(OWN, NEW)


# ── what counts as an id, and where ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"id": 17}', "id"),
        ('{"id": null}', "id"),
        ('{"id": ""}', "id"),
        ('{"id": {"id": "x"}}', "id"),
        ('{"offer": null}', "offer.id"),
        ('{"offer": "id"}', "offer.id"),
        ('[{"id": "x"}]', "id"),
        ('"{\\"id\\": \\"x\\"}"', "id"),
        ('{"id": "x"} and more', "id"),
        ('{"id": "x"', "id"),
        ("", "id"),
        ("   ", "id"),
        ("[" * 100_000 + "]" * 100_000, "0.0"),
    ],
)
def test_what_is_no_string_at_the_path_of_a_whole_json_text_stays(text: str, path: str) -> None:
    assert replaced(text, path) == text


def test_every_path_is_followed_and_every_member_of_a_repeated_name() -> None:
    text = f'{{"id": "first", "offer": {{"id": "{OWN}"}}, "id": "{OWN}", "list": [{{"id": "third"}}]}}'
    changed = replaced(text, "offer.id", "id", "list.0.id")
    assert changed == f'{{"id": "{NEW}", "offer": {{"id": "{NEW}"}}, "id": "{NEW}", "list": [{{"id": "{NEW}"}}]}}'


def test_an_id_that_is_ours_already_leaves_the_result_as_it_is() -> None:
    result = texts(f'{{"id": "{NEW}"}}')
    assert ResultIds.at(["id"]).replaced(result, NEW) is result


def test_an_embedded_resource_is_a_text_too_and_other_blocks_are_not_touched() -> None:
    image = {"type": "image", "data": "AAAA", "mimeType": "image/png"}
    resource = {"type": "resource", "resource": {"uri": f"file:///{OWN}", "text": f'{{"id":"{OWN}"}}'}}
    changed = ResultIds.at(["id"]).replaced({"content": [image, resource], "_meta": {"id": OWN}}, NEW)
    assert changed["content"] == [
        image,
        {"type": "resource", "resource": {"uri": f"file:///{OWN}", "text": f'{{"id":"{NEW}"}}'}},
    ]
    assert changed["_meta"] == {"id": OWN}


def test_a_value_that_an_sdk_wrapped_is_looked_into_whether_text_or_not() -> None:
    wrapped_text = {"content": [], "structuredContent": {"result": '{ "id":"short" }'}}
    wrapped_list = {"content": [], "structuredContent": {"result": [{"id": "short"}]}}
    only_the_id = {"content": [], "structuredContent": {"result": "short"}}
    assert ResultIds.at(["id"]).replaced(wrapped_text, NEW)["structuredContent"] == {"result": f'{{ "id":"{NEW}" }}'}
    for path in ("0.id", "result.0.id"):
        assert ResultIds.at([path]).replaced(wrapped_list, NEW)["structuredContent"] == {"result": [{"id": NEW}]}
    assert ResultIds.at(["result"]).replaced(only_the_id, NEW)["structuredContent"] == {"result": NEW}


# ── the same id elsewhere ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("prose", "expected"),
    [
        (f"Use continuation_id: {OWN} to go on.", f"Use continuation_id: {NEW} to go on."),
        (f"Use {OWN}.", f"Use {NEW}."),
        (f'(continuation_id="{OWN}")', f'(continuation_id="{NEW}")'),
        (f"Use:\n{OWN}\n", f"Use:\n{NEW}\n"),
        (f"saved in /tmp/{OWN}/answer.md", None),
        (f"saved in {OWN}.md", None),
        (f"see x-{OWN} and {OWN}-x and a{OWN}", None),
        (f"see {uuid.UUID(int=1)}", None),
    ],
)
@pytest.mark.parametrize("where", ["the same text", "a text of its own", "structured content"])
def test_in_prose_the_same_id_is_replaced_where_it_is_a_word(prose: str, expected: str | None, where: str) -> None:
    expected = prose if expected is None else expected
    match where:
        case "the same text":
            result = texts(json.dumps({"content": prose, "id": OWN}))
            assert ResultIds.at(["id"]).replaced(result, NEW) == texts(json.dumps({"content": expected, "id": NEW}))
        case "a text of its own":
            result = texts(prose, f'{{"id": "{OWN}"}}')
            assert ResultIds.at(["id"]).replaced(result, NEW) == texts(expected, f'{{"id": "{NEW}"}}')
        case _:
            result = texts(prose) | {"structuredContent": {"id": OWN, "note": [prose]}}
            changed = ResultIds.at(["id"]).replaced(result, NEW)
            assert changed == texts(expected) | {"structuredContent": {"id": NEW, "note": [expected]}}


def test_a_short_id_is_replaced_at_its_path_alone() -> None:
    text = '{"content": "chat with me", "id": "chat"}'
    assert replaced(text, "id") == f'{{"content": "chat with me", "id": "{NEW}"}}'


def test_a_new_id_that_holds_the_old_one_is_not_replaced_within() -> None:
    assert replaced(f'{{"id": "{OWN}"}}', "id", new=f"x {OWN}") == f'{{"id": "x {OWN}"}}'
