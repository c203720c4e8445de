"""Many writers on one conversation, replies lost after COMMIT, servers and writers killed: in short, as in tests/soak.

The programs there say how the same is run in full.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from servers.postgres_cluster import PostgresCluster
from soak.evidence import Evidence, answer_to
from soak.postgres_kills import Victim, kill_again_and_again
from soak.postgres_writers import Crowd, write_all

from perdure.middleware.persistence.migrations import postgres as migrations
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.turn import Outcome, Turn, Window
from perdure.testing.turns import a_turn, answered


def test_writers_of_four_processes_take_every_place_once_and_every_prompt_has_its_answer(
    postgres: PostgresCluster, database_url: str
) -> None:
    found = write_all(postgres, database_url, Crowd(processes=4, threads=8, turns=12))
    assert list(found.violations) == []
    assert not found.refused
    assert found.turns == 384


def test_a_reply_that_is_lost_after_its_commit_neither_loses_nor_doubles_a_turn(
    postgres: PostgresCluster, database_url: str
) -> None:
    found = write_all(postgres, database_url, Crowd(processes=4, threads=8, turns=12, cut=0.05))
    assert list(found.violations) == []
    assert found.cuts > 10


@pytest.fixture
def killable() -> Iterator[PostgresCluster]:
    with PostgresCluster() as cluster:
        yield cluster


def test_what_was_acknowledged_outlives_killed_servers_and_killed_writers(killable: PostgresCluster) -> None:
    url = killable.url(killable.create_database("killed"))
    migrations.apply(url, "killed", lambda _: None)
    victims: list[Victim] = ["server", "writer"] * 5
    random.Random(7).shuffle(victims)
    found = kill_again_and_again(killable, url, victims, seed=7)
    assert list(found.violations) == []
    assert found.finished > 10 * 20 / 2


def test_a_beginning_that_went_with_its_server_costs_its_place_and_nothing_else() -> None:
    window = Window(20, 8_000)
    with PostgresCluster(settings={"wal_writer_delay": "10s"}) as cluster:  # so that a beginning stays in memory
        url = cluster.url(cluster.create_database("killed"))
        migrations.apply(url, "killed", lambda _: None)
        with closing(PostgresStore(url, timeout=30)) as store:
            known = a_turn("known", continuation_id="c")
            known = replace(known, place=store.begin(known, window).place)
            store.finish(answered(a_turn("waits for the disk", continuation_id="d")))
            lost = a_turn("lost", continuation_id="c")
            assert store.begin(lost, window).place == 2
            cluster.kill()
            cluster.start()
            assert [turn.prompt for turn in store.turns("alice", "c")] == ["known"], (
                "which went to the disk with another"
            )
            store.finish(answered(a_turn("meanwhile", continuation_id="c")))
            assert store.finish(answered(replace(lost, place=2), "kept")).place == 3
            assert store.finish(answered(known)).place == 1
            kept = store.turns("alice", "c")
    assert [(turn.place, turn.prompt, turn.outcome) for turn in kept] == [
        (1, "known", Outcome.ANSWERED),
        (2, "meanwhile", Outcome.ANSWERED),
        (3, "lost", Outcome.ANSWERED),
    ]


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda kept: [kept[0], a_turn("two", continuation_id="c", place=2), kept[2]], "finished and is running"),
        (lambda kept: [kept[0], kept[2]], "place 3 where 2 should be"),
        (lambda kept: kept[:2], "is not there"),
        (lambda kept: [kept[0], replace(kept[1], answer=kept[2].answer), kept[2]], "has the answer 'answer to three'"),
        (lambda kept: [*kept, replace(kept[0], place=4)], "'one' is there twice, in 1 and 4"),
        (lambda kept: [replace(kept[2], place=1), kept[1], replace(kept[0], place=3)], "place 1 and is in 3"),
    ],
)
def test_the_witness_notices(damage: Callable[[list[Turn]], list[Turn]], complaint: str) -> None:
    class Kept(MemoryStore):
        def turns(self, principal: str, continuation_id: str, *, after: int = 0, limit: int = 100) -> list[Turn]:
            return kept if after == 0 else []

    kept = [
        replace(answered(a_turn(prompt, continuation_id="c"), answer_to(prompt)), place=place)
        for place, prompt in enumerate(("one", "two", "three"), start=1)
    ]
    evidence = Evidence(finished={("c", turn.prompt): turn.place or 0 for turn in kept})
    assert list(evidence.violations(Kept(), ["c"])) == []
    kept = damage(kept)
    assert any(complaint in line for line in evidence.violations(Kept(), ["c"]))
