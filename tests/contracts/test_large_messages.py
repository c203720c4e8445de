"""A store that keeps large messages elsewhere keeps the contract; so does one to which every message is large."""

from pathlib import Path

from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.large_messages import LargeMessages
from perdure.middleware.persistence.large_messages.bodies import Bodies
from perdure.middleware.persistence.ports import Clock, Store
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.turn import Window
from perdure.testing import GroupingStoreContract, StoreContract
from perdure.testing.expiry_contract import ExpiryContract
from perdure.testing.keeping_contract import KeepingContract
from perdure.testing.lease_contract import LeaseContract
from perdure.testing.reading_contract import ReadingContract
from perdure.testing.store_bench import WIDE
from perdure.testing.turn_contract import TurnContract
from perdure.testing.turns import answered


def _made(clock: Clock, folder: Path, max_bytes: int, store: Store | None = None) -> LargeMessages:
    bodies = Bodies(LocalFileStore(folder / "files", "mcp-files"), folder)
    return LargeMessages(store or MemoryStore(clock), bodies, max_bytes=max_bytes)


class TestLargeMessagesBeforeAStoreThatGroups(GroupingStoreContract):
    def make_store(self, clock: Clock, folder: Path) -> LargeMessages:
        return _made(clock, folder, 50_000, SqliteStore(folder / "perdure.db", clock))

    def test_large_messages_are_kept_apart_and_their_histories_are_whole(self) -> None:
        long = "x" * 60_000
        large = self.turn(long, continuation_id="large", arguments={"prompt": long})
        first, *others = self.store.begin_together([(turn, WIDE) for turn in (large, *self._elsewhere())])
        assert first is None
        assert None not in others
        self.store.begin(large, WIDE)
        self.store.finish(answered(large.changed(place=1), long))
        after = self.turn("after", continuation_id="large")
        together = self.store.begin_together([(turn, WIDE) for turn in (after, self.turn("beside it"))])
        assert (together[0], together[1] is None) == (None, False)
        (before,) = self.store.begin(after, WIDE).history
        assert before.prompt == long
        ended = [answered(turn.changed(place=2), long) for turn in (after,)]
        ended += [answered(turn.changed(place=1), "short") for turn in self._elsewhere()]
        assert [one is None for one in self.store.finish_together(ended)] == [True, False, False, False]

    def test_a_large_message_is_whole_wherever_it_comes_into_a_history_that_was_looked_at_before(self) -> None:
        window = Window(4, 1_000_000)

        def said() -> list[str]:
            return [turn.prompt for turn in self.store.begin(self.turn("now"), window).history]

        def say(prompt: str) -> None:
            turn = self.turn(prompt)
            self.store.begin(turn, window)
            self.store.finish(answered(turn))

        long, late = "x" * 60_000, self.turn("y" * 60_000)
        prompts = [long if number in (8, 17, 25) else f"{number}" for number in range(30)]
        for number, prompt in enumerate(prompts):
            say(prompt)
            assert said() == prompts[max(number - 3, 0) : number + 1]
        self.store.begin(late, window)
        say("30")
        assert said() == ["27", "28", "29", "30"]
        self.store.finish(answered(late))
        assert said() == ["28", "29", late.prompt, "30"]


class TestLargeMessages(StoreContract):
    outlives_close = False

    def make_store(self, clock: Clock, folder: Path) -> LargeMessages:
        return _made(clock, folder, 1_000_000)


class TestEveryMessageIsLarge(TurnContract, LeaseContract, ReadingContract, ExpiryContract, KeepingContract):
    """But for what is searched, which are heads, and what is removed, which are bodies too."""

    outlives_close = False

    def make_store(self, clock: Clock, folder: Path) -> LargeMessages:
        return _made(clock, folder, 0)
