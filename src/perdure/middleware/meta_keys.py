"""The keys of ours in the `_meta` of calls and results. docs/reference/meta.md is made from what stands here."""

__all__ = [
    "META_CONTINUATION_ID",
    "META_DEFERRED",
    "META_FAULT",
    "META_FILES",
    "META_HISTORY",
    "META_IDEMPOTENCY_KEY",
    "META_OPTIONS",
    "META_PERSISTED",
    "META_REMEDY",
    "META_RETRY_AFTER",
    "META_TURN_ID",
]

META_CONTINUATION_ID = "perdure/continuation-id"
"""Names the conversation. In a result; a client that cannot send the argument `continuation_id` may send it in a
call's `_meta`."""

META_IDEMPOTENCY_KEY = "perdure/idempotency-key"
"""Sent by a client with a call (1 to 200 characters): however often it is sent, it is one turn. The same key with
another tool or other arguments is refused. Not where anybody may call without authentication."""

META_TURN_ID = "perdure/turn-id"
"""Names this call's turn."""

META_PERSISTED = "perdure/persisted"
"""Whether the turn is durable: in the store, or in the spool."""

META_DEFERRED = "perdure/deferred"
"""`true` if it is in the spool, and goes to the store later."""

META_HISTORY = "perdure/history"
"""`{"state": "new" | "loaded" | "unavailable", "turns": n, "omitted": m}`: what the tool was given. `omitted` counts
earlier turns that were over the budget or have no answer; `skipped` says why a transcript could not be put before the
prompt."""

META_FILES = "perdure/files"
"""`{"stored": [{"uri", "name", "version", "size", "mediaType"}], "left": [{"path", "reason", "setting"}]}`: what was
kept, and what was left alone and why."""

META_FAULT = "perdure/fault"
"""What went wrong, if something did: one of the codes below. The log on stderr has the details and the remedy."""

META_REMEDY = "perdure/remedy"
"""With `store_misconfigured`: what an operator has to do; with `conversation_full` and `rate_limited`: the caller."""

META_RETRY_AFTER = "perdure/retry-after"
"""With `rate_limited`: seconds until a call is kept again."""

META_OPTIONS = "perdure/options"
"""Sent by `perdure tools` with `tools/list`, and answered for each tool with what the server's own code sets."""
