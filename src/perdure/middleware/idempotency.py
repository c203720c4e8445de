"""A client that sends a call again under its idempotency key means the same call: it is one turn."""

import hashlib
import uuid

from perdure.errors import PerdureError

__all__ = ["CallRefused", "in_use", "still_running", "turn_id_of", "used_otherwise"]

_LONGEST_KEY = 200


class CallRefused(PerdureError):
    """The tool's body does not run: its client used an idempotency key wrongly, or too early."""

    code = "idempotency_key_refused"


def in_use(value: object) -> str | None:
    """The key that a client sent; None if it sent none, or one that is no text of 1 to 200 characters."""
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST_KEY else None


def turn_id_of(principal: str, key: str, attempt: int) -> str:
    """The id of the turn that `key` names for this principal: a UUIDv8 (RFC 9562, section 5.8).

    `attempt` counts those before it that failed or were given up: their turns have ended, and this is another one.
    """
    named = hashlib.sha256(f"{principal}\0{key}\0{attempt}".encode("utf-8", "surrogatepass")).digest()
    bits = int.from_bytes(named[:16], "big")
    return str(uuid.UUID(int=bits & ~(0xF << 76) & ~(0x3 << 62) | 8 << 76 | 0b10 << 62))


def used_otherwise(key: str) -> CallRefused:
    return CallRefused(
        f"The idempotency key {key!r} was used before for another call: with another tool, or other arguments.",
        remedy="send a key of its own with every new call, and the same key only to repeat one.",
    )


def still_running(key: str) -> CallRefused:
    return CallRefused(
        f"The call with the idempotency key {key!r} has no answer yet that could be given again.",
        remedy="wait, and send it again.",
    )
