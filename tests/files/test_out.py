"""Out: what a tool names by a local path reaches its client as a storage URI; nothing else of the result changes."""

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import anyio
import jsonschema
import pydantic_core
import pytest
from files.conftest import BUCKET, Place, called, files_in, left_in, texts, uri_of
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp_types import (
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ResourceLink,
    TextContent,
    TextResourceContents,
)
from pydantic import BaseModel, Field, FilePath

from perdure import install, persisted
from perdure.middleware.path_rewriting import local_path, rewritten_result
from perdure.middleware.persistence.stores.sqlite import SqliteStore

# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_path_that_is_the_whole_text_becomes_the_uri_of_its_bytes(seamed: Place, mode: str) -> None:
    path = seamed.file("report.pdf", b"%PDF-1.4 all of it")

    result = await seamed.given_out(str(path), mode=mode)

    uri = uri_of(b"%PDF-1.4 all of it", "report.pdf")
    assert texts(result) == [uri]
    assert result["structuredContent"]["result"] == uri
    assert seamed.content(uri) == b"%PDF-1.4 all of it"


async def test_a_file_uri_becomes_a_storage_uri(seamed: Place) -> None:
    path = seamed.file("report.txt")
    assert texts(await seamed.given_out(path.as_uri())) == [uri_of(b"content", "report.txt")]


@pytest.mark.parametrize("before", ["file://localhost", "FILE://", "File://LOCALHOST"])
async def test_a_file_uri_of_this_machine_may_be_written_in_any_way(place: Place, before: str) -> None:
    path = place.file("a.txt")
    assert texts(await place.given_out(f"{before}{path}")) == [uri_of(b"content", "a.txt")]


async def test_white_space_around_a_path_stays_where_it_was(place: Place) -> None:
    path = place.file("a.txt")
    assert texts(await place.given_out(f"\n  {path}\n")) == [f"\n  {uri_of(b'content', 'a.txt')}\n"]


async def test_the_temp_directory_is_a_root_without_any_setting(place: Place) -> None:
    place.set(file_roots=())
    path = place.file("deep/in/temp.txt", folder=place.temp)
    assert texts(await place.given_out(str(path))) == [uri_of(b"content", "temp.txt")]


async def test_a_root_may_be_named_through_a_link_and_a_file_by_either_name(place: Place, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(place.out)
    place.set(file_roots=(link,))
    place.file("a.txt")
    for folder in (link, place.out):
        assert texts(await place.given_out(str(folder / "a.txt"))) == [uri_of(b"content", "a.txt")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "/",
        "//",
        "hello",
        "a/b/c.txt",
        "./a.txt",
        "~/a.txt",
        "C:\\temp\\a.txt",
        "https://example.com/tmp/a.txt",
        "file://",
        "file:///",
        "file://[",
        "storage://elsewhere/x",
        "{not json",
        "[1, 2",
        '"',
        '"""',
    ],
)
async def test_text_that_names_no_file_stays_as_it_is(place: Place, text: str) -> None:
    result = await place.given_out(text)
    assert texts(result) == [text]
    assert result["structuredContent"]["result"] == text
    assert place.kept() == []


async def test_a_result_that_is_an_error_is_not_searched(place: Place) -> None:
    path = place.file("a.txt")
    error = CallToolResult(content=[TextContent(type="text", text=str(path))], is_error=True)
    assert texts(await place.given_out(error, CallToolResult)) == [str(path)]
    assert place.kept() == []


async def test_a_tool_whose_files_are_switched_off_gives_out_its_paths(seamed: Place) -> None:
    seamed.set(files=False)
    path = seamed.file("a.txt")
    result = await seamed.given_out(str(path))
    assert texts(result) == [str(path)]
    assert "perdure/files" not in result["_meta"]
    assert seamed.kept() == []


async def test_where_the_policy_wants_paths_the_file_is_kept_and_the_path_stays(seamed: Place) -> None:
    seamed.set(file_reference="path")
    path = seamed.file("a.txt")
    result = await seamed.given_out(str(path))
    assert texts(result) == [str(path)]
    assert files_in(result)["stored"][0]["uri"] == uri_of(b"content", "a.txt")
    assert seamed.content(uri_of(b"content", "a.txt")) == b"content"


