"""The same pages on every backend."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from backends import Backend
from conftest import on_every_backend
from viewer.driving import a_viewer

from perdure.middleware.persistence.turn import Outcome, StoredFile, Window
from perdure.testing.turns import a_turn, answered, ended

BEGAN = datetime(2026, 1, 2, tzinfo=UTC)


def keep(backend: Backend, tmp_path: Path) -> StoredFile:
    """60 turns of alice's, the last with a file; a fork of them; 30 conversations, half of which failed."""
    import hashlib

    runtime = backend.runtime()
    store, content = runtime.engine.store, b"\x89PNG of alice"
    sha256 = hashlib.sha256(content).hexdigest()
    bucket = runtime.keeper.file_store.bucket
    file = StoredFile(
        key=f"alice/{sha256}/a.png",
        bucket=bucket,
        name="a.png",
        sha256=sha256,
        size=len(content),
        media_type="image/png",
    )
    snapshot = tmp_path / "snapshot"
    snapshot.write_bytes(content)
    runtime.keeper.file_store.put(file.key, snapshot, media_type=file.media_type)
    for number in range(1, 61):
        turn = a_turn(f"question {number}", continuation_id="long", started_at=BEGAN + timedelta(minutes=number))
        store.begin(turn, Window(0, 0))
        store.finish(answered(turn.changed(files=(file,)) if number == 60 else turn, f"answer {number}"))
    for number in range(60):  # each of the 30 twice, so that older turns of the first page's come on the second
        began = BEGAN + timedelta(hours=2, minutes=number)
        turn = a_turn(f"short {number}", continuation_id=f"c{number % 30}", tool="t", started_at=began)
        store.begin(turn, Window(0, 0))
        store.finish(ended(turn, Outcome.FAILED if number % 2 else Outcome.ANSWERED))
    store.fork("alice", "long", 58, "fork")
    store.close()
    return file


@on_every_backend
def test_lists_turns_searches_and_files_are_shown(backend: Backend, tmp_path: Path) -> None:
    file = keep(backend, tmp_path)
    with a_viewer(tmp_path, **backend.environment) as viewer, httpx.Client(follow_redirects=True, timeout=60) as client:
        first = client.get(viewer.address).text
        assert first.count("data-item") == 25
        assert backend.name.capitalize().replace("Sqlite", "SQLite") in first

        def seen(address: str) -> list[str]:
            """The ids of the conversations on the pages from `address` on."""
            import html
            import re

            ids: list[str] = []
            while address:
                page = client.get(address).text
                ids += re.findall(r'<span class="id">(.*?)</span>', page)
                older = re.search(r'rel="next" href="(.*?)"', page)
                address = viewer.origin + html.unescape(older[1]) if older else ""
            return ids

        every = seen(viewer.page())
        assert sorted(every) == sorted(["long", "fork", *(f"c{number}" for number in range(30))])
        failed = seen(viewer.page("", tool="t", outcome="failed"))
        assert failed == [f"c{number}" for number in range(29, 0, -2)]
        assert seen(viewer.page("", tool="t")) == [f"c{number}" for number in range(29, -1, -1)]
        newest = client.get(viewer.page("conversation", user="alice", id="long")).text
        assert "question 36" in newest
        assert "question 60" in newest
        assert "question 35<" not in newest
        assert "a.png" in newest
        assert "question 58" in client.get(viewer.page("conversation", user="alice", id="fork")).text
        assert "answer 60" in client.get(viewer.page("turn", user="alice", id="long", place=60)).text
        found = client.get(viewer.page("search", q="question user:alice")).text
        assert found.count("<mark>question</mark>") == 25
        answer = client.get(viewer.page("file", user="alice", uri=file.uri))
        assert (answer.content, answer.headers["content-type"]) == (b"\x89PNG of alice", "image/png")
        for user, uri in (
            ("bob", file.uri),
            ("alice", "storage://mcp-files/alice/none"),
            ("bob", file.uri.replace("alice", "bob")),
        ):
            assert client.get(viewer.page("file", user=user, uri=uri)).status_code == 404
        assert client.get(viewer.page("conversation", user="bob", id="long")).status_code == 404
