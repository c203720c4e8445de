"""Sends what waits to the stores when they are back: the turns of a conversation in their order, files before turns.

Threads of our own, which end when nothing waits and start again when something does. Everything they send is harmless
to send twice, so that neither a lost reply, nor a lost lease, nor a kill needs any care.
"""

import atexit
import os
import threading
import time
import weakref
from functools import partial

from perdure.errors import StoreError, TurnsWaiting
from perdure.logs import log
from perdure.middleware.persistence.breaker import Breaker
from perdure.middleware.persistence.ports import FileStore, Store
from perdure.middleware.persistence.spool.delivery import Deliveries, Delivery, NotNow, Stuck
from perdure.middleware.persistence.spool.spooled_files import SpooledFile, SpooledFiles
from perdure.middleware.persistence.spool.spooled_turns import ConversationKey, SpooledTurn, SpooledTurns
from perdure.middleware.persistence.turn import Window

__all__ = ["Drainer"]

_LOOK_AGAIN = 1.0
"""Seconds: for what somebody else was sending."""

_SPOOL_UNUSABLE = 5.0
"""Seconds before the spool itself is tried again."""

_MOST_WAIT_FOR_ANOTHER = 8
"""Calls that wait until somebody else has sent their conversations' turns. Each keeps one of the threads that ask the
store, and for longer than those who hang: if all of them were kept so, no other conversation would be let in.
"""

_AT_EXIT = 1.5
"""Seconds; what is not sent by then waits for the next start."""

_NO_HISTORY = Window(0, 0)

_all_drainers: "weakref.WeakSet[Drainer]" = weakref.WeakSet()