# ── JSON text ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_json_text_keeps_its_own_formatting_to_the_last_character(seamed: Place) -> None:
    one, two = seamed.file("one.txt", b"1"), seamed.file("two.txt", b"2")
    text = (
        '\n{ "a" :"%s",\t"n":1.50e+2, "b": [ "%s" , "x\\u00e9y", -0.0,12345678901234567890123 ],\n'
        '   "%s": "the name of a member stays", "dup":1, "dup":2, "prose": "see %s." }  \n'
    )

    result = await seamed.given_out(text % (one, two, one, one))

    expected = text % (uri_of(b"1", "one.txt"), uri_of(b"2", "two.txt"), one, one)
    assert texts(result) == [expected]


@pytest.mark.parametrize(
    "written",
    [
        json.dumps,
        lambda path: json.dumps([[[path]]]),
        lambda path: json.dumps(path).replace("/", "\\/"),
        lambda path: json.dumps([path]).replace("/", "\\u002f"),
        lambda path: json.dumps({"quoted": 'a "b" \\', "path": path}),
        lambda path: json.dumps([path], indent=4).replace("\n", "\r\n"),
    ],
    ids=["a string alone", "nested", "slashes escaped", "slashes as code points", "quotes", "line ends"],
)
async def test_however_json_writes_a_path_it_is_found(place: Place, written: Any) -> None:
    path = place.file("a file.txt")
    (text,) = texts(await place.given_out(written(str(path))))
    assert _strings(json.loads(text))[-1] == uri_of(b"content", "a_file.txt")


async def test_what_looks_like_json_and_is_not_is_left_as_it_is(place: Place) -> None:
    path = place.file("a.txt")
    for text in (f'["{path}"', f'{{"a": "{path}",}}', f'["{path}"] and more', f"['{path}']", "[" * 100_000):
        assert texts(await place.given_out(text)) == [text]


async def test_a_number_that_python_refuses_to_read_does_not_hide_the_paths_beside_it(place: Place) -> None:
    path = place.file("a.txt")
    text = f'{{"n": {"9" * 5000}, "path": "{path}"}}'
    assert texts(await place.given_out(text)) == [text.replace(str(path), uri_of(b"content", "a.txt"))]


# ── structured content ───────────────────────────────────────────────────────────────────────────────────────────


async def test_paths_in_structured_content_are_found_at_any_depth(seamed: Place) -> None:
    one, two = seamed.file("one.txt", b"1"), seamed.file("two.txt", b"2")

    def value(first: str, second: str) -> dict[str, Any]:
        deep: Any = [first, {"here": second}]
        for _ in range(60):
            deep = {"deeper": [deep, None, 1, True, "text"]}
        return {"at_once": first, "list": [[second], []], "deep": deep, str(one): "the name of a member stays"}

    result = await seamed.given_out(value(str(one), str(two)), dict[str, Any])

    expected = value(uri_of(b"1", "one.txt"), uri_of(b"2", "two.txt"))
    structured = {name: item for name, item in result["structuredContent"].items() if name != "continuation_id"}
    assert structured == expected
    assert json.loads(texts(result)[0]) == expected


async def test_structured_content_of_great_depth_does_not_break_the_call(seamed: Place) -> None:
    deep: Any = "/nowhere/at/all"
    for _ in range(240):
        deep = [deep]
    result = await seamed.given_out({"deep": deep}, dict[str, Any])
    assert result["structuredContent"]["deep"] == deep
    assert result["_meta"]["perdure/persisted"] is True


async def test_the_same_file_named_often_is_looked_at_once(place: Place) -> None:
    path = str(place.file("a.txt"))
    result = await place.given_out([path, path, Path(path).as_uri()], list[str])
    assert texts(result) == [uri_of(b"content", "a.txt")] * 3
    assert len(files_in(result)["stored"]) == len(place.kept()) == 1


