"""`perdure conversations`, run as a program over a database that a real server could have written."""

import pytest
from cli.kept_data import Data

from perdure.middleware.persistence.turn import Outcome


def test_show_gives_programs_everything_that_is_kept(data: Data) -> None:
    turn = data.turn("question", "reply")

    assert data.json("conversations", "show", "c") == {
        "continuation_id": "c",
        "user": "local",
        "turns": [
            {
                "turn_id": turn.id,
                "place": 1,
                "tool": "chat",
                "prompt": "question",
                "arguments": {"prompt": "question"},
                "answer": "reply",
                "result": {"content": [{"type": "text", "text": "reply"}]},
                "error": None,
                "outcome": "answered",
                "started_at": "2026-01-02T03:04:05+00:00",
                "ended_at": "2026-01-02T03:04:05.250000+00:00",
                "deferred": False,
                "protocol_version": "2026-07-28",
            }
        ],
        "next": None,
    }


def test_show_gives_people_a_table(data: Data) -> None:
    data.turn("question", "reply")
    data.turn("bad", "", outcome=Outcome.FAILED, error={"type": "ValueError", "message": "no such thing"})

    shown = data.run("conversations", "show", "c").stdout

    for word in ("question", "reply", "answered", "250 ms", "failed", "ValueError: no such thing", "2 turns"):
        assert word in shown


def test_a_turn_without_an_answer_whose_lease_is_over_was_interrupted(data: Data) -> None:
    data.turn("cut off", None)

    assert data.json("conversations", "show", "c")["turns"][0]["outcome"] == "interrupted"


def test_a_long_conversation_is_read_whole_and_in_parts(data: Data) -> None:
    for number in range(450):
        data.turn(str(number), None)

    places = [turn["place"] for turn in data.json("conversations", "show", "c")["turns"]]
    assert places == list(range(1, 451))
    part = data.json("conversations", "show", "c", "--after", "440", "--limit", "3")
    assert [turn["place"] for turn in part["turns"]] == [441, 442, 443]
    assert part["next"] == 443
    assert data.json("conversations", "show", "c", "--after", "447", "--limit", "3")["next"] is None


def test_a_list_is_paged_without_gaps_or_repeats(data: Data) -> None:
    for number in range(7):
        data.turn("x", conversation=f"c{number}")

    seen, before = [], []
    while True:
        page = data.json("conversations", "list", "--limit", "3", *before)
        seen += [line["continuation_id"] for line in page["conversations"]]
        if page["next"] is None:
            break
        before = ["--before", page["next"]]

    assert sorted(seen) == [f"c{number}" for number in range(7)]
    assert seen[0] == "c6"


def test_a_list_can_be_of_one_user(data: Data) -> None:
    data.turn("x", user="alice", conversation="a")
    data.turn("x", user="bob", conversation="b")

    assert [c["user"] for c in data.json("conversations", "list")["conversations"]] == ["bob", "alice"]
    assert [c["continuation_id"] for c in data.json("conversations", "list", "--user", "alice")["conversations"]] == [
        "a"
    ]


def test_an_id_that_two_users_have_asks_whose(data: Data) -> None:
    data.turn("from alice", user="alice")
    data.turn("from bob", user="bob")

    ran = data.run("conversations", "show", "c")

    assert ran.returncode == 1
    assert "alice, bob" in ran.stderr
    assert "--user" in ran.stderr
    assert data.json("conversations", "show", "c", "--user", "bob")["turns"][0]["prompt"] == "from bob"


def test_what_is_stored_cannot_act_on_the_terminal(data: Data) -> None:
    data.turn("\x1b[31mred\x1b]0;title\x07 [bold]markup[/bold] \x9b2J\u202eright to left")

    shown = data.run("conversations", "show", "c").stdout

    assert not any(character in shown for character in "\x1b\x07\x9b\u202e")
    assert "[bold]markup[/bold]" in shown


def test_long_text_is_shortened_for_people_and_whole_for_programs(data: Data) -> None:
    data.turn("x" * 5000)

    assert "(4,700 more" in data.run("conversations", "show", "c").stdout
    assert data.json("conversations", "show", "c")["turns"][0]["prompt"] == "x" * 5000


def test_text_that_utf8_cannot_hold_is_shown_all_the_same(data: Data) -> None:
    data.turn("lone \ud800 surrogate")

    assert data.run("conversations", "show", "c").returncode == 0
    assert data.json("conversations", "show", "c")["turns"][0]["prompt"] == "lone \ud800 surrogate"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["conversations", "show", "nope"], 1, ["no conversation 'nope'", "perdure conversations list"]),
        (["conversations", "show", "c", "--user", "x"], 1, ["of the user 'x'"]),
        (["conversations", "list", "--before", "???"], 1, ["'???'", "copy it from the page before"]),
        (["conversations", "list", "--limit", "0"], 2, ["--limit"]),
        (["conversations", "show"], 2, ["ID"]),
        (["conversations", "burn"], 2, ["burn"]),
        (
            ["--config", "/nowhere/perdure.toml", "conversations", "list"],
            1,
            ["/nowhere/perdure.toml", "cannot be read"],
        ),
    ],
)
def test_a_mistake_is_one_clear_message_and_no_traceback(
    data: Data, arguments: list[str], code: int, words: list[str]
) -> None:
    data.turn("x")

    ran = data.run(*arguments)

    assert ran.returncode == code
    assert ran.stdout == ""
    assert "Traceback" not in ran.stderr
    for word in words:
        assert word in ran.stderr


def test_a_damaged_database_is_named_with_a_remedy_and_left_as_it_is(data: Data) -> None:
    data.folder.mkdir()
    database = data.folder / "perdure.db"
    database.write_bytes(b"no database at all " * 500)

    ran = data.run("conversations", "list")

    assert ran.returncode == 1
    assert str(database) in ran.stderr
    assert "Remedy:" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert database.read_bytes() == b"no database at all " * 500


def test_the_version_is_told(data: Data) -> None:
    assert data.run("--version").stdout.startswith("perdure ")


@pytest.mark.parametrize("command", [["conversations", "list"], ["conversations", "show"]])
def test_the_help_of_each_command_has_an_example(data: Data, command: list[str]) -> None:
    assert "Example: perdure " + " ".join(command) in data.run(*command, "--help").stdout
