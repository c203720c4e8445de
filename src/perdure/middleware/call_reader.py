"""Reads from a `tools/call` what perdure needs: who calls, which conversation, what is asked."""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import field
from datetime import datetime, timedelta
from typing import Any, Protocol

from perdure.middleware.idempotency import in_use
from perdure.middleware.meta_keys import META_CONTINUATION_ID, META_IDEMPOTENCY_KEY
from perdure.middleware.persistence.turn import JsonObject, Turn, new_continuation_id, new_turn_id
from perdure.middleware.tool_schema import CONTINUATION_ID, accepts
from perdure.quick_values import frozen, making, mutable
from perdure.settings import HistoryMode, Policy, Settings

__all__ = [
    "Caller",
    "Reading",
    "ToolRequest",
    "ToolShape",
    "is_usable_id",
    "principal_of",
    "prompt_fits",
    "read_call",
    "readers_of",
]

LONGEST_ID = 200
"""Characters of a continuation id."""

_NOT_IN_IDS = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories: control characters, lone surrogates, line and paragraph separators."""


@frozen()
class Caller:
    """What the request's authentication says. Nothing a client can write into a call counts."""

    subject: str | None = None
    """Of the verified token; None where no request is authenticated."""
    remote: bool = False
    """Over HTTP: then whoever is not authenticated may be anybody."""

    @classmethod
    def by_token(cls, token: "VerifiedToken") -> "Caller":
        """The subject of the token that the server verified; one that names none is known by its client."""
        # Verifiers written before the SDKs knew subjects leave theirs among the claims.
        subject = token.subject or (token.claims or {}).get("sub")
        if not subject:
            return cls(f"client:{token.client_id}", remote=True)
        subject = str(subject)
        # So that no subject can pass for a client.
        return cls(f"subject:{subject}" if subject.startswith(("client:", "subject:")) else subject, remote=True)


class VerifiedToken(Protocol):
    """As every SDK has it."""

    client_id: str
    subject: str | None
    claims: dict[str, Any] | None


@frozen(kw_only=True)
class ToolShape:
    """What a tool's entry in `tools/list`, and its handler, say of all its calls."""

    declares_id: bool = False
    """It has an argument `continuation_id` of its own, which it gets and which is recorded; `strip_id` aside."""
    takes_history: bool = False
    """The handler has a parameter for it."""
    input_schema: Mapping[str, Any] | None = None
    output_schema: Mapping[str, Any] | None = None
    output_schema_is_known: bool = True
    """If not, nothing is added to structured content."""
    schema_widened: bool = False
    """The client is shown the output schema with the continuation id in it."""


