"""`perdure spool`, run as a program beside a store that is away."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import MakeDatabase

from perdure.errors import TurnRefused
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.wiring import Runtime, build
from perdure.settings import Settings
from perdure.testing import FaultyStore
from perdure.testing.turns import a_turn, answered

NOWHERE = "postgresql://perdure:secret-word@127.0.0.1:9/away?connect_timeout=2"


class Machine:
    """A data directory, and the command line over it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url

    def runtime(self) -> Runtime:
        return build(Settings(data_dir=self.folder, backend="postgres", database_url=self.url, operation_timeout=2))

    def wait(self, *prompts: str, conversation: str = "c") -> None:
        """Turns that this machine keeps while its store is away."""
        made = self.runtime()
        assert made.spool is not None
        made.spool._drainer.stop()
        for prompt in prompts:
            made.spool.keep(answered(a_turn(prompt, continuation_id=conversation, principal="local"), prompt.upper()))
        made.spool.close()

    def run(self, *arguments: str, url: str | None = None) -> "subprocess.CompletedProcess[str]":
        environment = {
            **os.environ,
            "PERDURE_DATA_DIR": str(self.folder),
            "PERDURE_CONFIG": os.devnull,
            "PERDURE_BACKEND": "postgres",
            "PERDURE_DATABASE_URL": url or self.url,
        }
        return subprocess.run(
            [sys.executable, "-c", "from perdure.cli import main; main()", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path, make_database: MakeDatabase) -> Machine:
    return Machine(tmp_path / "machine", make_database())


@pytest.fixture
def away(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "away", NOWHERE)


def test_with_nothing_that_waits_that_is_said(machine: Machine) -> None:
    for command in ("status", "flush"):
        ran = machine.run("spool", command)
        assert (ran.returncode, ran.stdout.strip()) == (0, "Nothing waits."), ran.stderr
    ran = machine.run("spool", "quarantine")
    assert (ran.returncode, ran.stdout.strip()) == (0, "Nothing is in quarantine."), ran.stderr
    assert not (machine.folder / "spool").exists()


def test_status_says_what_waits_for_which_store_without_its_password(away: Machine) -> None:
    away.wait("one", "two")
    ran = away.run("spool", "status")
    assert ran.returncode == 0, ran.stderr
    assert "2 turns of 1 conversation" in ran.stdout
    assert "127.0.0.1" in ran.stdout
    assert "secret-word" not in ran.stdout + ran.stderr
    told = json.loads(away.run("spool", "status", "--json").stdout)
    [line] = told["spools"]
    assert (line["turns"], line["current"], line["destination"]) == (2, True, told["destination"])


def test_flush_sends_what_waits(machine: Machine) -> None:
    machine.wait("one", "two", "three")
    ran = machine.run("spool", "flush")
    assert (ran.returncode, ran.stdout.strip()) == (0, "3 sent."), ran.stderr
    with_store = PostgresStore(machine.url)
    assert [turn.prompt for turn in with_store.turns("local", "c")] == ["one", "two", "three"]
    with_store.close()


def test_flush_to_a_store_that_is_away_loses_nothing_and_says_so(away: Machine) -> None:
    away.wait("one")
    ran = away.run("spool", "flush", "--seconds", "3")
    assert ran.returncode == 1
    assert "1 still waits" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "1 turn of 1 conversation" in away.run("spool", "status").stdout


def test_turns_that_wait_for_another_store_are_named_and_not_sent(away: Machine, machine: Machine) -> None:
    away.wait("one")
    ran = away.run("spool", "status", url=machine.url)
    assert "These settings name another store" in ran.stdout
    assert away.run("spool", "flush", url=machine.url).stdout.strip() == "Nothing waits."
    assert "1 turn of 1 conversation" in away.run("spool", "status").stdout


def test_what_was_refused_is_listed_tried_again_and_thrown_away(machine: Machine) -> None:
    made = machine.runtime()
    assert made.spool is not None
    faulty = FaultyStore(made.engine.store)
    faulty.fail("finish", error=TurnRefused("It holds a unicorn."))
    made.spool._drainer._store = faulty
    turns = [answered(a_turn(text, continuation_id="c", principal="local"), text) for text in ("good", "bad \x1b[2J")]
    for turn in turns:
        made.spool.keep(replace(turn))
    made.spool.flush(10)
    made.spool.close()

    listed = machine.run("spool", "quarantine")
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.count("refused: It holds a unicorn.") == 2
    assert "\x1b" not in listed.stdout
    told = json.loads(machine.run("spool", "quarantine", "--json").stdout)
    assert [found["id"] for found in told["quarantine"]] == [turn.id for turn in turns]

    ran = machine.run("spool", "quarantine", "--discard", "no-such-turn")
    assert (ran.returncode, "is not in quarantine" in ran.stderr) == (1, True)
    assert machine.run("spool", "quarantine", "--discard", turns[1].id).returncode == 0
    assert "1 will be sent again" in machine.run("spool", "quarantine", "--retry", turns[0].id).stdout
    assert machine.run("spool", "flush").stdout.strip() == "1 sent."


def test_a_backend_without_a_spool_says_so(machine: Machine) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "from perdure.cli import main; main()", "spool", "status"],
        env={**os.environ, "PERDURE_BACKEND": "memory"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert "has no spool" in ran.stderr


def test_doctor_says_what_waits(away: Machine, machine: Machine) -> None:
    machine.wait("one")
    assert "spool: Turns and files that wait: 1." in machine.run("doctor").stdout
    machine.run("spool", "flush")
    assert "spool: Nothing waits." in machine.run("doctor").stdout
