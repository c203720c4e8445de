"""The SQL is found however perdure was installed, and brings any database of ours to the schema it describes."""

import json
import os
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sql_parameters import parameters_of

from perdure.errors import StoreUnavailable
from perdure.middleware.persistence.migrations import sqlite as migrations
from perdure.middleware.persistence.migrations.numbered_files import Migration
from perdure.middleware.persistence.migrations.sqlite import migrate_sqlite, sqlite_migrations
from perdure.middleware.persistence.sql_files import named_queries, sql_folder
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.turn import Window
from perdure.testing.turns import a_turn, answered

ROOT = Path(__file__).parents[2]
THEN = datetime(2026, 1, 1, tzinfo=UTC)

REMEMBER = """
import json, sys
from pathlib import Path
import perdure
from perdure.middleware.persistence.sql_files import sql_folder
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.testing.turns import a_turn, answered

print("ready", flush=True)
sys.stdin.readline()
store = SqliteStore(Path(sys.argv[1]))
store.finish(answered(a_turn("hello", continuation_id="c"), "kept"))
print(json.dumps([perdure.__file__, str(sql_folder()), [turn.answer.text for turn in store.turns("alice", "c")]]))
store.close()
"""


# ── where it is found ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `python -m build` makes of this working tree."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (built,) = out.glob("perdure-*.whl")
    return built


def test_the_wheel_ships_every_file_of_the_sql_folder_unchanged(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        shipped = {
            name.removeprefix("perdure/sql/"): archive.read(name)
            for name in archive.namelist()
            if name.startswith("perdure/sql/")
        }
    files = [path for path in (ROOT / "sql").rglob("*") if path.is_file()]
    assert shipped == {path.relative_to(ROOT / "sql").as_posix(): path.read_bytes() for path in files}


def test_the_wheel_ships_the_templates_and_styles_of_the_viewer(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
    package = ROOT / "src" / "perdure"
    files = [path for path in (package / "viewer").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert len(files) > 8
    assert shipped >= {f"perdure/{path.relative_to(package).as_posix()}" for path in files}


def test_perdure_installed_from_the_wheel_finds_its_sql_and_remembers(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, "--disable-pip-version-check", str(wheel)], check=True)
    package, sql, answers = _remember(tmp_path, {"PYTHONPATH": str(site)})
    assert Path(package).is_relative_to(site)
    assert Path(sql) == site / "perdure" / "sql"
    assert answers == ["kept"]


def test_perdure_in_its_source_tree_finds_its_sql_and_remembers(tmp_path: Path) -> None:
    package, sql, answers = _remember(tmp_path, {})
    assert Path(package).is_relative_to(ROOT / "src")
    assert Path(sql) == ROOT / "sql"
    assert answers == ["kept"]


def _remember(folder: Path, environment: dict[str, str]) -> list[object]:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", REMEMBER, str(folder / "perdure.db")],
        cwd=folder,
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        check=True,
        capture_output=True,
        text=True,
    )
    answer: list[object] = json.loads(done.stdout.splitlines()[-1])
    return answer


# ── the queries ──────────────────────────────────────────────────────────────────────────────────────────────


def test_every_query_is_valid_against_the_schema(tmp_path: Path) -> None:
    with closing(_migrated(tmp_path / "perdure.db")) as connection:
        for name, query in named_queries("sqlite/queries.sql").items():
            assert connection.execute(f"EXPLAIN {query}", parameters_of(query)).fetchall(), name


def test_every_query_is_used() -> None:
    folder = ROOT / "src" / "perdure" / "middleware" / "persistence" / "stores" / "sqlite"
    code = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    assert [name for name in named_queries("sqlite/queries.sql") if f'"{name}"' not in code] == []


# ── the migrations ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database with one turn in it, closed."""
    path = tmp_path / "perdure.db"
    _keep_a_turn(path)
    return path


def test_the_schema_is_the_sum_of_the_migration_files(database: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "by hand.db")) as by_hand:
        for file in sorted((sql_folder() / "sqlite" / "migrations").glob("*.sql")):
            by_hand.executescript(file.read_text(encoding="utf-8"))
        expected = _schema(by_hand)
    with closing(sqlite3.connect(database)) as connection:
        found = _schema(connection)
        assert found.pop("perdure_migrations")
        assert found == expected
        assert len(_records(connection)) == len(sqlite_migrations())


