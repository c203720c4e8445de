"""The values that everything else passes around: a turn, what it answered, and what a store says of it."""

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeAlias

from perdure.quick_values import copying, frozen

__all__ = [
    "Answer",
    "BegunTurn",
    "ConversationSummary",
    "FinishedTurn",
    "Json",
    "JsonObject",
    "Outcome",
    "StoredFile",
    "Turn",
    "WaitingHistory",
    "Window",
    "copied",
    "is_larger",
    "new_continuation_id",
    "new_turn_id",
]

Json: TypeAlias = Any
"""A JSON value as `json.loads` gives it: None, bool, int, float, str, list or dict with string keys."""

JsonObject: TypeAlias = dict[str, Json]


def copied(value: Json) -> Json:
    """`value` with objects and arrays of its own, at any depth."""
    if type(value) is dict:
        for member in value.values():
            if isinstance(member, _CONTAINERS):
                break
        else:
            return value.copy()  # nearly all arguments and metadata
    whole = [value]
    pending: list[tuple[Any, Any]] = [(whole, 0)]
    for holder, place in pending:  # which grows meanwhile
        item = holder[place]
        if isinstance(item, dict):
            own: Any = dict(item)
            for name, member in own.items():
                if isinstance(member, _CONTAINERS):
                    pending.append((own, name))
        elif isinstance(item, list):
            own = list(item)
            for index, member in enumerate(own):
                if isinstance(member, _CONTAINERS):
                    pending.append((own, index))
        else:
            continue
        holder[place] = own
    return whole[0]


def is_larger(value: Json, most: int) -> bool:
    """Whether its texts have more than `most` characters. Whatever else is in it counts for some."""
    pending = [value]
    for item in pending:  # which grows meanwhile
        if isinstance(item, str):
            most -= len(item)
        elif isinstance(item, _CONTAINERS):
            most -= _OF_A_MEMBER * len(item)
            if most >= 0:
                pending += item.values() if isinstance(item, dict) else item
        if most < 0:
            return True
    return False


_OF_A_MEMBER = 8
"""Characters: what it costs to look at one and write it down."""


_CONTAINERS = (dict, list)


class Outcome(StrEnum):
    """How a turn ended, or that it has not."""

    RUNNING = "running"
    ANSWERED = "answered"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """Derived when reading, never written: no answer, and the lease is over."""


@frozen(kw_only=True)
class Answer:
    """What a tool gave back, before perdure added anything to it."""

    text: str = ""
    """What a reader or a model sees."""
    result: Json = None
    """The whole `CallToolResult` as it is on the wire; None when the tool raised or was cancelled."""
    error: JsonObject | None = None
    """`{"type", "message"}` of what the tool raised."""


@frozen(kw_only=True)
class StoredFile:
    """A version of a file that a turn gave out."""

    key: str
    """`<tenant>/<sha256>/<safe name>`"""
    bucket: str
    name: str
    """The logical name: what the tool called it. New content under it is a new version."""
    sha256: str
    size: int
    """In bytes."""
    media_type: str
    version: int = 0
    """1, 2, 3 … of one name in one conversation; 0 until the store has given it."""
    turn_id: str = ""
    continuation_id: str = ""
    created_at: datetime | None = None

    @property
    def uri(self) -> str:
        return f"storage://{self.bucket}/{self.key}"


