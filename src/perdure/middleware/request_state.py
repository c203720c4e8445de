"""The envelope in which a turn travels from one leg of a call to the next, around the tool's own `requestState`.

A tool may answer a call with a question to the client (`InputRequiredResult`, protocol 2026-07-28). The client then
sends the same call again, with its answers and the `requestState` of the question, to any replica of the server. An
id that was minted on the first leg stands nowhere in that second call; so it comes in the envelope.

    perdure.1.<what the next leg must know>.<the tool's own state, `-` if there is none>.<tag>

Base64url without padding each. The tag is an HMAC-SHA256 over all that stands before it and over what is *not* in the
envelope: principal, tool and arguments. So it counts only for the call that it was made for.
"""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

from perdure.errors import RequestStateRefused
from perdure.middleware.persistence.serialization import digest, exact_json
from perdure.middleware.persistence.turn import JsonObject
from perdure.quick_values import frozen

__all__ = ["SEALED_BY_SDK", "STAYS_OPEN", "Binding", "OpenTurn", "is_envelope", "opened", "own_state", "wrapped"]

STAYS_OPEN = timedelta(hours=24)
"""For so long after a question its answer still finds the turn. Later it is a turn of its own."""

SEALED_BY_SDK = b"sealed by the SDK"
"""In place of a key where the SDK itself encrypts and checks all request state: no client can have made any then."""

_PREFIX = "perdure.1."
_NONE = "-"


@frozen(kw_only=True)
class OpenTurn:
    """What the next leg must know of the turn that it goes on with."""

    id: str
    continuation_id: str
    minted: bool
    continues: bool
    """The client named the conversation on the first leg: there may be history."""
    started_at: datetime
    place: int | None
    """None: no store has accepted any record of it yet."""


@frozen(kw_only=True)
class Binding:
    """The call that an envelope counts for."""

    principal: str
    tool: str
    arguments: JsonObject
    """As on the wire: the client sends the same ones on every leg."""

    def text(self) -> str:
        return exact_json([self.principal, self.tool, digest(self.tool, self.arguments)])


def wrapped(own: str | None, turn: OpenTurn, binding: Binding, key: bytes, now: datetime) -> str:
    """The tool's `own` state, None if it has none, with `turn` around it."""
    known = {
        "turn": turn.id,
        "conversation": turn.continuation_id,
        "minted": turn.minted,
        "continues": turn.continues,
        "started": turn.started_at.isoformat(),
        "place": turn.place,
        "expires": (now + STAYS_OPEN).timestamp(),
    }
    state = _NONE if own is None else _encoded(own.encode("utf-8", "surrogatepass"))
    text = f"{_PREFIX}{_encoded(exact_json(known).encode('ascii'))}.{state}"
    return f"{text}.{_tag(text, binding, key)}"


def opened(envelope: str, binding: Binding, key: bytes, now: datetime) -> OpenTurn:
    """
    Raises:
        RequestStateRefused: It was not made here for this call of this caller, was altered, or is too old.
    """
    text, _, tag = envelope.rpartition(".")
    if not hmac.compare_digest(_bytes(_tag(text, binding, key)), _bytes(tag)):
        raise RequestStateRefused(
            f"A call of the tool {binding.tool} came back with a request state that was not made here for this call.",
            remedy="if several processes or machines serve one client, give all of them the same request_state_key.",
        )
    known = json.loads(_decoded(text.removeprefix(_PREFIX).partition(".")[0]))
    if now.timestamp() >= known["expires"]:
        raise RequestStateRefused(
            f"A call of the tool {binding.tool} was answered more than {STAYS_OPEN.total_seconds() / 3600:.0f} hours "
            "after the tool's question.",
            remedy="none is needed: the answer is a turn of its own.",
        )
    return OpenTurn(
        id=known["turn"],
        continuation_id=known["conversation"],
        minted=known["minted"],
        continues=known["continues"],
        started_at=datetime.fromisoformat(known["started"]).astimezone(UTC),
        place=known["place"],
    )


def is_envelope(state: object) -> bool:
    """Whether `state` has the form of an envelope; not whether it is one that counts."""
    return isinstance(state, str) and state.startswith(_PREFIX) and state.count(".") == _PREFIX.count(".") + 2


def own_state(state: str) -> str | None:
    """The tool's own state out of `state`; `state` itself where that is no envelope, None where the tool had none.

    Nothing is checked: a tool gets back what the client sent, as it would without us.
    """
    if not is_envelope(state):
        return state
    own = state.removeprefix(_PREFIX).split(".")[1]
    if own == _NONE:
        return None
    try:
        return _decoded(own).decode("utf-8", "surrogatepass")
    except ValueError:
        return state


def _tag(text: str, binding: Binding, key: bytes) -> str:
    signed = exact_json([text, binding.text()]).encode("ascii")
    return _encoded(hmac.digest(key, signed, hashlib.sha256))


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