def test_a_database_that_went_through_every_version_has_the_same_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = (*sqlite_migrations(), _migration("ALTER TABLE chat_sessions ADD COLUMN later TEXT;"))
    step_by_step = sqlite3.connect(tmp_path / "steps.db", isolation_level=None)
    for count in range(1, len(everything) + 1):
        monkeypatch.setattr(migrations, "sqlite_migrations", lambda _schema, count=count: everything[:count])
        migrate_sqlite(step_by_step, THEN, "steps.db")
    with closing(step_by_step), closing(_migrated(tmp_path / "at once.db")) as at_once:
        assert _schema(step_by_step) == _schema(at_once)
        assert _records(step_by_step) == _records(at_once)


def test_turns_that_an_earlier_version_kept_are_all_there_and_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, window = tmp_path / "perdure.db", Window(10, 1000)
    open_turn = a_turn("is open", continuation_id="b")
    earlier = sqlite_migrations()[:4]
    with monkeypatch.context() as then, closing(SqliteStore(path)) as store:
        then.setattr(migrations, "sqlite_migrations", lambda _schema: earlier)
        for number in range(6):
            store.finish(answered(a_turn(f"{number}", continuation_id="ab"[number % 2]), "A" * number))
        store.begin(open_turn, window)
        store.fork("alice", "a", 2, "fork")
        before = {name: store.turns("alice", name) for name in ("a", "b", "fork")}
        assert [len(turns) for turns in before.values()] == [3, 4, 2]
    with closing(SqliteStore(path)) as store:
        assert store.finish(answered(open_turn)).place == 4
        begun = store.begin(a_turn("next", continuation_id="a"), window)
        assert [*begun.history] == before["a"]
        assert store.turns("alice", "b")[:3] == before["b"][:3]
        assert store.turns("alice", "fork") == before["fork"]
    with closing(sqlite3.connect(path)) as connection:
        assert len(_records(connection)) == len(sqlite_migrations())
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_what_an_operator_made_beside_messages_of_an_earlier_version_is_kept_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "perdure.db"
    earlier = sqlite_migrations()[:4]
    with monkeypatch.context() as then, closing(SqliteStore(path)) as store:
        then.setattr(migrations, "sqlite_migrations", lambda _schema: earlier)
        store.finish(answered(a_turn("asked", continuation_id="a"), "said"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE VIEW said AS SELECT content FROM chat_messages WHERE part = 1")
        connection.execute("CREATE TABLE notes (message REFERENCES chat_messages (id) ON DELETE CASCADE, note)")
        connection.execute("INSERT INTO notes SELECT id, 'good' FROM chat_messages WHERE part = 1")
        connection.commit()
    with closing(SqliteStore(path)) as store:
        store.finish(answered(a_turn("asked more", continuation_id="a"), "said more"))
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT * FROM said").fetchall() == [("said",), ("said more",)]
            assert connection.execute("SELECT note FROM notes").fetchall() == [("good",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        store.delete("alice", "a")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT * FROM said").fetchall() == []


def test_what_an_earlier_version_kept_leaves_nothing_behind_when_it_is_deleted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, secret = tmp_path / "perdure.db", "the answer to everything"
    earlier = sqlite_migrations()[:4]
    with monkeypatch.context() as then, closing(SqliteStore(path)) as store:
        then.setattr(migrations, "sqlite_migrations", lambda _schema: earlier)
        store.finish(answered(a_turn("asked", continuation_id="a"), 400 * secret))
    assert secret.encode() in path.read_bytes()
    with closing(SqliteStore(path, connect=_overwriting_nothing)) as store:
        store.delete("alice", "a")
    assert secret.encode() not in path.read_bytes()


def _overwriting_nothing(*arguments: Any, **options: Any) -> sqlite3.Connection:
    """As most builds of SQLite are; Debian's overwrites what is deleted unless it is told not to."""
    connection = sqlite3.connect(*arguments, **options)
    connection.execute("PRAGMA secure_delete = OFF")
    return connection


def test_migrations_are_numbered_from_one_without_gaps() -> None:
    assert [migration.version for migration in sqlite_migrations()] == list(range(1, len(sqlite_migrations()) + 1))


def test_opening_a_current_database_writes_nothing(database: Path) -> None:
    before = database.read_bytes()
    store = SqliteStore(database)
    assert len(store.turns("alice", "c")) == 1
    store.close()
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        migrate_sqlite(connection, THEN, str(database))
    assert database.read_bytes() == before


def test_processes_that_meet_at_a_new_database_migrate_it_once(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "perdure.db"
    command = [sys.executable, "-c", REMEMBER, str(path)]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(4)
        ]
        assert [process.stdout and process.stdout.readline() for process in processes] == ["ready\n"] * 4
        for process in processes:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        assert [process.wait(60) for process in processes] == [0] * 4
    with closing(sqlite3.connect(path)) as connection:
        assert len(_records(connection)) == len(sqlite_migrations())
        assert connection.execute("SELECT last_place FROM chat_sessions").fetchall() == [(4,)]


def test_a_migration_that_fails_half_way_leaves_no_trace(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = _migration("ALTER TABLE chat_sessions ADD COLUMN half TEXT; ALTER TABLE nothing ADD COLUMN done TEXT;")
    everything = (*sqlite_migrations(), broken)
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        before = _schema(connection), _records(connection)
        monkeypatch.setattr(migrations, "sqlite_migrations", lambda _schema: everything)
        with pytest.raises(sqlite3.OperationalError, match="nothing"):
            migrate_sqlite(connection, THEN, str(database))
        assert not connection.in_transaction
        assert (_schema(connection), _records(connection)) == before


def test_a_database_of_a_newer_perdure_is_refused_and_unharmed(database: Path) -> None:
    newer = len(sqlite_migrations()) + 1
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("INSERT INTO perdure_migrations VALUES (?, 'future', 'x', 'then')", (newer,))
    for refusal in _refusals(database):
        assert str(database) in refusal.what
        assert f"version {newer}" in refusal.what
        assert "upgrade perdure" in refusal.remedy


def test_a_database_whose_migrations_are_not_ours_is_refused_and_unharmed(database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("UPDATE perdure_migrations SET checksum = 'of another file'")
    for refusal in _refusals(database):
        assert str(database) in refusal.what
        assert "not the one this perdure ships" in refusal.what
        assert "install the release" in refusal.remedy


def _refusals(database: Path) -> Iterator[StoreUnavailable]:
    """What reading and writing say, each in a process-like fresh store; the file stays as it was."""
    before = database.read_bytes()
    turn = answered(a_turn("more", continuation_id="c"))
    for use in (
        lambda store: store.begin(turn, Window(1, 1)),
        lambda store: store.finish(turn),
        lambda store: store.turns("alice", "c"),
        lambda store: store.conversations("alice"),
    ):
        store = SqliteStore(database)
        with pytest.raises(StoreUnavailable) as caught:
            use(store)
        store.close()
        assert database.read_bytes() == before
        yield caught.value


def _keep_a_turn(path: Path) -> None:
    store = SqliteStore(path)
    store.finish(answered(a_turn("hello", continuation_id="c"), "kept"))
    store.close()


def _migrated(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    migrate_sqlite(connection, THEN, str(path))
    return connection


def _migration(sql: str) -> Migration:
    return Migration(len(sqlite_migrations()) + 1, "next", "checksum", sql.replace("; ", ";\n"))


def _schema(connection: sqlite3.Connection) -> dict[str, str]:
    return dict(connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall())


def _records(connection: sqlite3.Connection) -> list[tuple[object, ...]]:
    return connection.execute("SELECT * FROM perdure_migrations ORDER BY version").fetchall()
