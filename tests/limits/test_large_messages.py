"""Very large prompts and answers are kept in the file store, and whoever reads the turn gets them back whole."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from backends import Backend
from conftest import Activate, on_every_backend
from mcp.server.mcpserver import MCPServer
from mcp_wire import called, kept, text_of
from spool.test_files_that_wait import AwayFileStore
from spool.test_turns_that_wait import is_empty, until

from perdure import persisted
from perdure.errors import StoreUnavailable
from perdure.middleware.persistence.archive.exporting import export_to
from perdure.middleware.persistence.archive.lines import conversation_of, turn_of
from perdure.middleware.persistence.large_messages import LargeMessages
from perdure.middleware.persistence.large_messages.bodies import Bodies
from perdure.middleware.persistence.large_messages.size import is_larger
from perdure.middleware.persistence.retention import forget_user
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.turn import Answer, Json, Outcome, StoredFile, Turn, Window
from perdure.middleware.persistence.wiring import Runtime, activated, build
from perdure.settings import Settings, ToolSettings
from perdure.testing.turns import a_turn, answered, ended

WIDE = Window(turns=100, tokens=100_000_000)
LONG = "the quick brown fox ümläuts \0 \ud800 " * 4_000
IMAGE = {"content": [{"type": "image", "data": "iVBORw0KGgo" * 9_000, "mimeType": "image/png"}], "isError": False}
FILE = StoredFile(key="", bucket="mcp-files", name="n", sha256="a" * 64, size=1, media_type="text/plain")

MakeRuntime = Callable[..., Runtime]


@pytest.fixture
def make_runtime(tmp_path: Path) -> Iterator[MakeRuntime]:
    made: list[Runtime] = []

    def make(**settings: Any) -> Runtime:
        file_store = settings.pop("file_store", None)
        wanted = {"data_dir": tmp_path / "data", "max_message_bytes": 10_000} | settings
        made.append(build(Settings(**wanted), file_store=file_store))
        return made[-1]

    yield make
    for runtime in made:
        assert runtime.spool is not None
        runtime.spool.close()
        runtime.engine.store.close()


@pytest.fixture
def away(tmp_path: Path) -> AwayFileStore:
    return AwayFileStore(tmp_path / "data" / "files")


def a_large_turn(number: int = 1, text: str = LONG) -> Turn:
    return answered(a_turn(f"{number}: {text}", continuation_id="c"), f"{text} {number}", tokens=len(text))


def rows(runtime: Runtime) -> list[tuple[str, str]]:
    """The messages as the database has them: content and exact form."""
    with closing(sqlite3.connect(runtime.own_folder / "perdure.db")) as connection:
        return connection.execute("SELECT content, body FROM chat_messages ORDER BY id").fetchall()


def tell(runtime: Runtime, turn: Turn) -> None:
    runtime.engine.store.begin(turn, WIDE)
    runtime.engine.store.finish(turn)


def only(runtime: Runtime) -> Turn:
    (turn,) = kept(runtime)
    return turn


async def test_an_answer_of_five_megabytes_comes_back_whole_and_its_row_is_a_readable_head(
    make_runtime: MakeRuntime,
) -> None:
    server = MCPServer("large")

    @server.tool()
    @persisted
    def essay(prompt: str) -> str:
        return prompt * 500_000

    with activated(make_runtime(max_message_bytes=1_000_000)) as runtime:
        result = await called(server, "essay", {"prompt": "0123456789"})
        assert text_of(result) == "0123456789" * 500_000
        assert result["_meta"]["perdure/persisted"] is True
        assert "perdure/files" not in result["_meta"]
        turn = only(runtime)
        assert turn.answer is not None
        assert turn.answer.text == "0123456789" * 500_000
        assert turn.answer.result["structuredContent"] == {"result": "0123456789" * 500_000}
        assert turn.tokens == 5_000_000 // 4 + 3  # and those of the prompt
        content, body = rows(runtime)[1]
        assert len(content) + len(body) < 101_000
        assert content.startswith("0123456789" * 9_000)
        assert "of 5,000,000 characters. The whole: storage://mcp-files/local/" in content


@pytest.mark.parametrize(
    "turn",
    [
        a_large_turn(),
        ended(a_turn("draw", continuation_id="c"), Outcome.ANSWERED, Answer(text="", result=IMAGE)),
        ended(
            a_turn("fail", continuation_id="c"),
            Outcome.FAILED,
            Answer(error={"type": "ValueError", "message": "no " * 9_000}),
        ),
        a_turn("run", continuation_id="c", arguments={"rows": [[1, None, "ä" * 50]] * 900, "k" * 9: -0.0}),
        answered(a_turn("small", continuation_id="c"), "small"),
    ],
    ids=["text", "image", "error", "arguments", "small"],
)  # fmt: skip
def test_any_kind_of_message_comes_back_equal(make_runtime: MakeRuntime, turn: Turn) -> None:
    runtime = make_runtime()
    runtime.engine.store.begin(turn, WIDE)
    if turn.outcome is not Outcome.RUNNING:
        runtime.engine.store.finish(turn)
    assert replace(only(runtime), outcome=turn.outcome) == replace(turn, place=1)
    assert all(len(content) + len(body) < 45_000 for content, body in rows(runtime))
    assert runtime.engine.files("alice") == []


def test_a_budget_of_history_knows_the_true_size_and_history_is_whole(make_runtime: MakeRuntime) -> None:
    store = make_runtime().engine.store
    turns = [a_large_turn(number) for number in (1, 2)]
    for turn in turns:
        store.begin(turn, WIDE)
        store.finish(turn)
    within = store.begin(a_turn("3", continuation_id="c"), Window(turns=20, tokens=2 * len(LONG)))
    assert [turn.answer for turn in within.history] == [turn.answer for turn in turns]
    over = store.begin(a_turn("4", continuation_id="c"), Window(turns=20, tokens=2 * len(LONG) - 1))
    assert [turn.prompt for turn in over.history] == [turns[1].prompt]


def test_the_same_message_twice_is_kept_once(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime()
    for number in range(3):
        tell(runtime, answered(a_turn("again", continuation_id=f"c{number}"), LONG))
    assert len(bodies_in(runtime)) == 1


@on_every_backend
def test_on_every_backend_a_large_turn_comes_back_equal_to_another_process(backend: Backend) -> None:
    """In Postgres, whose files are on one machine, it is whole in the database."""
    turn = answered(a_turn(LONG * 10, continuation_id="c"), LONG * 10)
    with closing(backend.open()) as one, closing(backend.open()) as another:
        one.begin(turn, WIDE)
        one.finish(turn)
        assert another.turns("alice", "c") == [replace(turn, place=1)]
        assert another.files("alice") == []


# ── the file store is away ───────────────────────────────────────────────────────────────────────────────────


def test_while_the_file_store_is_away_the_whole_waits_in_the_spool_and_is_read_from_there(
    make_runtime: MakeRuntime, away: AwayFileStore
) -> None:
    away.away = True
    runtime = make_runtime(file_store=away)
    tell(runtime, turn := a_large_turn())
    assert only(runtime) == replace(turn, place=1)
    assert len(rows(runtime)[1][0]) < 11_000
    spool = runtime.spool
    assert spool is not None
    assert not is_empty(spool)
    away.away = False
    spool.flush(5)
    until(lambda: is_empty(spool), "the file store has it")
    assert only(runtime) == replace(turn, place=1)


def test_where_the_spool_is_full_too_the_whole_stays_in_the_store(
    make_runtime: MakeRuntime, away: AwayFileStore
) -> None:
    away.away = True
    runtime = make_runtime(file_store=away, spool_max_bytes=0)
    tell(runtime, turn := a_large_turn())
    assert only(runtime) == replace(turn, place=1)
    assert len(rows(runtime)[1][0]) > 100_000


def test_a_bucket_that_takes_no_object_of_that_size_leaves_the_whole_in_the_store(
    make_runtime: MakeRuntime, away: AwayFileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(away, "most_bytes", lambda: 50_000)
    runtime = make_runtime(file_store=away)
    tell(runtime, turn := a_large_turn())
    assert only(runtime) == replace(turn, place=1)


def test_a_message_that_cannot_be_read_now_is_no_cut_one_but_an_error_and_a_call_goes_on_with_its_head(
    make_runtime: MakeRuntime, away: AwayFileStore
) -> None:
    runtime = make_runtime(file_store=away)
    tell(runtime, a_large_turn())
    away.away = True
    with pytest.raises(StoreUnavailable):
        kept(runtime)
    begun = runtime.engine.store.begin(a_turn("next", continuation_id="c"), WIDE)
    (shown,) = begun.history
    assert "The whole: storage://mcp-files/alice/" in shown.prompt
    assert shown.answer is not None
    assert shown.answer.result is None


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"{}")], ids=["gone", "changed"])
def test_a_message_whose_body_is_gone_or_changed_is_its_head_and_the_others_can_be_read(
    make_runtime: MakeRuntime, harm: Callable[[Path], None]
) -> None:
    runtime = make_runtime()
    tell(runtime, a_large_turn(1))
    for path in bodies_in(runtime):
        harm(path)
    tell(runtime, whole := a_large_turn(2))
    first, second = kept(runtime)
    assert second == replace(whole, place=2)
    assert "The whole: storage://" in first.prompt
    assert (first.arguments, first.answer and first.answer.result) == ({}, None)


# ── nobody can have perdure read what they name ──────────────────────────────────────────────────────────────


def test_arguments_and_results_that_look_like_a_reference_are_what_they_are(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime()
    tell(runtime, secret := a_large_turn())
    mark = json.loads(rows(runtime)[1][1])["value"]["result"]
    assert set(mark) == {"perdure/whole"}
    assert mark["perdure/whole"]["key"].startswith("alice/")
    for forged in (mark, {"perdure/whole": {"value": 1}}, {"perdure/whole": None}, {"perdure/whole": mark}):
        turn = ended(
            a_turn("p", continuation_id="forged", arguments=forged), Outcome.ANSWERED, Answer(text="x", result=forged)
        )
        tell(runtime, turn)
        read = runtime.engine.turns("alice", "forged")[-1]
        assert (read.prompt, read.arguments, read.answer) == ("p", forged, turn.answer)
    assert runtime.engine.turns("alice", "c")[0].answer == secret.answer


def test_a_row_that_names_the_body_of_another_principal_shows_nothing_of_it(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime()
    tell(runtime, a_large_turn())
    mark = json.loads(rows(runtime)[1][1])["value"]["result"]
    tell(runtime, ended(a_turn("mallory", continuation_id="m", principal="mallory"), Outcome.ANSWERED))
    with closing(sqlite3.connect(runtime.own_folder / "perdure.db")) as connection, connection:
        connection.execute(
            "UPDATE chat_messages SET body = ? WHERE part = 1 AND session_id = (SELECT id FROM chat_sessions"
            " WHERE user_id = 'mallory')",
            [json.dumps({"value": {"result": mark, "error": None}})],
        )
    (turn,) = runtime.engine.turns("mallory", "m")
    assert turn.answer == Answer(text="")


def test_a_body_is_no_file_that_anybody_can_ask_for(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime()
    tell(runtime, a_large_turn())
    key = json.loads(rows(runtime)[1][1])["value"]["result"]["perdure/whole"]["key"]
    assert runtime.engine.store.file("alice", key) is None
    assert runtime.engine.files("alice") == []


def test_bodies_take_no_place_of_a_file_in_a_list(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime()
    given_out = replace(FILE, key=f"alice/{'a' * 64}/n.txt")
    tell(runtime, replace(a_large_turn(1), files=(given_out,)))
    for number in range(2, 6):
        tell(runtime, a_large_turn(number))
    assert [file.key for file in runtime.engine.files("alice", limit=1)] == [given_out.key]


# ── whoever reads turns ──────────────────────────────────────────────────────────────────────────────────────


def test_an_archive_holds_the_whole(make_runtime: MakeRuntime, tmp_path: Path) -> None:
    runtime = make_runtime()
    tell(runtime, turn := a_large_turn())
    manifest = export_to(
        tmp_path / "archive",
        runtime.engine.store,
        runtime.keeper.file_store,
        principal=None,
        at=datetime.now(UTC),
        progress=lambda _done, _known: None,
    )
    assert manifest["files"] == 0
    lines = [json.loads(line) for line in (tmp_path / "archive" / "turns.jsonl").read_text().splitlines()]
    assert turn_of(lines[1], conversation_of(lines[0]), "mcp-files") == replace(turn, place=1)


def test_conversations_show_prints_the_whole(make_runtime: MakeRuntime, tmp_path: Path) -> None:
    tell(make_runtime(), answered(a_turn("p", continuation_id="c", principal="local"), "word " * 9_000))
    ran = subprocess.run(
        [sys.executable, "-c", "from perdure.cli import main; main()", "conversations", "show", "c", "--json"],
        env={**os.environ, "PERDURE_DATA_DIR": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ran.stdout)["turns"][0]["answer"] == "word " * 9_000


async def test_a_kept_answer_is_given_again_whole(make_runtime: MakeRuntime) -> None:
    server, ran = MCPServer("large"), []

    @server.tool()
    @persisted
    def essay(prompt: str) -> str:
        ran.append(prompt)
        return "word " * 9_000

    again = {"perdure/idempotency-key": "k"}
    with activated(make_runtime(defaults=ToolSettings(replay=True))):
        first, second = [await called(server, "essay", {"prompt": "p"}, again) for _ in range(2)]
    assert (text_of(first), text_of(second), ran) == ("word " * 9_000, "word " * 9_000, ["p"])


def test_purging_a_conversation_gives_back_its_bodies_too(
    database_url: str, tmp_path: Path, away: AwayFileStore
) -> None:
    """As `purge_expired` gives back the keys of files: whoever purges removes what it names."""
    store = PostgresStore(database_url)
    with closing(store):
        large = LargeMessages(store, Bodies(away, tmp_path), max_bytes=10_000)
        turn = a_large_turn()
        large.begin(turn, WIDE)
        large.finish(turn)
        gone: Json = store._functions.call("delete_conversation", {"user_id": "alice", "continuation_id": "c"})
    paths = {path.name for path in (tmp_path / "data" / "files" / "mcp-files" / "alice").iterdir()}
    assert {file["key"].split("/")[1] for file in gone["files"]} == paths
    assert len(paths) == 2


def test_whoever_is_forgotten_leaves_no_body_behind(make_runtime: MakeRuntime) -> None:
    runtime = make_runtime()
    tell(runtime, a_large_turn())
    assert len(bodies_in(runtime)) == 2
    gone = forget_user(
        runtime.engine.store, runtime.keeper.file_store, runtime.spool, "alice", progress=lambda _done: None
    )
    assert (gone.conversations, gone.files, gone.failed) == (1, 2, {})
    assert bodies_in(runtime) == []


# ── the floor of it ──────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_large_in_a_store_that_forgets_and_where_files_reach_less_far_than_turns(
    activate: Activate, database_url: str
) -> None:
    assert isinstance(activate().engine.store, MemoryStore)
    runtime = build(Settings(backend="postgres", database_url=database_url), spooled=False)  # type: ignore[arg-type]
    with closing(runtime.engine.store):
        assert isinstance(runtime.engine.store, PostgresStore)


@pytest.mark.parametrize(
    ("message", "size"),
    [(("x" * 10, None), 14), (("ä" * 10,), 20), (("\ud800",), 3), (({"key": [1, "ab", True]},), 13), ((), 0)],
)
def test_a_message_is_as_large_as_its_text_in_utf_8(message: tuple[Json, ...], size: int) -> None:
    assert not is_larger(message, size)
    assert size == 0 or is_larger(message, size - 1)


def test_what_is_no_json_is_left_to_the_store() -> None:
    assert not is_larger(({1: "x" * 100},), 10)


def bodies_in(runtime: Runtime) -> list[Path]:
    return list((runtime.own_folder / "files" / "mcp-files").glob("alice/*"))
