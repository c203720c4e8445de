"""Every error perdure raises.

PerdureError
├── SettingsError            a settings file or variable cannot be used
├── DecoratorError           ``@persisted`` stands where it cannot work (also a ``TypeError``)
├── QuestionError            what shall be searched for cannot be understood
├── RequestStateRefused      a client came back with a request state that does not count for its call
└── StoreError
    ├── StoreUnavailable     the store cannot be reached or used now; nothing is known of the write
    │   ├── StoreTimeout         … within the time allowed (also a ``TimeoutError``)
    │   ├── StoreFailed          … for what it was asked: it answers, and may do so to something else
    │   ├── SearchNotReady       … for this search: its database has much to be made ready first
    │   ├── StoreMisconfigured   … until an operator mends a setting, a key or the schema
    │   │   └── FunctionMissing      … the last of these: it has not been migrated since perdure was upgraded
    │   ├── StoreLeftAlone       … and was not asked, since it failed so often
    │   └── TurnsWaiting         … for this turn, since earlier turns of its conversation are not there yet
    ├── SpoolFull            the local queue takes nothing more
    ├── TurnRefused          the store will never take this turn
    ├── TurnConflict         a turn id was used before for another call
    ├── ForkRefused          there is nothing to fork, or the new id is taken
    ├── ConversationFull     the conversation takes no further turn
    ├── RateLimited          this principal calls more often than turns are kept
    └── FileMissing          there is no such file, or it is not the caller's
"""

__all__ = [
    "ConversationFull",
    "DecoratorError",
    "FileMissing",
    "ForkRefused",
    "FunctionMissing",
    "PerdureError",
    "QuestionError",
    "RateLimited",
    "RequestStateRefused",
    "SearchNotReady",
    "SettingsError",
    "SpoolFull",
    "StoreError",
    "StoreFailed",
    "StoreLeftAlone",
    "StoreMisconfigured",
    "StoreTimeout",
    "StoreUnavailable",
    "TurnConflict",
    "TurnRefused",
    "TurnsWaiting",
]


class PerdureError(Exception):
    """What happened and where, and what to do next.

    `code` names the kind of fault to programs (`_meta`, logs); it never holds anything of the call.
    """

    code = "error"

    def __init__(self, what: str, *, remedy: str = "") -> None:
        super().__init__(f"{what} Remedy: {remedy}" if remedy else what)
        self.what = what
        self.remedy = remedy


class SettingsError(PerdureError):
    """A settings file or an environment variable cannot be used."""

    code = "settings_invalid"


class DecoratorError(PerdureError, TypeError):
    """`@persisted` stands where it cannot work."""

    code = "decorator_misplaced"


class QuestionError(PerdureError):
    """What shall be searched for cannot be understood; the remedy is how to write it."""

    code = "question_invalid"


class RequestStateRefused(PerdureError):
    """A client sent a call again with a request state that was not made for it, was altered, or is too old."""

    code = "request_state_refused"


class StoreError(PerdureError):
    """The store did not do what it was asked."""

    code = "store_error"


class StoreUnavailable(StoreError):
    """The store cannot be used now. Whether a write took place is not known; writing again is harmless."""

    code = "store_unavailable"


class StoreTimeout(StoreUnavailable, TimeoutError):
    """The store did not answer within the time allowed for it."""

    code = "store_timeout"


class StoreFailed(StoreUnavailable):
    """The store answers, and failed at what it was asked: a row is locked or damaged, a trigger objects."""


class SearchNotReady(StoreUnavailable):
    """There is more to be made ready for search than anybody should wait for at once. What was done stays done."""

    code = "search_not_ready"


class StoreMisconfigured(StoreUnavailable):
    """The store will not be of use until somebody mends what the remedy names: a setting, a key, the schema."""

    code = "store_misconfigured"


class FunctionMissing(StoreMisconfigured):
    """The database has not the function that was called: it was migrated by an older perdure, or not at all."""


class StoreLeftAlone(StoreUnavailable):
    """The store failed several times in a row, and is given some time before it is asked again."""

    code = "store_left_alone"


class TurnsWaiting(StoreUnavailable):
    """Earlier turns of the conversation wait in the spool: this one must not overtake them."""

    code = "turns_waiting"


class SpoolFull(StoreError):
    """What waits for the store has reached `spool_max_bytes`."""

    code = "spool_full"


class TurnRefused(StoreError):
    """The store cannot hold this turn, now or later."""

    code = "turn_refused"


class TurnConflict(StoreError):
    """A turn id was used before, for another call or by another principal."""

    code = "turn_conflict"


class ConversationFull(StoreError):
    """The conversation has as many turns as `max_conversation_turns` admits: the call goes on, and is not kept."""

    code = "conversation_full"

    def __init__(self, continuation_id: str, place: int) -> None:
        super().__init__(
            f"The conversation {continuation_id} has {place:,} turns, and takes no more.",
            remedy="begin a new conversation: call without a continuation id.",
        )
        self.place = place
        """Of its last turn."""


class RateLimited(StoreError):
    """More turns of this principal came in a minute than `max_turns_per_minute`: the call goes on, and is not kept."""

    code = "rate_limited"

    def __init__(self, principal: str, seconds: float) -> None:
        super().__init__(
            f"{principal} calls more often than turns are kept.",
            remedy=f"call again in {seconds:.1f} s for a turn that is kept, or raise max_turns_per_minute.",
        )
        self.seconds = seconds
        """Until the next one would be kept."""


class ForkRefused(StoreError):
    """There is no such conversation or no turn at that place, or the id of the fork is taken."""

    code = "fork_refused"


class FileMissing(StoreError):
    """There is no such file for this caller. Whether another has it is not said."""

    code = "file_missing"