# ── blocks ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_resource_link_points_to_the_stored_file_and_keeps_its_other_members(seamed: Place) -> None:
    path = seamed.file("chart.png", b"\x89PNG\r\n\x1a\n123")
    link = ResourceLink(type="resource_link", uri=path.as_uri(), name="the chart", mime_type="image/png", size=11)

    (block, *_) = (await seamed.given_out([link], list[ResourceLink]))["content"]

    assert block == {
        "type": "resource_link",
        "uri": uri_of(b"\x89PNG\r\n\x1a\n123", "chart.png"),
        "name": "the chart",
        "mimeType": "image/png",
        "size": 11,
    }


async def test_an_embedded_resource_gets_the_uri_and_keeps_what_it_embeds(seamed: Place) -> None:
    path = seamed.file("notes.txt")
    uri = uri_of(b"content", "notes.txt")
    for contents in (
        TextResourceContents(uri=path.as_uri(), text=f"see {path}", mime_type="text/plain"),
        BlobResourceContents(uri=path.as_uri(), blob="AAEC"),
    ):
        (block, *_) = (await seamed.given_out([EmbeddedResource(type="resource", resource=contents)], list))["content"]
        assert block["resource"] == contents.model_dump(by_alias=True, mode="json", exclude_none=True) | {"uri": uri}


async def test_a_whole_result_of_the_tools_own_making_is_rewritten_in_all_its_parts(seamed: Place) -> None:
    path = seamed.file("a.txt")
    whole = CallToolResult(
        content=[
            TextContent(type="text", text=str(path)),
            TextContent(type="text", text=f"the file is {path}"),
            ResourceLink(type="resource_link", uri=str(path), name="a"),
        ],
        structured_content={"path": str(path)},
        _meta={"tools/own": str(path)},
    )

    result = await seamed.given_out(whole, CallToolResult)

    uri = uri_of(b"content", "a.txt")
    assert texts(result) == [uri, f"the file is {path}"]
    assert result["content"][2]["uri"] == uri
    assert result["structuredContent"]["path"] == uri
    assert result["_meta"]["tools/own"] == str(path)


# ── annotations ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_tool_annotated_path_gives_out_a_uri(seamed: Place) -> None:
    result = await seamed.given_out(seamed.file("a.txt"), Path)
    assert [text.strip('"') for text in texts(result)] == [uri_of(b"content", "a.txt")]  # as JSON, by the SDK


async def test_a_list_of_paths_becomes_a_list_of_uris_in_its_order(seamed: Place) -> None:
    paths = [seamed.file(f"{number}.txt", str(number).encode()) for number in (3, 1, 2)]
    result = await seamed.given_out(paths, list[Path])
    uris = [uri_of(str(number).encode(), f"{number}.txt") for number in (3, 1, 2)]
    assert result["structuredContent"]["result"] == uris
    assert [text.strip('"') for text in texts(result)] == uris


class Report(BaseModel):
    title: str
    file: Path
    parts: dict[str, list[Path]] = {}


async def test_paths_in_a_model_are_rewritten_and_its_schema_still_holds(seamed: Place) -> None:
    path = seamed.file("a.txt")
    result = await seamed.given_out(Report(title="t", file=path, parts={"x": [path]}), Report)
    uri = uri_of(b"content", "a.txt")
    assert {name: result["structuredContent"][name] for name in ("title", "file", "parts")} == {
        "title": "t",
        "file": uri,
        "parts": {"x": [uri]},
    }


class ExistingReport(BaseModel):
    file: FilePath


class PlainReport(BaseModel):
    file: Annotated[str, Field(pattern="^/")]


class ShortReport(BaseModel):
    file: Annotated[str, Field(max_length=250)]
    other: str


@pytest.mark.parametrize("seam", ["decorator-sync", "decorator-async", "hook-sync", "hook-async", "both"])
async def test_an_output_type_that_wants_a_path_of_a_file_is_given_one_and_the_file_is_kept(
    place: Place, seam: str
) -> None:
    path = place.file("a.txt")

    def give() -> ExistingReport:
        return ExistingReport(file=path)

    server = _server(place, give, seam)
    result = await called(server, "give")

    assert not result.get("isError"), result
    await _satisfies_a_strict_client(server, result)
    assert files_in(result)["stored"][0]["uri"] == uri_of(b"content", "a.txt")
    assert result["structuredContent"]["file"] in (str(path), uri_of(b"content", "a.txt"))


