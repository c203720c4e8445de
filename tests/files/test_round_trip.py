"""The round trip: any bytes under any name, anywhere in a result; out, wipe the directory, in; the same bytes."""

import json
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
from files.conftest import Place
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mcp import Client

Files = list[tuple[bytes, bytes]]
"""A name and a content each."""


def _is_a_name(name: bytes) -> bool:
    """What can name a file, and is neither hidden nor broken over lines."""
    return not name.startswith(b".") and not set(name) & set(b"/\0\n\r")


NAMES = st.one_of(
    st.binary(min_size=1, max_size=200),
    st.text(min_size=1, max_size=60).map(lambda name: name.encode("utf-8", "surrogatepass")),
    st.text("aA0 .%\\&?#'\"<>|;:*~^$(){}[]é日🦜", min_size=1, max_size=30).map(str.encode),
    st.sampled_from([b"a.txt", b"%2e%2e%2f", b"..%2f", b"a b.tar.gz", b"-rf", b"~", b"CON", b"a\\0b", b"\xff\xfe"]),
).filter(_is_a_name)

CONTENTS = st.one_of(
    st.binary(max_size=300),
    st.binary(min_size=1, max_size=20).map(lambda piece: piece * 70_000),  # of more than one piece
)

FILES = st.lists(st.tuples(NAMES, CONTENTS), min_size=1, max_size=4)

WRITTEN = st.sampled_from(["path", "uri", "padded", "json"])
"""How a tool writes a path down."""

NESTINGS = st.recursive(
    st.one_of(
        st.tuples(st.just("file"), st.integers(0, 3), WRITTEN),
        st.none(),
        st.booleans(),
        st.integers(-(2**53), 2**53),
        st.text("abc é/", max_size=8).map(lambda text: "text " + text),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc/é", max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(files=FILES, nesting=NESTINGS)
@example(files=[(b"\xe9\xff.txt", b"")], nesting=[("file", 0, "path"), ("file", 0, "uri")])
@example(files=[(b"a", b"1"), (b"a", b"2")], nesting={"x": [("file", 0, "path"), {"y": ("file", 1, "uri")}]})
@example(files=[(b"x" * 255, b"long")], nesting=("file", 0, "uri"))
def test_what_went_out_comes_back_byte_for_byte(place: Place, files: Files, nesting: Any) -> None:
    anyio.run(_out_wipe_in, place, files, nesting)


async def _out_wipe_in(place: Place, files: Files, nesting: Any) -> None:
    shutil.rmtree(place.out, ignore_errors=True)
    paths = []
    for number, (name, content) in enumerate(files):
        folder = place.out / f"folder {number}"
        folder.mkdir(parents=True)
        path = os.fsencode(folder) + b"/" + name
        with open(path, "wb") as file:
            file.write(content)
        paths.append(path)
    taken: list[Any] = []

    def give() -> dict[str, Any]:
        return {"data": _each(nesting, lambda number, way: _written(paths[number % len(paths)], way))}

    def take(data: Any) -> str:
        taken.append(data)
        found = _each_string(data, lambda text: Path(text).read_bytes() if text.startswith("/") else text)
        expected = _each(nesting, lambda number, way: files[number % len(files)][1])
        return str(found == expected)

    async with Client(place.server(give)) as client:
        given_out = (await client.call_tool("give", {})).structured_content
    assert given_out is not None
    shutil.rmtree(place.out)
    data = _each_string(given_out["data"], lambda text: json.loads(text) if text.startswith('"') else text)
    assert str(place.out) not in json.dumps(data)
    async with Client(place.server(take)) as client:
        result = await client.call_tool("take", {"data": data})

    assert result.content[0].text == "True", (data, taken)
    for text in _strings(data):
        if text.strip().startswith("storage://"):
            assert text.isascii()


def _written(path: bytes, way: str) -> str:
    text = os.fsdecode(path)
    if way == "uri" or _is_no_text(path):  # a result has no other way to say it
        return "file://" + quote(path)
    match way:
        case "padded" if text == text.strip():
            return f" {text}\n"
        case "json":
            return json.dumps(text)
        case _:
            return text


def _is_no_text(path: bytes) -> bool:
    try:
        path.decode()
    except UnicodeDecodeError:
        return True
    return False


def _each(nesting: Any, replaced: Any) -> Any:
    match nesting:
        case ("file", number, way):
            return replaced(number, way)
        case dict():
            return {name: _each(item, replaced) for name, item in nesting.items()}
        case list():
            return [_each(item, replaced) for item in nesting]
        case _:
            return nesting


def _each_string(value: Any, replaced: Any) -> Any:
    match value:
        case str():
            return replaced(value)
        case dict():
            return {name: _each_string(item, replaced) for name, item in value.items()}
        case list():
            return [_each_string(item, replaced) for item in value]
        case _:
            return value


def _strings(value: Any) -> list[str]:
    found: list[str] = []
    _each_string(value, lambda text: found.append(text) or text)  # type: ignore[func-returns-value]
    return found
