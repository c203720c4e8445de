"""What tests see of a result in its wire form, whatever the SDK."""

from typing import Any

__all__ = ["Json", "announced_id", "text_of", "without_announcement"]

Json = dict[str, Any]


def announced_id(result: Json) -> str:
    identity: str = result["_meta"]["perdure/continuation-id"]
    return identity


def without_announcement(result: Json) -> Json:
    """`result` less what perdure may add to it, and nothing else."""
    identity = announced_id(result)
    stripped = dict(result)
    meta = {key: value for key, value in result["_meta"].items() if not key.startswith("perdure/")}
    del stripped["_meta"]
    if meta:
        stripped["_meta"] = meta
    content = result.get("content", [])
    if content and f"[continuation_id: {identity}]" in content[-1].get("text", ""):
        stripped["content"] = content[:-1]
    structured = result.get("structuredContent")
    if isinstance(structured, dict) and structured.get("continuation_id") == identity:
        stripped["structuredContent"] = {k: v for k, v in structured.items() if k != "continuation_id"}
    return stripped


def text_of(result: Json) -> str:
    """The tool's own text."""
    text: str = result["content"][0]["text"]
    return text