@pytest.mark.parametrize("seam", ["decorator-sync", "decorator-async", "hook-sync", "hook-async", "both"])
async def test_an_output_schema_that_refuses_a_uri_is_satisfied_all_the_same(place: Place, seam: str) -> None:
    path = place.file("a.txt")

    def give() -> PlainReport:
        return PlainReport(file=str(path))

    server = _server(place, give, seam)
    result = await called(server, "give")

    await _satisfies_a_strict_client(server, result)
    assert result["structuredContent"]["file"] == str(path)
    assert files_in(result)["stored"][0]["uri"] == uri_of(b"content", "a.txt")
    assert _is_in_chat_files(place, files_in(result)["stored"][0]["uri"])


@pytest.mark.parametrize("seam", ["decorator-sync", "hook-sync", "both"])
async def test_every_output_schema_of_rewritten_values_holds_in_a_strict_client(place: Place, seam: str) -> None:
    path = str(place.file("a" * 100 + ".txt"))

    def give() -> ShortReport:
        return ShortReport(file=path, other=path)

    server = _server(place, give, seam)
    await _satisfies_a_strict_client(server, await called(server, "give"))


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────

NAMES = [
    ("two words.txt", "two_words.txt"),
    ("  edges .txt", "_edges_.txt"),
    ("Übersicht.txt", "_bersicht.txt"),
    ("日本語.txt", "_.txt"),
    ("a%20b.txt", "a_20b.txt"),
    ("100%.txt", "100_.txt"),
    ("%2e%2e%2f.txt", "_2e_2e_2f.txt"),
    ("a#b?c.txt", "a_b_c.txt"),
    ("back\\slash.txt", "back_slash.txt"),
    ("back\\0zero.txt", "back_0zero.txt"),
    ("quo\"te's.txt", "quo_te_s.txt"),
    ("no ending", "no_ending"),
    ("ends.with.dot.", "ends.with.dot."),
    ("-rf", "-rf"),
    ("🦜", "_"),
    ("x" * 250 + ".txt", "x" * 76 + ".txt"),
    ("y." + "z" * 200, "y." + "z" * 78),
    ("e\u0301 and \u00e9.txt", "e_and_.txt"),
    ("tab\there.txt", "tab_here.txt"),
    ("\u202egpj.exe", "_gpj.exe"),
]


@pytest.mark.parametrize(("name", "safe"), NAMES, ids=[repr(name)[:30] for name, _ in NAMES])
async def test_any_name_is_kept_as_it_is_and_its_uri_is_safe_everywhere(place: Place, name: str, safe: str) -> None:
    path = place.file(name)
    uri = uri_of(b"content", safe)
    for text in (str(path), path.as_uri(), json.dumps({"path": str(path)})):
        (found,) = texts(await place.given_out(text))
        assert found in (uri, json.dumps({"path": uri}))
    assert {file.name for file in place.kept()} == {name}
    assert uri.isascii()


async def test_a_file_uri_may_be_percent_encoded_more_or_less_than_it_must(place: Place) -> None:
    path = place.file("a b+c~ü.txt")
    folder = quote(str(place.out))
    for name in ("a%20b+c~%C3%BC.txt", "%61%20b%2Bc%7E%c3%bc.txt", "a b+c~ü.txt"):
        assert texts(await place.given_out(f"file://{folder}/{name}")) == [uri_of(b"content", "a_b_c_.txt")]
    assert path.exists()


async def test_a_plain_path_is_never_percent_decoded(place: Place) -> None:
    place.file("a b.txt", b"decoded")
    encoded = place.file("a%20b.txt", b"as written")
    assert texts(await place.given_out(str(encoded))) == [uri_of(b"as written", "a_20b.txt")]


