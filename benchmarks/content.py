"""What every candidate says and is answered, perdure's and any other's: 200 bytes, and 2 KB.

Knows nothing of perdure: peers have no such thing in their environments.
"""

from typing import Any

__all__ = ["answer_to", "prompt_of", "result_of"]

_PROMPT_BYTES = 200
_ANSWER_BYTES = 2048

_WORDS = (
    # With what models write besides prose: quotes, line breaks, a bit of code. Each takes its own way through JSON.
    'Of all the things a server may forget, "what was said before" is the one that its users notice first.\n'
    "They come back the next morning, name the conversation, and go on in the middle of a sentence; and a tool that\n"
    "has lost it can only ask them to begin again: `if len(turns) < 1: return <nothing>`.\n"
)


def prompt_of(number: int) -> str:
    """200 bytes, different for every number."""
    return _filled(f"Question {number}: ", _PROMPT_BYTES)


def answer_to(prompt: str) -> str:
    """2,048 bytes that belong to this prompt and to no other."""
    return _filled(f"On {prompt[:20]!r}: ", _ANSWER_BYTES)


def result_of(answer: str) -> dict[str, Any]:
    """`answer` as the whole `CallToolResult` of a tool that returns a string."""
    return {"content": [{"type": "text", "text": answer}], "structuredContent": {"result": answer}}


def _filled(start: str, length: int) -> str:
    return (start + _WORDS * (length // len(_WORDS) + 1))[:length]
