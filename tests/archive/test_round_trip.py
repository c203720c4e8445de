"""What is exported from one backend and imported into another is the same there, however often it is done."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import MakeDatabase
from servers.postgres_cluster import PostgresCluster
from servers.supabase_stack import SupabaseStack

from perdure.errors import PerdureError
from perdure.middleware.persistence.archive.exporting import export_to
from perdure.middleware.persistence.archive.importing import ArchiveClock, Imported, import_from, manifest_of
from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.file_stores.supabase import SupabaseFileStore
from perdure.middleware.persistence.ports import Clock, FileStore, Store
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.stores.supabase import SupabaseStore
from perdure.middleware.persistence.supabase_api.client import SupabaseApi
from perdure.middleware.persistence.turn import Answer, ConversationSummary, Outcome, StoredFile, Turn, Window
from perdure.testing import FrozenClock
from perdure.testing.turns import a_turn, ended

BACKENDS = ("memory", "sqlite", "postgres", "supabase")
WINDOW = Window(turns=100, tokens=1_000_000)


@dataclass
class Place:
    """A backend with a folder and, if it needs one, a database or a project of its own."""

    name: str
    folder: Path
    url: str = ""
    project: SupabaseStack | None = None
    _opened: Store | None = None

    def store(self, clock: Clock) -> Store:
        match self.name:
            case "memory":
                self._opened = self._opened or MemoryStore(clock)
            case "sqlite":
                self._opened = SqliteStore(self.folder / "perdure.db", clock)
            case "postgres":
                self._opened = PostgresStore(self.url, clock)
            case _:
                self._opened = SupabaseStore(self._api(), clock)
        return self._opened

    @property
    def files(self) -> FileStore:
        if self.project is not None:
            return SupabaseFileStore(self._api(), "mcp-files", self.folder)
        return LocalFileStore(self.folder / "files", "mcp-files")

    def _api(self) -> SupabaseApi:
        assert self.project is not None
        return SupabaseApi(self.project.url, self.project.secret_key)


@pytest.fixture(scope="module")
def project(supabase_cluster: PostgresCluster) -> Iterator[SupabaseStack]:
    with SupabaseStack(supabase_cluster) as stack:
        yield stack


@pytest.fixture
def places(tmp_path: Path, make_database: MakeDatabase, project: SupabaseStack) -> Iterator[dict[str, Place]]:
    project.empty()
    made = {name: Place(name, tmp_path / name) for name in (*BACKENDS, "again")}
    made["again"].name = "sqlite"
    made["postgres"].url = make_database()
    made["supabase"].project = project
    for place in made.values():
        place.folder.mkdir()
    yield made
    for place in made.values():
        if place._opened is not None:
            place._opened.close()


def fill(place: Place) -> None:
    """Whatever a conversation may hold: files in versions, hard texts, every outcome, two users, deferred turns."""
    clock = FrozenClock()
    store = place.store(clock)
    for principal in ("alice", "bob; drop table"):
        for name, minted in (("plans", False), ("3f2a", True)):
            for number in range(4):
                hard = f"prompt {number} \0 \ud800 ☃"
                turn = a_turn(
                    hard,
                    principal=principal,
                    continuation_id=name,
                    minted=minted,
                    arguments={"prompt": hard, "z": -0.0, "a": 10**40, "list": [1, {"deep": None}]},
                    metadata={"protocol_version": "2026-07-28", "z": -0.0},
                    deferred=number == 2,
                    after_place=1 if number == 2 else None,
                    expire_after=timedelta(days=30) if (name, number) == ("plans", 1) else None,
                )
                store.begin(turn, WINDOW)
                clock.advance(timedelta(seconds=1, microseconds=7))
                match number:
                    case 0 | 1:
                        files = (keep(place, principal, f"content {number}"),)
                        answer = Answer(text=f"answer {hard}", result={"content": [], "x": -0.0})
                        whole = replace(ended(turn, Outcome.ANSWERED, answer), files=files)
                        store.finish(replace(whole, ended_at=clock.now()))
                    case 2:
                        store.finish(ended(turn, Outcome.FAILED, Answer(error={"type": "X", "message": "no"})))
                    case _:
                        pass  # still running


def keep(place: Place, tenant: str, content: str) -> StoredFile:
    data = content.encode()
    sha256 = hashlib.sha256(data).hexdigest()
    key = f"{tenant.split(';', maxsplit=1)[0]}/{sha256}/plan.txt"
    snapshot = place.folder / "snapshot"
    snapshot.write_bytes(data)
    place.files.put(key, snapshot, media_type="text/plain")
    return StoredFile(
        key=key, bucket="mcp-files", name="plan.txt", sha256=sha256, size=len(data), media_type="text/plain"
    )


def everything(place: Place) -> list[object]:
    """All that a store and a file store tell, in an order that does not depend on them."""
    store = place.store(FrozenClock())
    told: list[object] = []
    for line in sorted(store.conversations(limit=1000), key=lambda line: (line.principal, line.continuation_id)):
        told.append(line)
        told += [
            json.dumps([turn.arguments, turn.metadata, turn.answer and turn.answer.result])
            + repr(replace(turn, minted=False, adopt=True, fresh_id="", files=(), stored_form=True))
            for turn in store.turns(line.principal, line.continuation_id, limit=1000)
        ]
        files = store.files(line.principal, line.continuation_id)
        for file in sorted(files, key=lambda file: (file.turn_id, file.name)):
            with place.files.read(file.key) as content:
                told.append((file, content.read()))
    return told


def moved(source: Place, target: Place, folder: Path) -> Imported:
    export_to(
        folder,
        source.store(FrozenClock()),
        source.files,
        principal=None,
        at=FrozenClock().now(),
        progress=lambda *_: None,
    )
    manifest_of(folder)
    clock = ArchiveClock()
    return import_from(folder, target.store(clock), target.files, clock, progress=lambda _: None)


def test_a_history_goes_round_all_backends_and_comes_back_the_same(places: dict[str, Place], tmp_path: Path) -> None:
    fill(places["memory"])
    before = everything(places["memory"])
    assert sum(isinstance(told, ConversationSummary) for told in before) == 4
    assert sum(isinstance(told, tuple) for told in before) == 8
    ends = [told.expires_at is not None for told in before if isinstance(told, ConversationSummary)]
    assert ends == [False, True, False, True]
    route = ("memory", "sqlite", "postgres", "supabase", "again")
    for source, target in itertools.pairwise(route):
        done = moved(places[source], places[target], tmp_path / f"{source}-to-{target}")
        assert (done.conversations, done.turns, done.known, done.conflicts) == (4, 16, 0, [])
        assert everything(places[target]) == before


@pytest.mark.parametrize("target", ["sqlite", "postgres", "supabase"])
def test_importing_again_changes_nothing(places: dict[str, Place], tmp_path: Path, target: str) -> None:
    fill(places["memory"])
    moved(places["memory"], places[target], tmp_path / "once")
    before = everything(places[target])
    done = moved(places["memory"], places[target], tmp_path / "twice")
    assert (done.turns, done.known, done.files) == (0, 16, 0)
    assert everything(places[target]) == before


def test_an_import_that_was_cut_off_goes_on_when_it_runs_again(places: dict[str, Place], tmp_path: Path) -> None:
    fill(places["memory"])
    folder = tmp_path / "archive"
    source, target, clock = places["memory"], places["sqlite"], ArchiveClock()
    export_to(
        folder,
        source.store(FrozenClock()),
        source.files,
        principal=None,
        at=FrozenClock().now(),
        progress=lambda *_: None,
    )

    class CutOff(Exception):
        pass

    def cut(done: int) -> None:
        if done == 6:
            raise CutOff

    with pytest.raises(CutOff):
        import_from(folder, target.store(clock), target.files, clock, progress=cut)
    clock = ArchiveClock()
    import_from(folder, target.store(clock), target.files, clock, progress=lambda _: None)
    assert everything(target) == everything(source)


def test_one_users_data_is_exported_alone(places: dict[str, Place], tmp_path: Path) -> None:
    fill(places["memory"])
    place, folder = places["memory"], tmp_path / "of alice"
    manifest = export_to(
        folder,
        place.store(FrozenClock()),
        place.files,
        principal="alice",
        at=FrozenClock().now(),
        progress=lambda *_: None,
    )
    assert (manifest["conversations"], manifest["turns"], manifest["files"]) == (2, 8, 4)
    assert "drop table" not in (folder / "turns.jsonl").read_text()


def test_a_turn_whose_id_is_used_for_another_call_is_left_out_and_named(
    places: dict[str, Place], tmp_path: Path
) -> None:
    fill(places["memory"])
    (first, *_) = places["memory"].store(FrozenClock()).turns("alice", "plans")
    other = places["sqlite"].store(FrozenClock())
    other.begin(Turn(**{**_fields(first), "principal": "mallory", "continuation_id": "mine"}), WINDOW)
    done = moved(places["memory"], places["sqlite"], tmp_path / "archive")
    assert done.conflicts == [first.id]
    assert done.turns == 15


def test_content_that_is_gone_is_named_and_stops_nothing(places: dict[str, Place], tmp_path: Path) -> None:
    fill(places["memory"])
    place = places["memory"]
    (gone, *_) = place.store(FrozenClock()).files("alice", "plans")
    (place.folder / "files" / "mcp-files" / "alice" / gone.sha256).unlink()
    folder = tmp_path / "archive"
    manifest = export_to(
        folder,
        place.store(FrozenClock()),
        place.files,
        principal=None,
        at=FrozenClock().now(),
        progress=lambda *_: None,
    )
    assert gone.uri in manifest["missing_files"]
    clock = ArchiveClock()
    target = places["sqlite"]
    done = import_from(folder, target.store(clock), target.files, clock, progress=lambda _: None)
    assert done.turns == 16


# ── archives that are none ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def archive(places: dict[str, Place], tmp_path: Path) -> Path:
    fill(places["memory"])
    moved(places["memory"], places["sqlite"], tmp_path / "archive")
    return tmp_path / "archive"


def test_an_export_that_did_not_come_to_its_end_is_refused(archive: Path) -> None:
    (archive / "manifest.json").unlink()
    with pytest.raises(PerdureError, match="no archive"):
        manifest_of(archive)


def test_a_line_that_was_changed_is_noticed_before_anything_is_imported(archive: Path) -> None:
    lines = archive / "turns.jsonl"
    lines.write_text(lines.read_text().replace("answer", "Answer", 1))
    with pytest.raises(PerdureError, match="checksum is another"):
        manifest_of(archive)


def test_a_file_that_was_changed_is_not_imported(archive: Path, places: dict[str, Place], tmp_path: Path) -> None:
    for content in (archive / "files").iterdir():
        content.write_bytes(b"changed")
    clock = ArchiveClock()
    target = places["postgres"]
    with pytest.raises(PerdureError, match="checksum is another"):
        import_from(archive, target.store(clock), target.files, clock, progress=lambda _: None)


def test_an_archive_of_a_newer_perdure_is_refused(archive: Path) -> None:
    manifest = json.loads((archive / "manifest.json").read_text())
    (archive / "manifest.json").write_text(json.dumps({**manifest, "version": 3}))
    with pytest.raises(PerdureError, match="knows up to 2"):
        manifest_of(archive)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "tar"}', "\0"])
def test_what_is_no_manifest_is_refused(archive: Path, text: str) -> None:
    (archive / "manifest.json").write_text(text)
    with pytest.raises(PerdureError, match="is not the manifest"):
        manifest_of(archive)


def test_an_export_never_mixes_with_what_is_there(archive: Path, places: dict[str, Place]) -> None:
    place = places["memory"]
    with pytest.raises(PerdureError, match="is not empty"):
        export_to(
            archive,
            place.store(FrozenClock()),
            place.files,
            principal=None,
            at=FrozenClock().now(),
            progress=lambda *_: None,
        )


def _fields(turn: Turn) -> dict[str, object]:
    return {name: getattr(turn, name) for name in turn.__slots__}
