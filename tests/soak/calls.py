"""Calls of a tool that answers at once, by the way that every seam takes through perdure."""

from collections.abc import Callable
from typing import Any

from soak.evidence import answer_to

from perdure.middleware.call_reader import ToolRequest, ToolShape
from perdure.middleware.persisted_call import PersistedCall
from perdure.middleware.persistence.wiring import Runtime
from perdure.middleware.tool_plan import ToolPlan
from perdure.settings import ToolSettings

__all__ = ["PRINCIPAL", "call", "call_async"]

PRINCIPAL = "local"
"""Who calls where nobody is authenticated and no user is set."""

Json = dict[str, Any]

_IN_CODE = ToolSettings()
"""One, as a decorated tool has: the runtime remembers what policy each of them comes to."""


def call(
    runtime: Runtime, prompt: str, conversation: str | None, body: Callable[[], None] = lambda: None
) -> tuple[PersistedCall, Json]:
    """The call, for a look at the history it was given, and the `_meta` of its result. `body` is the tool's."""
    started = _started(runtime, prompt, conversation)
    started.begin()
    body()
    result = _answered(started, prompt)
    started.finish()
    return started, started.announce(result)["_meta"]


async def call_async(runtime: Runtime, prompt: str, conversation: str | None) -> Json:
    """The `_meta` of its result."""
    started = _started(runtime, prompt, conversation)
    await started.begin_async()
    result = _answered(started, prompt)
    await started.finish_async()
    meta: Json = started.announce(result)["_meta"]
    return meta


def _started(runtime: Runtime, prompt: str, conversation: str | None) -> PersistedCall:
    arguments = {"prompt": prompt} | ({"continuation_id": conversation} if conversation else {})
    request = ToolRequest(tool="chat", arguments=arguments)
    return PersistedCall(runtime, request, ToolPlan(runtime, runtime.policy("chat", _IN_CODE), ToolShape()))


def _answered(started: PersistedCall, prompt: str) -> Json:
    result = {"content": [{"type": "text", "text": answer_to(prompt)}]}
    started.end_with_result(result)
    return result
