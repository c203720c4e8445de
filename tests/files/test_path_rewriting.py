"""What counts as a path or a storage URI, and what of a result is put in its place: the pure part, case by case."""

from typing import Any

import pytest

from perdure.middleware.path_rewriting import local_path, rewritten_result, storage_uri

LONGEST = 4095
"""Characters of the longest path."""

URI = "storage://files/alice/0/a.txt"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("/", "/"),
        ("/a b/ü.txt", "/a b/ü.txt"),
        ("/" + "x" * (LONGEST - 1), "/" + "x" * (LONGEST - 1)),
        ("/" + "x" * LONGEST, None),
        ("a.txt", None),
        ("", None),
        ("//host/share", None),
        ("/a\0b", None),
        ("/a\nb", None),
        ("/a\rb", None),
        ("/a\tb", "/a\tb"),
        ("file:///a%20b", "/a b"),
        ("FILE:///a", "/a"),
        ("file://localhost/a", "/a"),
        ("file://LOCALHOST/a", "/a"),
        ("file://host/a", None),
        ("file:/a", None),
        ("file://a", None),
        ("file://localhost", None),
        ("file:////a", None),
        ("file:///%2Fa", None),
        ("file:///a?b", None),
        ("file:///a#b", None),
        ("file:///a%00", None),
        ("file:///a%0A", None),
        ("file:///a%0D", None),
        ("file:///a\tb", None),
        ("file:///a\nb", None),
        ("file:///a\rb", None),
        ("file:///caf%E9", "/caf\udce9"),
        ("file:///\ud800", None),
        ("file://[/a", None),
        ("http:///a", None),
        ("file:///" + "%41" * 4000 + "x" * 94, "/" + "A" * 4000 + "x" * 94),
        ("file:///" + "x" * (LONGEST - 1), "/" + "x" * (LONGEST - 1)),
        ("file:///" + "x" * LONGEST, None),
        ("file://localhost" + "/." * 6137, None),  # 12,290 characters
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_local_path_is_an_absolute_path_or_a_file_uri(value: str, path: str | None) -> None:
    assert local_path(value) == path


