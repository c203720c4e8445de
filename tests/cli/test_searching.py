"""`perdure conversations search`, over a database that a real server could have written."""

import json
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from cli.conftest import Ran
from cli.kept_data import BEGAN, Data

from perdure.middleware.persistence.stores import kept_words
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.turn import Outcome
from perdure.testing.turns import a_turn, answered

Perdure = Callable[..., Ran]


@pytest.fixture
def told(data: Data) -> Data:
    data.turn("a hotel in lisbon", "the table for two is booked", conversation="trip", began=BEGAN)
    data.turn("a hotel in madrid", "full", conversation="trip", user="bob", began=BEGAN + timedelta(days=1))
    data.turn("review lisbon.py", "", tool="codereview", outcome=Outcome.FAILED, began=BEGAN + timedelta(days=2))
    return data


def test_people_see_where_the_words_stand(told: Data, perdure: Perdure) -> None:
    ran = perdure("conversations", "search", "table", "two")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[0].startswith("trip  #1 answer  chat  answered  ")
    assert ran.out.splitlines()[0].endswith("  local")
    assert ran.out.splitlines()[1] == "  the «table» for «two» is booked"


def test_an_excerpt_is_prose_whatever_the_lines_it_came_from(data: Data, perdure: Perdure) -> None:
    data.turn("needle:\n\n    if x:\n\treturn")
    assert perdure("conversations", "search", "needle").out.splitlines()[1] == "  «needle»: if x: return"


@pytest.mark.parametrize(
    ("arguments", "prompts"),
    [
        (["hotel"], ["a hotel in madrid", "a hotel in lisbon"]),
        (["hotel -madrid"], ["a hotel in lisbon"]),
        (["lis* or madrid"], ["review lisbon.py", "a hotel in madrid", "a hotel in lisbon"]),
        (['"hotel in lisbon"'], ["a hotel in lisbon"]),
        (["hotel", "--user", "bob"], ["a hotel in madrid"]),
        (["hotel user:bob"], ["a hotel in madrid"]),
        (["hotel", "--in", "trip", "--since", "2026-01-03"], ["a hotel in madrid"]),
        (["hotel until:2026-01-02T12:00+00:00"], ["a hotel in lisbon"]),
        (["--tool", "codereview"], ["review lisbon.py"]),
        (["outcome:failed"], ["review lisbon.py"]),
        (["hotel", "--user", "bob", "user:bob"], ["a hotel in madrid"]),
    ],
)
def test_words_and_filters(told: Data, perdure: Perdure, arguments: list[str], prompts: list[str]) -> None:
    assert [hit["excerpt"] for hit in _found(perdure, *arguments)["hits"]] == prompts


def test_a_first_search_goes_on_until_all_is_made_ready(
    told: Data, perdure: Perdure, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a database so large that a store makes nobody wait for all of it at once."""
    with closing(PostgresStore(database_url)) as store:
        for number in range(3):
            store.finish(answered(a_turn(f"lisbon {number}", continuation_id="trip")))
    monkeypatch.setattr(kept_words, "_AT_ONCE", 1)
    monkeypatch.setattr(kept_words, "_LONGEST_SECONDS", 0.0)
    monkeypatch.setenv("PERDURE_BACKEND", "postgres")
    monkeypatch.setenv("PERDURE_DATABASE_URL", database_url)
    assert len(_found(perdure, "lisbon")["hits"]) == 3


def test_programs_get_everything(told: Data, perdure: Perdure) -> None:
    (hit,) = _found(perdure, "madrid")["hits"]
    assert hit.pop("turn_id")
    assert hit == {
        "continuation_id": "trip",
        "user": "bob",
        "place": 1,
        "part": "prompt",
        "tool": "chat",
        "outcome": "answered",
        "created_at": "2026-01-03T03:04:05+00:00",
        "excerpt": "a hotel in madrid",
        "highlights": [[11, 17]],
    }


def test_pages_of_hits_join(told: Data, perdure: Perdure) -> None:
    first = _found(perdure, "lis*", "or", "hotel", "--limit", "2")
    second = _found(perdure, "lis*", "or", "hotel", "--limit", "2", "--before", first["next"])
    assert [len(first["hits"]), len(second["hits"]), second["next"]] == [2, 1, None]
    assert f"--before {first['next']}" in perdure("conversations", "search", "lis* or hotel", "--limit", "2").out


def test_where_nothing_is_found_scripts_see_it(told: Data, perdure: Perdure) -> None:
    assert perdure("conversations", "search", "porto") == (1, "Nothing found.\n", "")
    assert perdure("conversations", "search", "porto", "--json").code == 1


def test_what_was_stored_cannot_act_on_the_terminal(data: Data, perdure: Perdure) -> None:
    data.turn("needle \x1b[31mred\x1b]0;title\x07 [bold]markup[/bold] \x9b2J", tool="\x1b[2J", conversation="c\x9b")
    shown = perdure("conversations", "search", "needle").out
    assert not any(character in shown for character in "\x1b\x07\x9b")
    assert "[bold]markup[/bold]" in shown


def test_the_index_is_made_again_if_it_is_damaged_or_gone(told: Data, perdure: Perdure) -> None:
    index = told.folder / "perdure-search.db"
    for spoil in (index.unlink, lambda: index.write_bytes(b"no database" * 1000)):
        assert len(_found(perdure, "hotel")["hits"]) == 2
        assert index.stat().st_mode & 0o777 == 0o600
        spoil()
    assert len(_found(perdure, "hotel")["hits"]) == 2


def _found(perdure: Perdure, *arguments: str) -> dict[str, Any]:
    ran = perdure("conversations", "search", *arguments, "--json")
    assert (ran.code, ran.err) == (0, "")
    return json.loads(ran.out)