class Drainer:
    def __init__(
        self,
        turns: SpooledTurns,
        files: SpooledFiles,
        store: Store,
        file_store: FileStore,
        breaker: Breaker,
        file_breaker: Breaker,
        *,
        most_threads: int = 3,
    ) -> None:
        self._turns = turns
        self._files = files
        self._store = store
        self._file_store = file_store
        self._breaker = breaker
        self._file_breaker = file_breaker
        self._most_threads = most_threads
        self._stopped = False
        self._forget_threads()
        _all_drainers.add(self)

    def wake(self) -> None:
        """Something waits: see to it that it is sent."""
        with self._changed:
            self._woken += 1
            self._changed.notify_all()
            if not self._threads:
                self._start_thread()

    def send_conversation(self, conversation: ConversationKey) -> bool:
        """Send what waits of one conversation now, in this thread. Says whether all went: not if another is at it.

        Raises:
            StoreUnavailable: The store is away.
            TurnsWaiting: The store does not take one of them.
        """
        try:
            return self._send_turns(conversation)
        except NotNow as error:
            raise error.reason from error
        except Stuck as error:
            raise TurnsWaiting(
                f"An earlier turn of the conversation could not be sent ({error}).",
                remedy="see `perdure spool status`.",
            ) from error

    def flush(self, seconds: float) -> None:
        """Return when nothing waits any more, when nothing can be sent, or after so many seconds."""
        self.wake()
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._threads and not self._is_away:
                if not self._changed.wait(deadline - time.monotonic()):
                    return

    def stop(self, seconds: float = 5.0) -> None:
        """End the threads once what they send now is sent, or after so many seconds. What waits, waits on."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            while self._threads and self._changed.wait(deadline - time.monotonic()):
                pass

    # ── the threads ──────────────────────────────────────────────────────────────────────────────────────────

    def _start_thread(self) -> None:
        if self._threads < self._most_threads and not self._stopped:
            self._threads += 1
            self._is_away = False
            threading.Thread(target=self._work, name="perdure-spool", daemon=True).start()

    def _work(self) -> None:
        while True:
            woken = self._woken
            try:
                sent, left = self._round()
                pause, away = (0.0 if sent else _LOOK_AGAIN), False
            except NotNow as error:
                log.debug("spool.waits", what=error.reason.what, remedy=error.reason.remedy)
                sent, left, pause, away = 0, True, error.seconds, True
            except Exception as error:  # noqa: BLE001 - the spool itself cannot be used now
                self._turn_deliveries.say(error)
                sent, left, pause, away = 0, True, _SPOOL_UNUSABLE, True
            with self._changed:
                self._is_away = away
                self._changed.notify_all()
                nothing_to_do = not sent and not left and woken == self._woken
                not_needed = not sent and self._threads > 1
                if self._stopped or nothing_to_do or not_needed:
                    self._threads -= 1
                    self._changed.notify_all()
                    return
                if pause:
                    # When the store is away a further turn that waits is no news.
                    self._changed.wait_for(lambda: self._stopped or (not away and woken != self._woken), pause)  # noqa: B023

    def _round(self) -> tuple[int, bool]:
        """Send what can be sent. Says how many conversations and files went through, and whether something is left.

        Raises:
            NotNow: The store is away.
        """
        sent, left, away = 0, False, None
        try:
            sent, left = self._send_files()
        except NotNow as error:
            away = error  # The turns need not wait for the files.
        has_asked_for_another = False
        for number, conversation in enumerate(self._turns.conversations()):
            if self._stopped:
                break
            # Not before something went through: threads that can send nothing would start one another without end.
            if number and sent and not has_asked_for_another:
                has_asked_for_another = True
                with self._changed:
                    self._start_thread()
            try:
                went = self._send_turns(conversation)
            except Stuck:
                went = False
            sent, left = sent + went, left or not went
        if away is not None and not sent:
            raise away
        return sent, left or away is not None

    def _send_turns(self, conversation: ConversationKey) -> bool:
        """Whether all that waited of it went through; not if somebody else is at it.

        Raises:
            NotNow, Stuck: Its first turn could not be sent.
        """
        with self._turns.leased(conversation) as lease:
            while lease is not None and lease.renew():
                batch = self._turns.next(conversation)
                if not batch:
                    return True
                for spooled in batch:
                    self._turn_deliveries.attempt(self._of_turn(spooled))
                    if not lease.renew():
                        break
        return False

    def _send_files(self) -> tuple[int, bool]:
        sent, left = 0, False
        for file in self._files.waiting():
            with self._files.leased(file) as lease:
                try:
                    if lease is not None and not self._stopped:
                        self._file_deliveries.attempt(self._of_file(file))
                        sent += 1
                        continue
                except Stuck:
                    pass
            left = True
        return sent, left

    def _of_turn(self, spooled: SpooledTurn) -> Delivery:
        def send() -> None:
            try:
                turn = spooled.turn()
            except (ValueError, TypeError, LookupError) as error:
                raise StoreError(
                    f"The record that waited is no turn that this perdure can read ({error}).",
                    remedy="read it with the perdure that wrote it.",
                ) from error
            if spooled.ended:
                self._store.finish(turn)
            else:
                self._store.begin(turn, _NO_HISTORY)

        return Delivery(
            name=spooled.turn_id,
            attempts=spooled.attempts,
            send=send,
            drop=partial(self._turns.drop, spooled),
            failed=partial(self._turns.failed, spooled),
            quarantine=partial(self._turns.quarantine, spooled),
        )

    def _of_file(self, file: SpooledFile) -> Delivery:
        def send() -> None:
            if file.content.is_file():
                self._file_store.put(file.key, file.content, media_type=file.media_type)
            elif not self._file_store.holds(file.key):
                raise StoreError("The content that waited is not there any more.", remedy="look at the disk.")

        return Delivery(
            name=file.key,
            attempts=file.attempts,
            send=send,
            drop=partial(self._files.drop, file),
            failed=partial(self._files.failed, file),
            quarantine=partial(self._files.quarantine, file),
        )

    def _forget_threads(self) -> None:
        self.places_to_wait = threading.Semaphore(_MOST_WAIT_FOR_ANOTHER)
        self._changed = threading.Condition()
        self._threads = 0
        self._woken = 0
        self._is_away = False
        self._turn_deliveries = Deliveries("turn", self._breaker)
        self._file_deliveries = Deliveries("file", self._file_breaker)


def _at_exit() -> None:
    deadline = time.monotonic() + _AT_EXIT
    for drainer in list(_all_drainers):
        if drainer._threads and not drainer._is_away:
            drainer.flush(max(deadline - time.monotonic(), 0))


def _after_fork() -> None:
    for drainer in list(_all_drainers):
        drainer._forget_threads()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    # A forked child has none of its parent's threads.
    os.register_at_fork(after_in_child=_after_fork)