async def test_a_name_that_is_not_utf_8_is_kept_however_the_path_was_written(seamed: Place) -> None:
    raw = os.fsencode(seamed.out) + b"/caf\xe9.txt"
    Path(os.fsdecode(raw)).write_bytes(b"content")
    uri = uri_of(b"content", "caf_.txt")

    assert texts(await seamed.given_out(f"file://{quote(raw)}")) == [uri]
    result = await seamed.given_out([TextContent(type="text", text=os.fsdecode(raw))], list[TextContent])
    assert texts(result) == [uri]
    assert {file.name for file in seamed.kept()} == {"caf�.txt"}


async def test_a_path_that_is_no_text_and_stays_does_not_keep_the_result_from_being_sent(seamed: Place) -> None:
    for text in ("file:///srv/%FF.txt", f"file://{quote(str(seamed.out))}/%FF.txt"):
        result = await seamed.given_out(text)
        assert texts(result) == [text]
        pydantic_core.to_json(result)  # as a transport does


@pytest.mark.parametrize("text", ["file:///srv/\ud800.txt", "/srv/\ud800.txt", "file:///\udcff", "\ud800"])
async def test_a_lone_surrogate_in_one_path_does_not_lose_the_file_beside_it(seamed: Place, text: str) -> None:
    path = seamed.file("a.txt")
    blocks = [TextContent(type="text", text=text), TextContent(type="text", text=str(path))]
    result = await seamed.given_out(blocks, list[TextContent])
    assert texts(result) == [text, uri_of(b"content", "a.txt")]
    assert _is_in_chat_files(seamed, uri_of(b"content", "a.txt"))


async def test_a_line_break_in_a_file_uri_does_not_make_it_the_uri_of_another_file(place: Place) -> None:
    place.file("ab.txt")
    for text in (f"file://{place.out}/a\nb.txt", f"file://{place.out}/a\tb.txt", f"file://{place.out}/a\rb.txt"):
        assert texts(await place.given_out(text)) == [text]
    assert place.kept() == []


# ── prose ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_prose_is_left_alone_unless_the_policy_says_otherwise(seamed: Place) -> None:
    text = f"I wrote {seamed.file('a.txt')}."
    assert texts(await seamed.given_out(text)) == [text]
    assert seamed.kept() == []


async def test_prose_is_searched_where_the_policy_says_so(seamed: Place) -> None:
    seamed.set(rewrite_text=True)
    path = seamed.file("a.txt")
    text = f"I wrote {path}. Also ({path}), `{path}`, {path.as_uri()}! See {path}:\n{path}"
    uri = uri_of(b"content", "a.txt")
    assert texts(await seamed.given_out(text)) == [f"I wrote {uri}. Also ({uri}), `{uri}`, {uri}! See {uri}:\n{uri}"]


async def test_in_prose_no_part_of_an_address_or_of_a_longer_path_is_taken_for_a_path(place: Place) -> None:
    place.set(rewrite_text=True)
    path = place.file("a.txt")
    for text in (f"https://host{path} is not ours", f"./sub{path} is relative", f"~{path} is not", f"x{path} neither"):
        assert texts(await place.given_out(text)) == [text]
    assert place.kept() == []


# ── what is recorded ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_row_says_everything_of_the_file_and_the_turn_it_came_from(tmp_path: Path, place: Place) -> None:
    place.store = SqliteStore(tmp_path / "perdure.db")
    try:
        place.set()
        content = b"\x89PNG\r\n\x1a\n" + b"0" * 100
        result = await place.given_out(str(place.file("Bild 1.png", content)))
        meta = result["_meta"]
        with sqlite3.connect(tmp_path / "perdure.db") as connection:
            connection.row_factory = sqlite3.Row
            (row,) = connection.execute("SELECT * FROM chat_files").fetchall()
        connection.close()
        turn_id = meta["perdure/turn-id"]
        sha256 = hashlib.sha256(content).hexdigest()
        assert {name: row[name] for name in row.keys() if name not in ("session_id", "created_at")} == {  # noqa: SIM118
            "name": "Bild 1.png",
            "version": 1,
            "turn_id": turn_id,
            "user_id": "local",
            "bucket": BUCKET,
            "key": f"local/{sha256}/Bild_1.png",
            "sha256": sha256,
            "size": len(content),
            "media_type": "image/png",
        }
        (file,) = place.kept()
        assert (file.turn_id, file.continuation_id) == (turn_id, meta["perdure/continuation-id"])
        assert files_in(result) == {
            "stored": [
                {"uri": file.uri, "name": "Bild 1.png", "version": 1, "size": len(content), "mediaType": "image/png"}
            ],
            "left": [],
        }
    finally:
        place.store.close()