@pytest.mark.parametrize(
    ("value", "uri"),
    [
        (URI, URI),
        (f'"{URI}"', URI),
        (f"  {URI}\n", URI),
        (f' "{URI}" ', URI),
        (f"see {URI}", None),
        (f"{URI} and more", None),
        ("storage://", None),
        ("storage://x", "storage://x"),
        ("Storage://x", None),
        (" " * 9 + "storage://x", "storage://x"),
        (" " * 20 + "storage://x", None),
        ("storage://" + "x" * (3 * 4096 - 10), "storage://" + "x" * (3 * 4096 - 10)),
        ("storage://" + "x" * (3 * 4096 - 9), None),
        ("/a.txt", None),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_storage_uri_stands_alone_or_in_quotes(value: str, uri: str | None) -> None:
    assert storage_uri(value) == uri


# ── results ──────────────────────────────────────────────────────────────────────────────────────────────────


def replaced(text: str) -> str | None:
    """As if `/good` and what lies under it were kept."""
    path = local_path(text)
    return f"storage://b{path}" if path is not None and (path + "/").startswith("/good/") else None


def rewritten(text: str, *, prose: bool = False) -> str:
    result = rewritten_result({"content": [{"type": "text", "text": text}]}, replaced, prose=prose)
    return str(result["content"][0]["text"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/good", "storage://b/good"),
        (" /good\n", " storage://b/good\n"),
        ("file:///good/a%20b", "storage://b/good/a b"),
        ("/bad", "/bad"),
        (" /bad ", " /bad "),
        ("at /good", "at /good"),
        ('"/good"', '"storage://b/good"'),
        ('["/good", "/bad", 1]', '["storage://b/good", "/bad", 1]'),
        ('{"a" :  "/good" ,"/good":"/bad"}', '{"a" :  "storage://b/good" ,"/good":"/bad"}'),
        (' {"a": "\\/good"}', ' {"a": "storage://b/good"}'),
        (' {"a": "\\u00fc"}', ' {"a": "\\u00fc"}'),
        ('{"a": "/good"', '{"a": "/good"'),
        ('["/good"] and more', '["/good"] and more'),
        ('{"n": ' + "1" * 5000 + ', "a": "/good"}', '{"n": ' + "1" * 5000 + ', "a": "storage://b/good"}'),
        ('{"a": "x\\"y", "b": "/good"}', '{"a": "x\\"y", "b": "storage://b/good"}'),
    ],
    ids=lambda value: value[:40],
)
def test_a_whole_text_or_a_string_of_a_json_text_is_replaced_in_its_formatting(text: str, expected: str) -> None:
    assert rewritten(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is at /good.", "It is at storage://b/good."),
        ("/good and /good/a: both!", "storage://b/good and storage://b/good/a: both!"),
        ("(/good), `/good`; </good>", "(storage://b/good), `storage://b/good`; <storage://b/good>"),
        ("see file:///good?", "see storage://b/good?"),
        ("http://good/good x/good ~/good ./good -/good", "http://good/good x/good ~/good ./good -/good"),
        ("/bad and /good!", "/bad and storage://b/good!"),
        ("see /good/X.", "see storage://b/good/X."),
        ('{"a": "at /good"}', '{"a": "at /good"}'),
    ],
)
def test_prose_is_searched_where_it_may_be(text: str, expected: str) -> None:
    assert rewritten(text, prose=True) == expected
    assert rewritten(text) == text


def test_what_is_too_long_to_name_a_file_is_not_asked_for() -> None:
    asked: list[str] = []

    def ask(text: str) -> str | None:
        asked.append(text)
        return None

    for size in (3 * 4096 - 1, 3 * 4096):
        text = "x" * size
        assert rewritten_result({"structuredContent": {"a": text}}, ask, prose=False) == {
            "structuredContent": {"a": text}
        }
    assert {len(text) for text in asked} == {3 * 4096 - 1}
    asked.clear()
    for escapes, more in ((4095, 4), (4095, 5)):  # in its quotes the first is the longest literal that is read
        text = '["' + "\\u0041" * escapes + "x" * more + '"]'
        rewritten_result({"content": [{"type": "text", "text": text}]}, ask, prose=False)
    assert asked == ["A" * 4095 + "xxxx"]


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (
            {"type": "resource_link", "uri": "file:///good", "name": "/good"},
            {"type": "resource_link", "uri": "storage://b/good", "name": "/good"},
        ),
        (
            {"type": "resource", "resource": {"uri": "file:///good", "text": "/good"}, "annotations": {"a": 1}},
            {"type": "resource", "resource": {"uri": "storage://b/good", "text": "/good"}, "annotations": {"a": 1}},
        ),
        (
            {"type": "text", "text": "/good", "_meta": {"a": "/good"}},
            {"type": "text", "text": "storage://b/good", "_meta": {"a": "/good"}},
        ),
        ({"type": "image", "data": "/good"}, {"type": "image", "data": "/good"}),
        ({"type": "resource", "resource": {"uri": 1}}, {"type": "resource", "resource": {"uri": 1}}),
        ({"type": "text", "text": ["/good"]}, {"type": "text", "text": ["/good"]}),
        ("/good", "/good"),
        (None, None),
    ],
)  # fmt: skip
def test_of_a_block_only_what_names_its_content_is_replaced(block: Any, expected: Any) -> None:
    result = {"content": [block], "isError": False, "_meta": {"path": "/good"}}
    assert rewritten_result(result, replaced, prose=False) == {**result, "content": [expected]}
    assert result["content"] == [block]


def test_structured_content_is_searched_at_any_depth_and_its_names_stay() -> None:
    value = {"/good": [{"a": "/good", "b": ["at /good", None, 1, -0.0, True]}], "c": "/bad"}
    wanted = {"/good": [{"a": "storage://b/good", "b": ["at /good", None, 1, -0.0, True]}], "c": "/bad"}
    assert rewritten_result({"structuredContent": value}, replaced, prose=False) == {"structuredContent": wanted}
    in_prose = rewritten_result({"structuredContent": value}, replaced, prose=True)["structuredContent"]
    assert in_prose["/good"][0]["b"][0] == "at storage://b/good"


@pytest.mark.parametrize("result", [{}, {"content": None}, {"content": "/good"}, {"structuredContent": None}], ids=repr)
def test_a_result_without_content_stays_as_it_is(result: dict[str, Any]) -> None:
    assert rewritten_result(result, replaced, prose=True) == result
