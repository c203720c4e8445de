"""The benchmark looks whether others kept what they acknowledged, and draws what it found."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.harness import Candidate, Comparison, Line, Result, Series
from benchmarks.peers.process import NotInstalled, peer_process
from benchmarks.peers.worker import _Driven
from benchmarks.plots import write_plots


class InMemory:
    """A peer that loses every turn whose prompt has `lost` in it, and refuses those with `refused`."""

    def __init__(self, lost: str = "none", refused: str = "none") -> None:
        self._lost, self._refused = lost, refused
        self._kept: dict[str, list[str]] = {}

    async def turn(self, conversation: str, prompt: str, answer: str) -> int:
        if self._refused in prompt:
            raise OSError("the disk is full")
        await asyncio.sleep(0)
        if self._lost not in prompt:
            self._kept.setdefault(conversation, []).extend((prompt, answer))
        return 0

    async def texts(self, conversation: str) -> Sequence[str]:
        return self._kept.get(conversation, [])


@pytest.fixture
def runner() -> asyncio.Runner:
    return asyncio.Runner()


def test_a_peer_that_kept_all_it_acknowledged_is_verified(runner: asyncio.Runner) -> None:
    with runner:
        driven = _Driven(InMemory(), runner)
        assert driven.turns("c", 3) > 0
        assert driven.at_once(["a", "b"], 4) > 0
        assert driven.verify() == 14


def test_a_peer_that_lost_a_turn_is_found_out(runner: asyncio.Runner) -> None:
    with runner:
        driven = _Driven(InMemory(lost="Question 2:"), runner)
        driven.turns("c", 3)
        with pytest.raises(AssertionError, match="1 of 3 acknowledged turns of 'c' lost"):
            driven.verify()


def test_a_turn_that_a_peer_refuses_counts_as_refused_and_in_no_rate(runner: asyncio.Runner) -> None:
    with runner:
        driven = _Driven(InMemory(refused="Question 2:"), runner)
        driven.at_once(["a", "b"], 4)
        assert driven.failures() == {"OSError: the disk is full": 1}
        assert driven.verify() == 6


def test_a_peer_that_is_not_installed_says_how_it_is() -> None:
    with pytest.raises(NotInstalled, match=r"make \.venv/peers/no-such\.stamp"), peer_process("no-such", "worker"):
        pass


@pytest.mark.parametrize("sizes", [(100, 1000), (100,)], ids=["lines", "bars"])
def test_a_plot_is_well_formed_and_names_everybody_and_every_unit(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    names = ("perdure", "another <library> & more")
    lines = {name: [(size, f"{name}, {size}") for size in sizes] for name in names}
    candidates = [title for points in lines.values() for _, title in points]
    comparison = Comparison(
        name="x",
        title="x",
        unit="ms",
        candidates=[Candidate(name=name, measure=lambda: 1.0) for name in candidates],
        plot=Series(file="drawn", title="A plot", lines=lines),
    )
    figures = [Line(name=name, figures=(float(place + 1),)) for place, name in enumerate(candidates)]
    (path,) = write_plots(tmp_path, [Result(comparison=comparison, lines=figures)], "from a test")
    texts = [text.text or "" for text in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]
    said = "\n".join(texts)
    assert all(name in said for name in names)
    assert " ms" in said
    assert "from a test" in said
