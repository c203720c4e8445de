"""Sends together what many threads ask of a database at once: one round trip, one transaction, one commit.

Whoever comes while nothing is under way sends at once, alone. What arrives meanwhile waits, and goes together, led by
the one that waits longest, in whose thread it is sent: no thread of our own, nothing to shut down. What fails together
is sent one by one, so that nobody is given another's error; and nobody waits long for those before him: one of them
may hang. A thread may also bring several turns, of which the same is true; only that they are never torn apart here.
"""

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from perdure.middleware.persistence.turn import JsonObject

__all__ = ["GroupedCalls", "Send", "portions"]

_MOST_TOGETHER = 64
"""More gain nothing, and make the first wait."""

_MOST_CHARACTERS = 256_000
"""Of what goes together."""

_LARGE = 64_000
"""Characters of what goes alone: others would wait for its way through the network."""

_PATIENCE = 0.02
"""Seconds that anybody waits for what is under way: it may hang, or the way to the database may be long."""

_A_MOMENT = 0.0005
_LONGEST_GATHERING = 0.005
"""Seconds. Nobody waits who went alone the last time."""

_NONE_YET = (None,)

_all: "weakref.WeakSet[GroupedCalls]" = weakref.WeakSet()


class Send(Protocol):
    def __call__(self, given: Sequence[JsonObject], *, deadline: float, again: bool) -> Mapping[str, JsonObject]:
        """Replies by `turn_id`. `deadline` is on `time.monotonic()`; `again`: whether what fails may be tried again."""
        ...


