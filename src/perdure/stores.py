"""For whoever writes a store: what it has to be, and the values that go in and out.

`perdure.testing` proves it; docs/guides/write-a-store.md leads through it. Everything here is what perdure's own
stores are written with.
"""

from perdure.errors import (
    ConversationFull,
    FileMissing,
    ForkRefused,
    StoreError,
    StoreMisconfigured,
    StoreTimeout,
    StoreUnavailable,
    TurnConflict,
    TurnRefused,
)
from perdure.middleware.persistence.excerpts import Excerpt, answers, excerpt_of
from perdure.middleware.persistence.file_stores.keys import checked as checked_key
from perdure.middleware.persistence.ports import Clock, FileStore, GroupingStore, Store, SystemClock
from perdure.middleware.persistence.question import Question
from perdure.middleware.persistence.spool.turn_record import read_turn, write_turn
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.turn import (
    Answer,
    BegunTurn,
    ConversationSummary,
    FinishedTurn,
    Outcome,
    StoredFile,
    Turn,
    Window,
)
from perdure.middleware.persistence.upkeep import FileName, Hit, HitPosition, Removed, Statistics

__all__ = [
    "Answer",
    "BegunTurn",
    "Clock",
    "ConversationFull",
    "ConversationSummary",
    "Excerpt",
    "FileMissing",
    "FileName",
    "FileStore",
    "FinishedTurn",
    "ForkRefused",
    "GroupingStore",
    "Hit",
    "HitPosition",
    "MemoryStore",
    "Outcome",
    "Question",
    "Removed",
    "Statistics",
    "Store",
    "StoreError",
    "StoreMisconfigured",
    "StoreTimeout",
    "StoreUnavailable",
    "StoredFile",
    "SystemClock",
    "Turn",
    "TurnConflict",
    "TurnRefused",
    "Window",
    "answers",
    "checked_key",
    "excerpt_of",
    "read_turn",
    "write_turn",
]