async def test_the_answer_is_recorded_as_the_client_got_it(seamed: Place) -> None:
    path = seamed.file("a.txt")
    result = await seamed.given_out(str(path))
    (turn,) = seamed.runtime.engine.turns("local", result["_meta"]["perdure/continuation-id"])
    assert turn.answer is not None
    assert turn.answer.text == uri_of(b"content", "a.txt")
    assert str(path) not in json.dumps(turn.answer.result)


MEDIA = [
    ("a.txt", b"hello", "text/plain"),
    ("a.txt", b"", "text/plain"),
    ("a.csv", b"a,b\n1,2\n", "text/csv"),
    ("a.md", "# Überschrift\n".encode(), ("text/markdown", "text/plain")),
    ("a.json", b'{"a": 1}', "application/json"),
    ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(20), "image/png"),
    ("png-by-another-name.txt", b"\x89PNG\r\n\x1a\n" + bytes(20), "image/png"),
    ("a.pdf", b"%PDF-1.7\n", "application/pdf"),
    ("a.bin", b"\x00\x01\x02\x03", "application/octet-stream"),
    ("no-ending", b"\xc3\x28\xa0\xa1", "application/octet-stream"),
    ("cut.txt", b"x" * 4095 + "ü".encode() + b"y" * 100, "text/plain"),
    ("sales.txt", b"BMW sales report", "text/plain"),
    ("sales.txt", b"MZ is the first word", "text/plain"),
    ("priorities.txt", b"P1 is the first\n", "text/plain"),
    ("tags.txt", b"ID3 tags are ...", "text/plain"),
]


@pytest.mark.parametrize(("name", "content", "expected"), MEDIA, ids=[f"{n}-{c[:6]!r}" for n, c, _ in MEDIA])
async def test_the_media_type_is_told_by_content_and_text_is_text(
    place: Place, name: str, content: bytes, expected: str | tuple[str, ...]
) -> None:
    result = await place.given_out(str(place.file(name, content)))
    assert files_in(result)["stored"][0]["mediaType"] in ([expected] if isinstance(expected, str) else expected)


# ── what is left alone ───────────────────────────────────────────────────────────────────────────────────────────


async def test_a_path_outside_of_the_roots_is_named_in_meta_with_the_setting_that_would_admit_it(seamed: Place) -> None:
    path = seamed.file("a.txt", folder=seamed.outside)
    result = await seamed.given_out(str(path))
    assert texts(result) == [str(path)]
    assert files_in(result) == {
        "stored": [],
        "left": [
            {"path": str(path), "reason": "it lies outside of the allowed roots", "setting": "file_roots"},
        ],
    }
    assert seamed.kept() == []


