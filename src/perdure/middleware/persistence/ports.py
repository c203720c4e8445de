"""What the engine needs from the outside: a store, a spool, a clock. Synchronous, small, and all of it."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from perdure.middleware.persistence.turn import (
    BegunTurn,
    ConversationSummary,
    FinishedTurn,
    StoredFile,
    Turn,
    WaitingHistory,
    Window,
)
from perdure.middleware.persistence.upkeep import Upkeep
from perdure.quick_values import frozen

__all__ = [
    "Clock",
    "FileStore",
    "GroupingStore",
    "Spool",
    "Store",
    "SystemClock",
    "Waiting",
    "grouping_of",
    "makes_digests",
]


class Store(Upkeep, Protocol):
    """Keeps turns. Safe to call from many threads at once.

    Every method raises `StoreUnavailable` when it cannot say what is kept; none returns an empty answer instead.
    A conversation that has expired is as if it had never been, and its id begins a new one: a turn with `expire_after`
    moves the end of its conversation, when it is given its place; one without leaves it where it is.
    `perdure.testing.StoreContract` is the whole definition, in tests that any implementation can inherit.
    """

    blocking: bool
    """Whether a call may wait for I/O, and so must not run on an event loop."""

    def begin(self, turn: Turn, window: Window) -> BegunTurn:
        """Give `turn` its place, keep it, and read the history before it.

        Beginning a turn again changes nothing and answers the same place.

        Raises:
            TurnConflict: The id belongs to another principal, or to a turn with another digest.
            ConversationFull: It is new, and the window's last place was given already. Nothing was changed. A store
                that is asked by several processes may go by what its own knows.
        """
        ...

    def finish(self, turn: Turn) -> FinishedTurn:
        """Keep how `turn` ended; durable on return. The first ending wins.

        `turn` is whole, so a turn that was never begun here is begun and finished at once; in a conversation of any
        length, since it may have been acknowledged by a spool.

        Raises:
            TurnConflict: The id belongs to another principal, or to a turn with another digest.
        """
        ...

    def renew(self, turns: Mapping[str, Collection[str]], lease_until: datetime) -> None:
        """Move the leases of running turns, their ids by principal, to `lease_until`; all in one round trip.

        Moves none to an earlier time. A turn that has ended, that is not known, or that is another principal's stays
        as it is, without a word.
        """
        ...

    def turns(self, principal: str, continuation_id: str, *, after: int = 0, limit: int = 100) -> list[Turn]:
        """The turns of one conversation by place, from the one after place `after`; empty if there is none."""
        ...

    def conversations(
        self,
        principal: str | None = None,
        continuation_id: str | None = None,
        *,
        before: tuple[datetime, str, str] | None = None,
        limit: int = 100,
    ) -> list[ConversationSummary]:
        """Newest first. `principal=None` means everybody's: for an operator, never for a caller of a tool.

        `before` is the (updated_at, principal, continuation_id) of the last line already seen.
        """
        ...

    def file(self, principal: str, key: str) -> StoredFile | None:
        """The file that `principal` has under `key`, as it was kept last; None if there is none."""
        ...

    def files(
        self, principal: str, continuation_id: str | None = None, name: str | None = None, *, limit: int = 1000
    ) -> list[StoredFile]:
        """The files of one principal, newest first; of one conversation, or under one logical name."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class GroupingStore(Store, Protocol):
    """A store for which several turns at once are less work than one after the other. It may be one, or not: others
    are given the turns that come at once one by one, from many threads. What it is given together it is given in the
    context of no caller.
    """

    most_together: int
    """Turns that it is given in one call; 1: none. A database beside us has some while others are made ready."""

    def begin_together(self, wanted: Sequence[tuple[Turn, Window]]) -> Sequence[BegunTurn | None]:
        """Each as by `begin`; at least two, all of them `is_new`. None is said of one that is to be begun by itself: it
        would be refused, or keep the others waiting, or is not as simple as they are.

        Raises:
            StoreError: None was begun that anybody knows of.
        """
        ...

    def finish_together(self, turns: Sequence[Turn]) -> Sequence[FinishedTurn | None]:
        """Each as by `finish`, durable on return; at least two. None, as above, is said of one that is to be finished
        by itself.

        Raises:
            StoreError: Of none is known how it ended.
        """
        ...


def grouping_of(store: Store) -> GroupingStore | None:
    """`store`, if it takes several turns at once, by methods of its own: not one that hands on whatever it has not, nor
    one that is derived from such a store and has another `begin` or `finish`, for turns would pass these by.
    """
    if not isinstance(store, GroupingStore) or store.most_together < 2:
        return None
    goes_with = _comes_with(type(store), "begin", "begin_together") and _comes_with(
        type(store), "finish", "finish_together"
    )
    return store if goes_with else None


