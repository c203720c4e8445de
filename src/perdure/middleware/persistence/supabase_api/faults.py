"""What Supabase answers instead of what was asked for, sorted by what may be done about it. The table is the file.

retry: the same request may succeed in a moment. hold: it will not until an operator mends something, so what was to be
written waits, and no attempt counts. quarantine: it never will, and must not stand in the way of others.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

import httpx
from postgrest.exceptions import APIError
from storage3.exceptions import StorageApiError

from perdure.errors import (
    FileMissing,
    FunctionMissing,
    PerdureError,
    StoreFailed,
    StoreMisconfigured,
    StoreTimeout,
    StoreUnavailable,
    TurnRefused,
)
from perdure.middleware.persistence.supabase_api.deadline import LastReply

__all__ = ["Fault", "Treatment", "sorted_out"]


class Treatment(StrEnum):
    RETRY = "retry"
    HOLD = "hold"
    QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True)
class Fault:
    treatment: Treatment
    error: PerdureError
    retry_after: float | None = None
    """Seconds that the server asked for."""


@dataclass(frozen=True, slots=True)
class _Entry:
    treatment: Treatment
    what: str
    remedy: str


def _retry(what: str, remedy: str = "wait; look at the project's status page and logs if it lasts.") -> _Entry:
    return _Entry(Treatment.RETRY, what, remedy)


_MIGRATE = _Entry(
    Treatment.HOLD,
    "has no functions of perdure, or those of another version",
    "run `perdure migrate` with the database's URL, or paste `perdure migrate --print` into the SQL editor.",
)
_KEY = _Entry(
    Treatment.HOLD,
    "refused the key",
    "set SUPABASE_KEY to this project's secret key (sb_secret_…) or service_role key; `perdure doctor` checks it.",
)
_RIGHTS = _Entry(
    Treatment.HOLD,
    "does not let this key use perdure's tables or files",
    "set SUPABASE_KEY to a secret key or the service_role key: the anon key may not; `perdure doctor` checks it.",
)
_BUCKET = _Entry(
    Treatment.HOLD,
    "has no such bucket, or does not let this key see it",
    "run `perdure migrate`, which makes mcp-files, or set SUPABASE_STORAGE_BUCKET; `perdure doctor` checks it.",
)
_AWAY = _retry("cannot reach its database")
_BUSY = _retry("is busy with other requests", "wait; a larger compute size, or a smaller load, helps.")
_TOO_LARGE = _Entry(
    Treatment.QUARANTINE,
    "does not take something so large",
    "raise the limit of the bucket in Supabase, or lower max_file_bytes in perdure.toml.",
)
_UNFIT = _Entry(Treatment.QUARANTINE, "cannot hold something in this", "report this with the tool's result.")

# Codes of PostgREST, of Postgres (SQLSTATE, or the first two characters), of storage-api.
_BY_CODE: dict[str, _Entry] = {
    # PostgREST: docs, section Errors.
    **dict.fromkeys(("PGRST000", "PGRST001", "PGRST002"), _AWAY),
    "PGRST003": _BUSY,
    **dict.fromkeys(("PGRST202", "PGRST203", "PGRST204", "PGRST205", "42P01", "42703", "42883"), _MIGRATE),
    **dict.fromkeys(("PGRST300", "PGRST301", "PGRST302", "PGRST303"), _KEY),
    # Postgres: appendix A.
    "42501": _RIGHTS,
    "08": _AWAY,
    "53": _retry("is short of resources", "look at the project's disk, memory and connections."),
    "57": _retry("cancelled or closed what was asked"),
    "40": _retry("had a conflict between two requests"),
    "55P03": _retry("kept a conversation locked for too long", "look for a long transaction on chat_sessions."),
    "25006": _Entry(Treatment.HOLD, "is read-only", "free some disk space in the project, or name the primary."),
    **dict.fromkeys(("22P02", "22P05", "22021", "54000", "54", "22", "23"), _UNFIT),
    # storage-api.
    "InvalidKey": _UNFIT,
    "EntityTooLarge": _TOO_LARGE,
    "InvalidMimeType": _UNFIT,
    "NoSuchBucket": _BUCKET,
}

_NO_FUNCTION = ("PGRST202", "42883")

_SQLSTATE = re.compile("[0-9A-Z]{5}")

_OF_ITSELF = ("08", "53", "57P", "58")
"""Connection, resources, restart, system: the trouble of the database, whatever it is asked."""

_BY_STATUS: dict[int, _Entry] = {
    400: _UNFIT,
    401: _KEY,
    403: _RIGHTS,
    408: _BUSY,
    413: _TOO_LARGE,
    415: _UNFIT,
    423: _BUSY,
    425: _BUSY,
    429: _BUSY,
}

_REDIRECT = _Entry(
    Treatment.HOLD,
    "answered with a redirect, which is not followed since the key would go with it",
    "set SUPABASE_URL to the address that the project itself has.",
)
_NOT_THERE = _Entry(
    Treatment.HOLD,
    "has nothing at this address",
    "mend SUPABASE_URL: https://….supabase.co, or the gateway of a self-hosted project.",
)
_BROKEN = _retry("answered with an error of its own")


def sorted_out(error: Exception, reply: LastReply | None, where: str) -> Fault | None:
    """What `error`, raised by a client of Supabase, means; None if it is none of theirs."""
    match error:
        case httpx.TimeoutException():
            raised: PerdureError = StoreTimeout(
                f"The Supabase project {where} did not answer in time.",
                remedy="look at the project; the setting operation_timeout is that time, in seconds.",
            )
            return Fault(Treatment.RETRY, raised)
        case httpx.TransportError():
            raised = StoreUnavailable(
                f"The Supabase project {where} cannot be reached ({_first_line(error)}).",
                remedy="look at SUPABASE_URL, at the network, and whether the project is paused.",
            )
            return Fault(Treatment.RETRY, raised)
        case APIError():
            code, message = str(error.code or ""), str(error.message or "")
        case StorageApiError():
            code, message = str(error.code or error.status or ""), str(error.message or "")
        case UnicodeEncodeError():
            refused = f"The Supabase project {where} cannot hold something in this ({_first_line(error)})."
            return Fault(Treatment.QUARANTINE, TurnRefused(refused, remedy="report this with the tool's result."))
        case ValueError() | LookupError() | TypeError():
            # What the official clients raise when they take an answer apart: JSON that is none, or of another shape.
            code, message = "", "an answer that is none of Supabase's"
        case _:
            return None
    status = _status(error, code, reply)
    if status == 404 and "bucket" not in message.lower() and isinstance(error, StorageApiError):
        return Fault(Treatment.QUARANTINE, FileMissing(f"There is no such file ({message}).", remedy=""))
    entry = _entry(code, status, message)
    # PostgREST spells out each call that it has no function for: one fault would look like as many as there are calls.
    said = code if entry is _MIGRATE else _shortened(message) or f"status {status}"
    text = f"The Supabase project {where} {entry.what} ({said})."
    kinds = {Treatment.RETRY: StoreUnavailable, Treatment.HOLD: StoreMisconfigured, Treatment.QUARANTINE: TurnRefused}
    kind = FunctionMissing if code in _NO_FUNCTION else kinds[entry.treatment]
    if kind is StoreUnavailable and _SQLSTATE.fullmatch(code) and not code.startswith(_OF_ITSELF):
        kind = StoreFailed
    return Fault(entry.treatment, kind(text, remedy=entry.remedy), reply.retry_after if reply else None)


def _entry(code: str, status: int, message: str) -> _Entry:
    if 300 <= status < 400:
        return _REDIRECT
    if status == 404 and "bucket" in message.lower():
        return _BUCKET
    if found := _BY_CODE.get(code):
        return found
    if len(code) == 5 and (found := _BY_CODE.get(code[:2])):
        return found
    if status in (404, 405) and not code.startswith("PGRST"):
        return _NOT_THERE
    return _BY_STATUS.get(status, _BROKEN)


def _status(error: Exception, code: str, reply: LastReply | None) -> int:
    """Storage answers most faults with 400 and says the true status, as a text, in the body."""
    if isinstance(error, StorageApiError) and str(error.status).isdigit():
        return int(str(error.status))
    if reply is not None:
        return reply.status
    return int(code) if code.isdigit() else 0


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return _shortened(lines[0]) if lines else type(error).__name__


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"