@frozen(kw_only=True)
class Turn:
    """One persisted tool call. Immutable: each step of its life is a new value under the same `id`."""

    id: str
    """A UUIDv7, made by the client of the store, so that writing twice is writing once."""
    principal: str
    continuation_id: str
    tool: str
    prompt: str
    arguments: JsonObject = field(default_factory=dict)
    """As the client sent them, without the continuation id unless the tool declares it."""
    started_at: datetime
    lease_until: datetime
    """While this lies ahead and there is no answer, the turn is running; after it, interrupted."""
    outcome: Outcome = Outcome.RUNNING
    answer: Answer | None = None
    ended_at: datetime | None = None
    place: int | None = None
    """Given by the store when it first accepts any record of the turn: 1, 2, 3 … without gaps."""
    after_place: int | None = None
    """The last place its writer knew of when the turn was deferred."""
    deferred: bool = False
    """Accepted later than it took place, because the store was away."""
    tokens: int = 0
    """Estimated size of prompt and answer together."""
    digest: str = ""
    """Of tool and arguments as stored: tells a repeated write from a misused id. Empty on the way to a store that makes
    it itself."""
    minted: bool = False
    """Whether perdure made the continuation id; a client that chose it did so itself."""
    adopt: bool = True
    """Whether an unknown continuation id may become a conversation; if not, `fresh_id` does."""
    fresh_id: str = ""
    """The id of the conversation to make when an unknown one may not be adopted."""
    expire_after: timedelta | None = None
    """From when the store gives the turn its place; then its conversation expires. None: as it stands already."""
    files: tuple[StoredFile, ...] = ()
    """What its answer gave out; written when it is finished."""
    metadata: JsonObject = field(default_factory=dict)
    """`protocol_version` and the like; nothing here is needed to read the turn."""
    stored_form: bool = False
    """Whether secrets were replaced and digest and tokens computed: no store takes a turn without."""

    def changed(self, **changes: Any) -> "Turn":
        """As `dataclasses.replace`, in a tenth of its time: several times in every call.

        Raises:
            TypeError: There is no such field.
        """
        raise NotImplementedError  # `quick_values` writes it

    # The steps that a turn takes in every call: `quick_values` writes them, too. The last two are of a store in memory.

    @copying
    def stored(self, prompt: str, arguments: JsonObject, digest: str, stored_form: bool) -> "Turn":
        raise NotImplementedError

    @copying
    def placed(self, continuation_id: str, place: int) -> "Turn":
        raise NotImplementedError

    @copying
    def ended(self, outcome: Outcome, ended_at: datetime, answer: Answer) -> "Turn":
        raise NotImplementedError

    @copying
    def counted(self, answer: Answer, tokens: int) -> "Turn":
        raise NotImplementedError

    @copying
    def begun(self, arguments: JsonObject, metadata: JsonObject, continuation_id: str, place: int) -> "Turn":
        raise NotImplementedError

    @copying
    def finished(self, outcome: Outcome, ended_at: datetime, answer: Answer | None, tokens: int) -> "Turn":
        raise NotImplementedError

    @property
    def is_new(self) -> bool:
        """Nobody can have begun it: it has no place, and an id made for it alone, not from an idempotency key."""
        return self.place is None and self.id[14:15] == "7"

    def seen_at(self, now: datetime) -> "Turn":
        """This turn as a reader sees it at `now`: a running turn whose lease is over was interrupted."""
        if self.outcome is Outcome.RUNNING and self.lease_until < now:
            return self.changed(outcome=Outcome.INTERRUPTED)
        return self


@frozen()
class Window:
    """How much history to read: the newest answered turns that fit both limits; and how long it may become."""

    turns: int
    tokens: int
    last_place: int | None = None
    """That may be given to a new turn; None: any. A turn that has a place keeps it."""


@frozen(kw_only=True)
class BegunTurn:
    """A store's answer to `begin`."""

    continuation_id: str
    """Of the conversation the turn now belongs to; not what was asked for if that was not adopted."""
    place: int
    replay: bool = False
    """The turn was here already."""
    outcome: Outcome = Outcome.RUNNING
    history: Sequence[Turn] = ()
    """Answered turns before this one, oldest first."""

    @property
    def omitted(self) -> int:
        """Earlier turns that are not in `history`: over its budget, or without an answer."""
        return self.place - 1 - len(self.history)


@frozen(kw_only=True)
class FinishedTurn:
    """A store's acknowledgement of `finish`: the turn is durable."""

    continuation_id: str
    place: int
    outcome: Outcome
    """The first terminal outcome that arrived; a later one does not replace it."""
    files: tuple[StoredFile, ...] = ()
    """With their versions."""


@frozen(kw_only=True)
class WaitingHistory:
    """What the spool knows of a conversation while its store is away."""

    turns: tuple[Turn, ...] = ()
    """Answered turns that wait, oldest first, within the window."""
    complete: bool = False
    """The conversation began here: no store knows an earlier turn."""
    omitted: int = 0
    """Turns that wait and are not among `turns`."""


@frozen(kw_only=True)
class ConversationSummary:
    """A line in a list of conversations."""

    principal: str
    continuation_id: str
    turns: int
    created_at: datetime
    updated_at: datetime
    """When its newest turn began."""
    minted: bool = False
    """Whether perdure made the id; if not, a client chose it."""
    expires_at: datetime | None = None
    """From when on it is as if it had never been. None: never."""


def new_turn_id(now: datetime) -> str:
    """A UUIDv7 (RFC 9562, section 5.7): 48 bits of milliseconds, then 74 random bits.

    A few lines of our own, since the standard library has it only from Python 3.14 on.
    """
    milliseconds = (int(now.timestamp() * 1000) & _48_BITS).to_bytes(6, "big")
    return f"{milliseconds.hex('-', -4)}-7{new_continuation_id()[15:]}"


def new_continuation_id() -> str:
    """A UUIDv4 (RFC 9562, section 5.4): 122 random bits. Of those that are made 32 at a time: to make one among other
    work takes far longer."""
    while True:
        try:
            return _random_ids.pop()  # no other thread gets the same
        except IndexError:
            random = os.urandom(32 * 16)
            _random_ids.extend(map(_as_version_4, (random[start : start + 16] for start in range(0, len(random), 16))))


_48_BITS = (1 << 48) - 1


def _as_version_4(random: bytes) -> str:
    digits = random.hex()
    variant = "89ab"[random[8] & 0b11]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


_random_ids: deque[str] = deque()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random_ids.clear)  # or parent and child would give the same


DEFAULT_LEASE = timedelta(minutes=1)
"""How long a turn counts as running without a word of the process that runs it."""

LEASE_OF_A_QUESTION = timedelta(hours=1)
"""The same from when its client was asked something: no process runs it, and a person may have to think."""