async def test_what_the_log_advises_admits_the_file(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    path = place.file("a.txt", folder=place.outside)
    await place.given_out(str(path))
    (said,) = [record.getMessage() for record in caplog.records if "file.left_alone" in record.getMessage()]
    assert f"[tools.give] file_roots = ['{place.outside}']" in said
    place.set(file_roots=(place.outside,))
    assert texts(await place.given_out(str(path))) == [uri_of(b"content", "a.txt")]


async def test_the_log_never_advises_a_root_that_would_be_refused(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    for text in ("/help", "/", str(place.temp), str(Path.home() / "a.txt")):
        await place.given_out(text)
    advised = [record.getMessage() for record in caplog.records if "file_roots = " in record.getMessage()]
    assert not [line for line in advised if "file_roots = ['/']" in line or f"['{Path.home()}']" in line]


SERVER = """
import sys
from mcp.server.mcpserver import MCPServer
from perdure import persisted

mcp = MCPServer("test")

@mcp.tool()
@persisted
def give(path: str) -> str:
    return path

mcp.run()
"""


async def test_it_is_said_once_on_stderr_for_each_folder(tmp_path: Path) -> None:
    outside = Path(tmp_path, "outside")
    outside.mkdir()
    (tmp_path / "temp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temp"), "COLUMNS": "1000"}
    script = SERVER.replace("mcp.run()", "") + (
        "import anyio\nfrom mcp import Client\n"
        "async def main():\n"
        "    async with Client(mcp) as client:\n"
        "        for path in sys.argv[1:]:\n"
        "            await client.call_tool('give', {'path': path})\n"
        "anyio.run(main)\n"
    )
    paths = [str(outside / "a"), str(outside / "a"), str(outside / "b"), str(tmp_path / "elsewhere" / "c")]
    done = subprocess.run(
        [sys.executable, "-c", script, *paths], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if "file.left_alone" in line]
    assert len(said) == 2
    assert f"file_roots = ['{outside}']" in said[0]
    assert f"file_roots = ['{tmp_path / 'elsewhere'}']" in said[1]


async def test_a_root_that_is_not_there_costs_no_other_file(seamed: Place, tmp_path: Path) -> None:
    seamed.set(file_roots=(seamed.out, tmp_path / "not-made-yet"))
    path = seamed.file("a.txt")
    result = await seamed.given_out([str(tmp_path / "not-made-yet" / "b.txt"), str(path)], list[str])
    assert texts(result) == [str(tmp_path / "not-made-yet" / "b.txt"), uri_of(b"content", "a.txt")]
    assert left_in(result)["path"] == str(tmp_path / "not-made-yet" / "b.txt")
    assert "perdure/fault" not in result["_meta"]


@pytest.mark.parametrize("root", ["/", "~", "/root" if Path.home() == Path("/root") else "/home", "~nobody-here/x"])
async def test_a_root_that_is_refused_is_said_and_costs_no_turn(
    seamed: Place, root: str, caplog: pytest.LogCaptureFixture
) -> None:
    seamed.set(file_roots=(root, str(seamed.out)))
    path = seamed.file("a.txt")
    result = await seamed.given_out(str(path))
    assert result["_meta"]["perdure/persisted"] is True
    assert texts(result)[0] in (str(path), uri_of(b"content", "a.txt"))
    assert "file_roots" in caplog.text


async def test_many_calls_at_once_keep_all_their_files(seamed: Place) -> None:
    def give(number: int) -> str:
        return str(seamed.file(f"{number}.txt", str(number).encode() * 100_000))

    server = seamed.server(give)
    results: dict[int, Any] = {}

    async with Client(server) as client:

        async def call(number: int) -> None:
            result = await client.call_tool("give", {"number": number})
            results[number] = result.model_dump(by_alias=True, mode="json", exclude_none=True)

        async with anyio.create_task_group() as group:
            for number in range(24):
                group.start_soon(call, number)

    assert [texts(results[number]) for number in range(24)] == [
        [uri_of(str(number).encode() * 100_000, f"{number}.txt")] for number in range(24)
    ]


# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_result_in_which_nothing_is_replaced_is_equal_and_its_parts_are_the_same() -> None:
    result = {
        "content": [{"type": "text", "text": ' {"a": "/b"} '}, {"type": "image", "data": "/9j/"}, "odd", None],
        "structuredContent": {"a": [1, -0.0, None, "/x", {"deep": "file:///y"}]},
        "other": "/z",
    }
    again = rewritten_result(result, lambda text: None, prose=True)
    assert json.dumps(again) == json.dumps(result)
    assert local_path("/z") == "/z"


def _server(place: Place, tool: Any, seam: str) -> MCPServer:
    if seam != "both":
        return place.server(tool, seam=seam)
    server = MCPServer("files")
    server.tool()(persisted(tool))
    install(server)
    return server


async def _satisfies_a_strict_client(server: MCPServer, result: dict[str, Any]) -> None:
    async with Client(server) as client:
        (tool,) = (await client.list_tools()).tools
    assert tool.output_schema is not None
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(tool.output_schema, format_checker=checker).validate(result["structuredContent"])


def _is_in_chat_files(place: Place, uri: str) -> bool:
    return uri in {file.uri for file in place.kept()}


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [text for item in value for text in _strings(item)] if isinstance(value, list) else []
