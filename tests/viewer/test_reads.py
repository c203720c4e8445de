"""The viewer reads what a page shows, however much is kept, and writes nothing."""

import base64
import hashlib
import os
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient
from viewer.driving import Viewer, a_viewer
from viewer.kept import kept_to_look_at

from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.wiring import build
from perdure.settings import Settings
from perdure.testing.turns import a_file, a_turn, answered
from perdure.viewer.access import Credentials
from perdure.viewer.application import application

FILES = 300


class Counting:
    """A store that counts what it is asked, and how many rows it gives."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.calls: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            found = method(*arguments, **named)
            self.calls[name] += 1
            self.rows[name] += len(found) if isinstance(found, list) else 1
            return found

        return counted if callable(method) else method


def asked(turns: int, tmp_path: Path) -> dict[str, tuple[Counter[str], Counter[str]]]:
    """Of each page what the store was asked, with a conversation of so many turns and 40 small ones."""
    store = MemoryStore()
    for number in range(1, turns + 1):
        turn = a_turn(f"question {number}", continuation_id="long", principal="local")
        turn = turn.changed(started_at=turn.started_at + timedelta(seconds=5 * number))
        if number % (turns // FILES or 1) == 0:
            turn = turn.changed(files=(a_file("local", f"{number}.txt", f"{number}"),))
        store.finish(answered(turn, "answer"))
    for number in range(40):
        store.finish(answered(a_turn("short", continuation_id=f"c{number}", principal="local"), "answer"))
    counting = Counting(store)
    runtime = build(Settings(data_dir=tmp_path, backend="memory"), store=counting)  # type: ignore[arg-type]
    credentials = Credentials()
    client = TestClient(application(runtime, credentials, {"testserver"}))
    assert client.get(f"{credentials.base}/?token={credentials.token}").status_code == 200
    found = {}
    long = "conversation?user=local&id=long"
    for page, path in {
        "conversations": "",
        "newest turns": long,
        "first turns": f"{long}&start=1",
        "turns in the middle": f"{long}&start={turns // 2}",
        "a turn": f"turn?user=local&id=long&place={turns - 1}",
        "filtered": "?tool=chat",
        "search": "search?q=question",
    }.items():
        counting.calls.clear()
        counting.rows.clear()
        answer = client.get(f"{credentials.base}/{path}")
        assert answer.status_code == 200, page
        found[page] = counting.calls.copy(), counting.rows.copy()
    return found


@pytest.fixture(scope="module")
def of_ten_thousand(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Counter[str], Counter[str]]]:
    return asked(10_000, tmp_path_factory.mktemp("long"))


def test_a_page_of_ten_thousand_turns_reads_no_more_than_it_shows(of_ten_thousand: dict[str, Any]) -> None:
    for page in ("newest turns", "first turns", "turns in the middle"):
        calls, rows = of_ten_thousand[page]
        assert (calls["conversations"], calls["turns"], calls["search"]) == (1, 1, 0), page
        assert (rows["conversations"], rows["turns"]) == (1, 25), page
    calls, rows = of_ten_thousand["a turn"]
    assert (calls["conversations"], calls["turns"], rows["turns"]) == (1, 1, 1)
    assert of_ten_thousand["newest turns"][1]["files"] <= 100
    assert of_ten_thousand["search"] == ({"search": 1}, {"search": 26})


def test_the_list_asks_for_one_turn_of_each_conversation_on_the_page(of_ten_thousand: dict[str, Any]) -> None:
    calls, rows = of_ten_thousand["conversations"]
    assert (calls, rows) == ({"conversations": 1, "turns": 25}, {"conversations": 26, "turns": 25})
    calls, rows = of_ten_thousand["filtered"]
    assert calls["search"] <= 5
    assert rows["search"] <= 500


def test_a_page_costs_as_many_questions_with_a_hundred_times_the_turns(
    of_ten_thousand: dict[str, Any], tmp_path: Path
) -> None:
    of_a_hundred = asked(100, tmp_path)
    for page in ("conversations", "newest turns", "a turn", "search"):
        assert of_ten_thousand[page][0] == of_a_hundred[page][0], page


# ── nothing is written ───────────────────────────────────────────────────────────────────────────────────────


def test_what_is_kept_is_the_same_byte_for_byte_after_all_of_it_was_looked_at(tmp_path: Path) -> None:
    kept_to_look_at(tmp_path).close()
    before = content_of(tmp_path)
    assert set(before) >= {"perdure.db"}
    assert len(before) > 2
    with a_viewer(tmp_path) as viewer:
        seen = look_at_everything(viewer)
    assert seen > 40
    after = content_of(tmp_path)
    assert {name: after.get(name) for name in before} == before
    assert {name for name in set(after) - set(before) if not name.startswith("perdure-search.db")} <= {
        "perdure.db-wal",  # both empty: SQLite makes them for whoever reads
        "perdure.db-shm",
    }
    assert after.get("perdure.db-wal", hashlib.sha256().digest()) == hashlib.sha256().digest()


def content_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).digest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def look_at_everything(viewer: Viewer) -> int:
    """Follow every link there is."""
    from html.parser import HTMLParser

    found: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            found.extend(value for name, value in attributes if name in ("href", "src") and value)

    with httpx.Client(base_url=viewer.origin, follow_redirects=True) as client:
        client.get(viewer.address)
        waiting, seen = [viewer.page(), viewer.page("search", q="hotel"), viewer.page("", outcome="failed")], set[str]()
        while waiting:
            address = waiting.pop()
            answer = client.get(address)
            assert answer.status_code == 200, address
            seen.add(address)
            if not answer.headers["content-type"].startswith("text/html"):
                continue
            found.clear()
            Links().feed(answer.text)
            inside = {link.partition("#")[0] for link in found if link.startswith("/") and "/theme?" not in link}
            waiting += inside - seen - set(waiting)
    return len(seen)


def test_a_folder_without_anything_stays_so(tmp_path: Path) -> None:
    with a_viewer(tmp_path / "data") as viewer, httpx.Client(follow_redirects=True) as client:
        assert "Nothing is kept yet" in client.get(viewer.address).text
        assert "Nothing was found" in client.get(viewer.page("search", q="anything")).text
        assert client.get(viewer.page("conversation", user="local", id="c")).status_code == 404
    assert not (tmp_path / "data").exists() or os.listdir(tmp_path / "data") == []


@pytest.mark.parametrize(
    "key",
    [
        '["2026-01-01T00:00:00+00:00", "\\ud800", "a"]',
        '["2026-01-01T00:00:00+00:00", "a", "\\udfff"]',
        '["0001-01-01T00:00:00+23:59", "a", "1"]',
        '["9999-12-31T23:59:59-23:59", "a", "1"]',
        '["2026-01-01T00:00:00", "a", "1"]',
        "[" * 20_000,
    ],
    ids=lambda key: key[:40],
)
def test_a_page_that_begins_where_none_ended_says_so(tmp_path: Path, key: str) -> None:
    runtime = build(Settings(data_dir=tmp_path))
    credentials = Credentials()
    client = TestClient(application(runtime, credentials, {"testserver"}))
    client.get(f"{credentials.base}/?token={credentials.token}")
    kept_to_look_at(tmp_path).close()
    before = base64.urlsafe_b64encode(key.encode()).decode()
    for page in ("?", "?tool=chat&", "search?q=hotel&"):
        answer = client.get(f"{credentials.base}/{page}before={before}")
        assert answer.status_code == 400, page
        assert "is not the end of a page" in answer.text
