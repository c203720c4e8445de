"""What is known of a tool's calls before any of them comes: worked out once, and looked up in every call."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from perdure.middleware.call_reader import ToolShape
from perdure.middleware.persistence.runtime import Runtime, redactor_for, roots_for
from perdure.middleware.persistence.turn import Window
from perdure.middleware.tool_schema import takes_continuation_id
from perdure.settings import Policy

if TYPE_CHECKING:
    from perdure.middleware.result_ids import ResultIds

__all__ = ["KnownPlans", "ToolPlan"]

_MOST_TOOLS = 10_000
"""Whose plans are kept: where a server lists no tools, their names are whatever clients call."""


class ToolPlan:
    """How the calls of one tool are persisted, by its policy and its shape. Nobody changes it."""

    def __init__(self, runtime: Runtime, policy: Policy, shape: ToolShape) -> None:
        self.policy = policy
        self.shape = shape
        self.redactor = redactor_for(policy.redact, policy.redact_patterns)
        self.roots = roots_for(policy.file_roots, runtime.own_folder)
        self.window = Window(policy.max_turns, policy.max_tokens, last_place=runtime.settings.max_conversation_turns)
        self.own_ids = _own_ids(policy.id_path) if policy.id_path else None
        """Where results have ids of the tool's own."""
        self.id_in_structured = shape.output_schema_is_known and takes_continuation_id(
            shape.output_schema, widened=shape.schema_widened
        )
        """Whether structured content may carry the id."""


def _own_ids(id_path: tuple[str, ...]) -> "ResultIds":
    from perdure.middleware.result_ids import ResultIds  # noqa: PLC0415 - few tools make ids of their own

    return ResultIds.at(id_path)


class KnownPlans:
    """Of the tools behind one seam. A plan is made anew when the policy, or a schema of the tool, is another object."""

    def __init__(self) -> None:
        self._plans: dict[tuple[str, bool], ToolPlan] = {}

    def plan(
        self,
        tool: str,
        policy: Policy,
        input_schema: Mapping[str, Any] | None,
        output_schema: Mapping[str, Any] | None = None,
        *,
        widened: bool = False,
    ) -> ToolPlan | None:
        plan = self._plans.get((tool, widened))
        if (
            plan is not None
            and plan.policy is policy  # of these very settings, and of this runtime
            and plan.shape.input_schema is input_schema
            and plan.shape.output_schema is output_schema
        ):
            return plan
        return None

    def noted(self, tool: str, plan: ToolPlan) -> ToolPlan:
        key = tool, plan.shape.schema_widened
        if key in self._plans or len(self._plans) < _MOST_TOOLS:
            self._plans[key] = plan
        return plan
