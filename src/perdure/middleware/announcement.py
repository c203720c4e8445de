"""Reads an answer out of a `CallToolResult`, and writes what perdure has to say into it. On the wire form."""

import json
from collections.abc import Mapping
from typing import Any

from perdure.middleware.persistence.turn import Answer, Json, JsonObject
from perdure.middleware.tool_schema import CONTINUATION_ID
from perdure.quick_values import making
from perdure.settings import Announce

__all__ = ["announced", "answer_of", "is_error", "is_final", "is_question"]


def is_final(result: Mapping[str, Any]) -> bool:
    """Whether this is the call's answer; not a question to the client, nor a task that is still to run."""
    is_task = "task" in result and "content" not in result  # as 2025-11-25 has them
    return bool(result.get("resultType", "complete") == "complete") and not is_task


def is_question(result: Mapping[str, Any]) -> bool:
    """Whether the tool wants something of the client first: the answer comes with a later leg of the same call."""
    return result.get("resultType") == "input_required"


def is_error(result: Mapping[str, Any]) -> bool:
    return bool(result.get("isError"))


_answer = making(Answer)


def answer_of(result: JsonObject) -> Answer:
    """What is recorded of a result: all of it, and the text that a reader sees."""
    kept = dict(result)
    if kept.get("isError") is False:
        del kept["isError"]
    if isinstance(meta := kept.get("_meta"), dict):
        own = dict(meta)
        for name in meta:
            if name.startswith("io.modelcontextprotocol/"):
                del own[name]  # What the SDK stamps on every result is not the tool's.
        if own:
            kept["_meta"] = own
        else:
            del kept["_meta"]
    return _answer(text=_text(result), result=kept)


def announced(
    result: JsonObject,
    *,
    where: frozenset[Announce],
    continuation_id: str,
    meta: JsonObject,
    in_structured: bool,
) -> JsonObject:
    """`result` with the continuation id where the policy wants it. A result that is an error gets only `_meta`."""
    changed = dict(result)
    if Announce.META in where:
        own = result.get("_meta")
        changed["_meta"] = {**own, **meta} if own else meta
    if result.get("isError"):
        return changed
    structured = result.get("structuredContent")
    if (
        in_structured
        and Announce.STRUCTURED in where
        and isinstance(structured, dict)
        and CONTINUATION_ID not in structured
    ):
        changed["structuredContent"] = {**structured, CONTINUATION_ID: continuation_id}
    if Announce.TEXT in where:
        changed["content"] = [*result.get("content", []), announcement_block(continuation_id)]
    return changed


def announcement_block(continuation_id: str) -> JsonObject:
    return {
        "type": "text",
        "text": f"[continuation_id: {continuation_id}] Pass this continuation_id to continue the conversation.",
    }


def _text(result: JsonObject) -> str:
    texts: list[str] = []
    for block in result.get("content") or ():
        if isinstance(block, dict) and block.get("type") == "text" and isinstance(said := block.get("text"), str):
            text = said  # nearly every block; `match` takes four times as long
        else:
            text = _other_text(block)
        if text:
            texts.append(text)
    if texts:
        return "\n\n".join(texts)
    structured = result.get("structuredContent")
    return "" if structured is None else json.dumps(structured, ensure_ascii=False)


def _other_text(block: Json) -> str:
    match block:
        case {"type": "resource", "resource": {"text": str(text)}}:
            return text
        case {"type": "resource", "resource": {"uri": str(uri)}} | {"type": "resource_link", "uri": str(uri)}:
            return f"[{uri}]"
        case {"type": str(kind), "mimeType": str(media_type)}:
            return f"[{kind} {media_type}]"
        case _:
            return ""