def _comes_with(kind: type, single: str, together: str) -> bool:
    """Whether `together` was made by whoever made `single`, or later."""
    for made in kind.__mro__:
        if together in vars(made):
            return True
        if single in vars(made):
            return False
    return False


def makes_digests(store: Store) -> bool:
    """Whether `store` says of itself that it takes turns without a digest, and makes it when it has to compare two. As
    above, that holds for methods of its own: others may look at the digest before they hand the turn on.
    """
    kind = type(store)
    says_so = getattr(kind, "makes_digests", False) is True
    return says_so and all(_comes_with(kind, single, "makes_digests") for single in ("begin", "finish"))


class FileStore(Protocol):
    """Keeps bytes under keys. Safe to call from many threads at once.

    A key is `<tenant>/<sha256>/<safe name>`: it names its content, so what stands under it never changes.
    `perdure.testing.FileStoreContract` is the whole definition.

    Every method raises `StoreUnavailable` when it cannot say what is kept.
    """

    bucket: str

    def put(self, key: str, snapshot: Path, *, media_type: str) -> None:
        """Keep the content of `snapshot` under `key`; durable on return. Takes the file away or leaves it.

        Keeping the same key again changes nothing.
        """
        ...

    def read(self, key: str) -> AbstractContextManager[BinaryIO]:
        """The content under `key`, to be read in pieces.

        Raises:
            FileMissing: There is none.
        """
        ...

    def holds(self, key: str) -> bool:
        """Whether the content that `key` names is here, so that keeping it costs nothing."""
        ...

    def used_bytes(self) -> int:
        """What all files together take up; may be a few minutes old."""
        ...

    def most_bytes(self) -> int | None:
        """The size of the largest file it takes; None if any. May be a few minutes old."""
        ...

    one_copy: bool
    """Whether a content that one tenant has under several names is kept once for all of them."""

    def remove(self, key: str, *, unused_since: datetime) -> bool:
        """Take away the content that nobody names any more, unless it was put again at `unused_since` or later: then
        somebody is about to name it. Says whether it is not there now.
        """
        ...

    def signed_url(self, key: str, *, seconds: int) -> str | None:
        """An address from which anybody may read the content for so long; None if this store has no such thing.

        Raises:
            FileMissing: There is no such content.
        """
        ...


class Spool(Protocol):
    """Keeps turns and files that their stores cannot take now, and sends them later. Safe for many threads at once."""

    def keep(self, turn: Turn) -> None:
        """Durable on return; an intent outlives the process, not a power loss. A turn that has ended takes the place of
        its intent; the first ending wins.

        Raises:
            SpoolFull: Nothing more is taken.
            StoreError: It cannot be written, or the turn cannot be written down.
        """
        ...

    def settle(self, principal: str, continuation_id: str) -> None:
        """Send what waits of one conversation, so that the turn which comes now does not overtake it.

        Raises:
            StoreUnavailable: It could not all be sent now.
        """
        ...

    def holds_up(self, principal: str, continuation_id: str) -> bool:
        """Whether anything waits of one conversation, so that `settle` may take time.

        Raises:
            StoreUnavailable: It cannot be read.
        """
        ...

    def history(self, turn: Turn, window: Window) -> WaitingHistory:
        """What waits of the conversation of `turn`."""
        ...

    def keep_file(self, key: str, snapshot: Path, *, media_type: str) -> None:
        """Durable on return; takes `snapshot`, whose content is on the disk already, away.

        Raises:
            SpoolFull: Nothing more is taken.
            StoreUnavailable: It cannot be written.
        """
        ...

    def read_file(self, key: str) -> AbstractContextManager[BinaryIO | None]:
        """The content under `key`, to be read in pieces; None if it does not wait here."""
        ...

    def file(self, principal: str, key: str) -> StoredFile | None:
        """The file that a turn which waits gave out to `principal` under `key`."""
        ...

    def status(self) -> list["Waiting"]:
        """What waits for each destination.

        Raises:
            StoreUnavailable: It cannot be read.
        """
        ...


@frozen()
class Waiting:
    """What the spool keeps for one destination."""

    destination: str
    turns: int
    conversations: int
    quarantined_turns: int
    files: int
    file_bytes: int
    quarantined_files: int
    oldest: str | None
    """When the first of it came, ISO 8601."""


class Clock(Protocol):
    def now(self) -> datetime:
        """The time, with its zone (UTC)."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)