@mutable(kw_only=True)  # not frozen: it is made in every call, and that takes longer
class ToolRequest:
    """A `tools/call` as a seam sees it. Nobody changes it."""

    tool: str
    arguments: JsonObject
    """As on the wire, the continuation id among them."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    caller: Caller = Caller()
    protocol_version: str | None = None
    request_state: str | None = None
    """With which the client answers a question that the tool asked on an earlier leg of this call."""
    request_state_is_sealed: bool = False
    """The SDK itself encrypts and checks it."""


@mutable(kw_only=True)  # not frozen, as above
class Reading:
    """A call as perdure understands it. Nobody changes it."""

    turn: Turn
    continues: bool
    """The client named a conversation: there may be history."""
    prompt_argument: str | None
    idempotency_key: str | None
    """Of a caller who is known: where anybody may call, anybody may know the key."""
    shape: ToolShape
    policy: Policy

    @property
    def history_mode(self) -> HistoryMode:
        """Decided: never AUTO. Asked for only where there is a history."""
        match self.policy.history:
            case HistoryMode.AUTO if self.shape.takes_history:
                return HistoryMode.PARAMETER
            case HistoryMode.AUTO | HistoryMode.PROMPT:
                return HistoryMode.PROMPT if self.prompt_argument is not None else HistoryMode.NONE
            case mode:
                return mode


_turn, _reading = making(Turn), making(Reading)


def read_call(request: ToolRequest, shape: ToolShape, policy: Policy, settings: Settings, now: datetime) -> Reading:
    arguments, meta, caller = request.arguments, request.meta, request.caller
    named: str | None = None
    if CONTINUATION_ID in arguments or META_CONTINUATION_ID in meta:
        named = _named_id(request)
        if CONTINUATION_ID in arguments and (policy.strip_id or not shape.declares_id):
            arguments = {name: value for name, value in arguments.items() if name != CONTINUATION_ID}
    adopt = caller.subject is not None or not caller.remote or settings.shared_user
    fresh = new_continuation_id() if named is None or not adopt else ""
    name = policy.prompt_argument or "prompt"
    prompt = arguments.get(name)
    prompt_argument = name if isinstance(prompt, str) else None
    version = request.protocol_version
    turn = _turn(
        id=new_turn_id(now),
        principal=principal_of(caller, settings, policy.user_id),
        continuation_id=named or fresh,
        minted=named is None,
        adopt=adopt,
        fresh_id=fresh,
        tool=request.tool,
        prompt=prompt if isinstance(prompt, str) else _prompt(arguments),
        arguments=arguments,
        started_at=now,
        lease_until=now + timedelta(seconds=settings.lease_seconds),
        expire_after=policy.expire_after,
        metadata={"protocol_version": version} if version else {},
    )
    return _reading(
        turn=turn,
        continues=named is not None,
        prompt_argument=prompt_argument,
        idempotency_key=in_use(meta[META_IDEMPOTENCY_KEY]) if adopt and META_IDEMPOTENCY_KEY in meta else None,
        shape=shape,
        policy=policy,
    )


def prompt_fits(input_schema: Mapping[str, Any] | None, argument: str, text: str) -> bool:
    """Whether the tool's schema lets `text` stand in that argument."""
    properties = (input_schema or {}).get("properties") or {}
    schema = properties.get(argument)
    if schema is not None and input_schema and "$defs" in input_schema:
        schema = {**schema, "$defs": input_schema["$defs"]}
    return accepts(schema, text)


def is_usable_id(value: object) -> bool:
    """Whether `value` can name a conversation: 1 to 200 characters, none of them a control character."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= LONGEST_ID
        and not value.isspace()
        and not any(unicodedata.category(character) in _NOT_IN_IDS for character in value)
    )


def _named_id(request: ToolRequest) -> str | None:
    """The id that the client named: in the arguments, else in `_meta`. One that cannot be used is none."""
    for value in (request.arguments.get(CONTINUATION_ID), request.meta.get(META_CONTINUATION_ID)):
        if value is not None and value != "":
            return value if is_usable_id(value) else None
    return None


def principal_of(caller: Caller, settings: Settings, user_id: str | None) -> str:
    """Whose the call is: `user_id`, which a policy may name, stands only where no request is authenticated."""
    if caller.subject is not None:
        return caller.subject
    if user_id is not None:
        return user_id
    return "anonymous" if caller.remote and not settings.shared_user else "local"


def readers_of(caller: Caller, settings: Settings) -> list[str]:
    """Whose files a request may read that names no tool: those of whoever its caller is for any tool."""
    of_tools = [tool.user_id for tool in settings.tools.values() if tool.user_id is not None]
    users = [settings.defaults.user_id or settings.user_id, *of_tools]
    return list(dict.fromkeys(principal_of(caller, settings, user) for user in users))


def _prompt(arguments: JsonObject) -> str:
    """What a reader sees in place of a prompt argument: the only text there is, else all arguments."""
    if len(arguments) == 1:
        only = next(iter(arguments.values()))
        if isinstance(only, str):
            return only
    try:
        return json.dumps(arguments, ensure_ascii=False) if arguments else ""
    except (ValueError, RecursionError):
        return ""  # Nothing that can be written down: the store will say so.