class GroupedCalls:
    """For any number of threads. `under_way`: how many may be sent at a time; more make smaller groups."""

    _lately: int
    """How many went together last."""

    def __init__(self, send: Send, *, under_way: int) -> None:
        self._send = send
        self._most_under_way = under_way
        self._forget()
        _all.add(self)

    def call(self, given: JsonObject, characters: int, deadline: float) -> JsonObject | None:
        """The reply to `given`, which names its `turn_id` and is of so many characters.

        None: there is none to this one; or the time was over before it was known.

        Raises:
            Exception: What `send` raised for `given` alone.
        """
        call = _Call([given], characters, deadline)
        if characters > _LARGE:
            self._send_alone(call)
        else:
            self._send_among_others(call)
        return call.replies[0]

    def call_with(self, given: Sequence[JsonObject], characters: int, deadline: float) -> "Sequence[JsonObject | None]":
        """As `call`, the replies to several, which go together: a portion, as `portions` makes them.

        Raises:
            Exception: What `send` raised for all of `given`, which it was given once.
        """
        call = _Call(given, characters, deadline)
        self._send_among_others(call)
        return call.replies

    def _send_among_others(self, call: "_Call") -> None:
        with self._lock:
            leads = self._under_way < self._most_under_way
            if leads:
                self._under_way += 1
            else:
                call.wake = threading.Lock()
                call.wake.acquire()
                self._waiting.append(call)
        if leads or self._is_to_lead(call):
            self._lead(call)
        elif not call.is_gone:
            with self._lock:
                self._wake_after(call)
        if call.failed:
            self._send_alone(call)

    def _send_alone(self, call: "_Call") -> None:
        if len(call.given) > 1:
            self._send_all([call], again=False)
            return
        (given,) = call.given
        call.replies = [self._send(call.given, deadline=call.deadline, again=True).get(given["turn_id"])]

    def _send_all(self, calls: "Sequence[_Call]", *, again: bool) -> None:
        # If one turn comes twice, only one of the two goes: whose the reply is could not be told.
        sent = {one["turn_id"]: one for call in calls for one in call.given}
        replies = self._send(list(sent.values()), deadline=calls[0].deadline, again=again)
        for call in calls:
            call.replies = [replies.get(one["turn_id"]) if sent[one["turn_id"]] is one else None for one in call.given]

    def _lead(self, call: "_Call") -> None:
        if self._lately > 1 and len(call.given) == 1:
            self._gather()
        with self._lock:
            group = self._group_of(call)
            self._lately = len(group)
        try:
            if len(group) == 1:
                self._send_alone(call)
            else:
                self._send_together(group)
        finally:
            for one, following in pairwise(group):
                one.following = following
            with self._lock:
                self._pass_on()
                self._wake_after(call)

    def _send_together(self, group: "Sequence[_Call]") -> None:
        for call in group:
            call.failed = True
        try:
            self._send_all(group, again=False)
        except Exception:  # noqa: BLE001 - each asks by itself now, and is told what is wrong
            return
        for call in group:
            call.failed = False

    def _gather(self) -> None:
        """Wait while more come: those who went together go on at about the same time, and one of them is the first."""
        until = time.monotonic() + _LONGEST_GATHERING
        here, before = len(self._waiting), -1
        while before < here < self._lately - 1 and time.monotonic() < until:
            time.sleep(_A_MOMENT)
            here, before = len(self._waiting), here

    def _group_of(self, call: "_Call") -> "list[_Call]":
        group, turns, characters = [call], len(call.given), call.characters
        while self._waiting:
            following = self._waiting[0]
            turns += len(following.given)
            characters += following.characters
            if turns > _MOST_TOGETHER or characters > _MOST_CHARACTERS:
                break
            group.append(self._waiting.popleft())
        return group

    def _wake_after(self, call: "_Call") -> None:
        """Each that was sent wakes the next: all at once would stand in each other's way, at Python's own lock."""
        following = call.following
        while following is not None:
            following.is_woken = True
            following.wake.release()
            following = following.following if following.is_gone else None

    def _pass_on(self) -> None:
        """Make whoever waits longest a leader, or let the next that comes be one."""
        if self._waiting and self._under_way <= self._most_under_way:
            next_one = self._waiting.popleft()
            next_one.leads = next_one.is_woken = True
            next_one.wake.release()
        else:
            self._under_way -= 1

    def _is_to_lead(self, call: "_Call") -> bool:
        """Once there is something to do for `call`: whether it leads. If not, it was sent, or its time is over."""
        try:
            woken = call.wake.acquire(timeout=max(min(_PATIENCE, call.deadline - time.monotonic()), 0.0))
            if not woken and not self._takes_the_lead(call):
                woken = call.wake.acquire(timeout=max(call.deadline - time.monotonic(), 0.0))
                if not woken:
                    self._leave(call)
        except BaseException:  # interrupted, as by Ctrl-C
            self._give_up(call)
            raise
        return call.leads

    def _takes_the_lead(self, call: "_Call") -> bool:
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
                self._under_way += 1
                call.leads = True
            return call.leads

    def _leave(self, call: "_Call") -> None:
        with self._lock:
            call.is_gone = not call.is_woken

    def _give_up(self, call: "_Call") -> None:
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
            elif call.leads:
                self._pass_on()
            elif call.is_woken and not call.is_gone:
                self._wake_after(call)
            else:
                call.is_gone = True

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[_Call] = deque()
        self._under_way = 0
        self._lately = 0


def portions(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Of what is of so many characters each: the numbers of those that may go together. The large are in none."""
    portion, characters = list[int](), 0
    for number, size in enumerate(sizes):
        if size > _LARGE:
            continue
        if len(portion) == _MOST_TOGETHER or characters + size > _MOST_CHARACTERS:
            yield portion
            portion, characters = [], 0
        portion.append(number)
        characters += size
    if portion:
        yield portion


class _Call:
    __slots__ = (
        "characters",
        "deadline",
        "failed",
        "following",
        "given",
        "is_gone",
        "is_woken",
        "leads",
        "replies",
        "wake",
    )

    wake: threading.Lock
    """Of one that waits. Free once there is something to do for it."""

    def __init__(self, given: Sequence[JsonObject], characters: int, deadline: float) -> None:
        self.given = given
        self.characters = characters
        self.deadline = deadline
        self.leads = False
        self.failed = False
        """With the others of its group."""
        self.replies: Sequence[JsonObject | None] = _NONE_YET if len(given) == 1 else [None] * len(given)
        self.following: _Call | None = None
        """Whom to wake next, once its group was sent."""
        self.is_woken = False
        self.is_gone = False
        """It waits no longer, and wakes nobody."""


def _after_fork_in_child() -> None:
    for calls in list(_all):
        calls._forget()  # whoever led or waited is in the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
