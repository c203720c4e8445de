"""A durable turn in a file, beside other libraries that keep conversations: as one grows, and many at once."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.embedded import Embedded, Seed, embedded, name
from benchmarks.going_on import at_once
from benchmarks.harness import ALARM, Candidate, Comparison, Goal, Line, Result, Series, interleaved, time_each
from benchmarks.peers.process import NotInstalled, PeerFailed, PeerProcess, peer_process
from benchmarks.raw_sqlite import RawTurns

__all__ = ["OURS", "PeerKind", "opened", "rates", "run", "standing_beside", "verified"]

OURS = "perdure"

_SIZES = (100, 1_000, 10_000)
"""Messages that are there already."""

_TURNS = 4
"""In one round, for each candidate: few, since a conversation must not grow much by them."""

_CONVERSATIONS, _AT_ONCE = 64, 256
"""Turns in one round, on all conversations at once."""


@dataclass(frozen=True, slots=True)
class PeerKind:
    name: str
    environment: str
    module: str
    arguments: tuple[str, ...]
    longest: int = 10_000
    """Messages: to put more there beforehand takes too long."""


FLOOR = "floor: a raw two-row transaction"
NEAREST = "openai-agents SQLiteSession, limit=40"

_PEERS = (
    PeerKind(NEAREST, "openai-agents", "openai_agents", ("sqlite", "40")),
    PeerKind("openai-agents SQLiteSession", "openai-agents", "openai_agents", ("sqlite",)),
    PeerKind("openai-agents SQLAlchemySession", "openai-agents", "openai_agents", ("sqlalchemy",)),
    PeerKind("mcp-persist SQLiteEventStore", "mcp-persist", "mcp_persist", ("sqlite",)),
    PeerKind("langgraph AsyncSqliteSaver", "langgraph", "langgraph", ("sqlite",)),
    PeerKind("google-adk DatabaseSessionService", "google-adk", "google_adk", ("sqlite",), longest=1_000),
)


def run(rounds: int, folder: Path) -> list[Result]:
    """One round is for a look: it leaves the longest conversations out."""
    sizes = _SIZES if rounds > 1 else _SIZES[:-1]
    with ExitStack() as stack:
        peers, notes = opened(stack, _PEERS, lambda kind: _made(folder / kind.name.replace(" ", "-")))
        for kind, peer in peers.items():
            for size in sizes:
                if size <= kind.longest:
                    peer.plant(_long(size), size)
        raw = stack.enter_context(closing(RawTurns(folder / "raw.db", conversations=1, messages=100, window=40)))
        ours = {
            size: stack.enter_context(embedded(folder / f"{size}.db", Seed(conversations=1, messages=size)))
            for size in sizes
        }
        many = stack.enter_context(embedded(folder / "many.db", Seed(_CONVERSATIONS, 100)))
        runner = stack.enter_context(asyncio.Runner())
        results = [
            interleaved(_growing(sizes, raw, ours, peers), rounds),
            interleaved(_many(many, runner, peers), rounds),
        ]
        kept = sum(database.verified() for database in (*ours.values(), many))
        notes += [f"Verified: all {kept:,} acknowledged turns of perdure are in the files.", *verified(peers)]
        growing, together = results
        return [replace(growing, notes=notes), replace(together, notes=[standing_beside(together.lines)])]


def opened(
    stack: ExitStack, kinds: Sequence[PeerKind], where: Callable[[PeerKind], str]
) -> tuple[dict[PeerKind, PeerProcess], list[str]]:
    """The peers that are installed, each running; and what is to be said of the others."""
    peers: dict[PeerKind, PeerProcess] = {}
    notes = []
    for kind in kinds:
        try:
            peer = stack.enter_context(_running(kind, where(kind)))
        except NotInstalled as error:
            notes.append(f"Left out: {error}.")
        except PeerFailed as error:
            notes.append(f"{ALARM} {kind.name} could not be opened: {error}.")
        else:
            peers[kind] = peer
    return peers, notes


def verified(peers: dict[PeerKind, PeerProcess]) -> list[str]:
    """What became of what each peer acknowledged."""
    said = []
    for kind, peer in peers.items():
        try:
            kept, failed = peer.verify(), peer.failures()
            said.append(f"Verified: {kind.name} has all {kept:,} messages that it acknowledged.{_failed(failed)}")
        except PeerFailed as error:
            said.append(f"{ALARM} {kind.name}: {error}")
    return said


def _failed(failures: dict[str, int]) -> str:
    return "".join(f" {count} turns failed: {reason}." for reason, count in failures.items())


def standing_beside(lines: Sequence[Line], goal: float = 3) -> str:
    """perdure's rate beside the best peer's."""
    (ours,) = (line for line in lines if line.name == OURS)
    best = max((line for line in lines if line is not ours), key=lambda line: line.median, default=None)
    if best is None:
        return "No peer is installed."
    return f"perdure stands at {ours.median / best.median:.2f} x the best peer, {best.name}; the goal is {goal:g} x."


@contextmanager
def _running(kind: PeerKind, where: str) -> Iterator[PeerProcess]:
    with peer_process(kind.environment, kind.module, *kind.arguments) as peer:
        peer.open(where)
        try:
            yield peer
        finally:
            peer.close()


def _made(folder: Path) -> str:
    folder.mkdir()
    return str(folder)


def _long(size: int) -> str:
    return f"long-{size}"


def _growing(
    sizes: Sequence[int], raw: RawTurns, ours: dict[int, Embedded], peers: dict[PeerKind, PeerProcess]
) -> Comparison:
    candidates = [Candidate(name=FLOOR, measure=lambda: time_each(lambda: raw.turn(0), _TURNS) / 1000)]
    series: dict[str, list[tuple[float, str]]] = {}

    def add(who: str, size: int, measure: Callable[[], float], goal: Goal | None = None) -> None:
        title = f"{who}, {size:,} messages"
        candidates.append(Candidate(name=title, measure=measure, floor=FLOOR, goal=goal))
        series.setdefault(who, []).append((size, title))

    for size in sizes:
        goal = Goal(quantity="ratio", limit=2.0) if size == 100 else None
        add(OURS, size, partial(_turns_of, ours[size]), goal)
        for kind, peer in peers.items():
            if size <= kind.longest:
                add(kind.name, size, partial(peer.turns, _long(size), _TURNS))
    return Comparison(
        name="peers",
        title="A durable turn in a file, in a conversation that has so many messages",
        unit="ms",
        candidates=candidates,
        plot=Series(file="turn-cost", title="A durable turn, by the messages in its conversation", lines=series),
    )


def _turns_of(database: Embedded) -> float:
    return time_each(lambda: database.turn(name(0)), _TURNS) / 1000


def _many(database: Embedded, runner: asyncio.Runner, peers: dict[PeerKind, PeerProcess]) -> Comparison:
    names = [f"many-{number}" for number in range(_CONVERSATIONS)]
    return rates(
        "peers",
        f"Durable turns in a file, on {_CONVERSATIONS} conversations at once",
        at_once(database.turn_of_a_call, runner, [name(number) for number in range(_CONVERSATIONS)], _AT_ONCE),
        {kind: partial(peer.at_once, names, _AT_ONCE) for kind, peer in peers.items()},
        file="throughput",
    )


def rates(
    benchmark: str,
    title: str,
    ours: Callable[[], float],
    peers: Mapping[PeerKind, Callable[[], float]],
    *,
    file: str,
) -> Comparison:
    """Turns a second, ours first; drawn as `file`."""
    candidates = [
        Candidate(name=OURS, measure=ours),
        *(Candidate(name=kind.name, measure=measure) for kind, measure in peers.items()),
    ]
    bars = {candidate.name: [(0.0, candidate.name)] for candidate in candidates}
    return Comparison(
        name=benchmark,
        title=title,
        unit="turns/s",
        more_is_better=True,
        candidates=candidates,
        plot=Series(file=file, title=f"{title}: turns a second", lines=bars),
    )
