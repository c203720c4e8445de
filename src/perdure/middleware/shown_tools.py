"""What clients of one server were shown of its tools, as far as that hangs on settings, which may change."""

from collections.abc import Callable

from perdure.middleware.persistence.turn import JsonObject
from perdure.middleware.persistence.wiring import Runtime, runtime
from perdure.middleware.tool_schema import has_added_id, without_added_id
from perdure.policy_sources import Source
from perdure.quick_values import frozen
from perdure.settings import Announce, Policy, Settings, ToolSettings

__all__ = ["ShownTools"]

_MOST_TOOLS = 10_000
"""A server that names ever new ones is left at that."""


class ShownTools:
    def __init__(self, options_of: Callable[[object], ToolSettings | None]) -> None:
        """`options_of` a function: those of the decorator on it; None if it has none."""
        self.hooked = False
        """Whether any tool may be switched on: a hook stands before the whole server."""
        self._options_of = options_of
        self._shown: dict[str, _Shown] = {}
        self._as_of: Settings | None = None
        self._changed = False

    def note(self, tool: str, in_code: ToolSettings | None, by: Source, policy: Policy, *, widens: bool) -> None:
        """`tool` is shown by `policy`. `widens`: the output schema too, where the id is announced there."""
        known = self._shown.get(tool)
        if known is None and len(self._shown) >= _MOST_TOOLS:
            return
        form = _form(policy, widens=widens)
        self._shown[tool] = _Shown(in_code, by, widens, form)
        self._changed |= known is not None and known.form != form  # to this client it is news, to others a change

    def amended(self, page: JsonObject, function_of: Callable[[str], object | None], by: Source) -> JsonObject:
        """A page of `tools/list` without the id in the entries of decorated tools that are switched off by now."""
        tools = page.get("tools")
        if not isinstance(tools, list) or not any(has_added_id(tool) for tool in tools):
            return page
        now = runtime()
        amended = [self._amended(tool, function_of, by, now) if has_added_id(tool) else tool for tool in tools]
        return {**page, "tools": amended} if amended != tools else page

    def _amended(
        self, tool: JsonObject, function_of: Callable[[str], object | None], by: Source, now: Runtime
    ) -> JsonObject:
        try:
            in_code = self._options_of(function_of(tool["name"]))
        except Exception as error:  # noqa: BLE001 - a tool that we cannot look up is the server's to show
            now.say("tool.not_amended", error)
            return tool
        if in_code is None:
            return tool  # A hook has added the id, and knows when not to.
        policy = now.policy(tool["name"], in_code)
        if (known := self._shown.get(tool["name"])) is None or not known.widens:
            self.note(tool["name"], in_code, by, policy, widens=False)
        return tool if policy.enabled else without_added_id(tool)

    def have_changed(self) -> bool:
        """Whether a tool that was shown is to be shown otherwise since this was asked last."""
        if not self._shown:
            return False
        now = runtime()
        if now.settings is not self._as_of:
            self._as_of = now.settings
            try:
                self._follow(now)
            except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
                now.say("tools.change_not_noticed", error)
        changed, self._changed = self._changed, False
        return changed

    def _follow(self, now: Runtime) -> None:
        for tool, shown in list(self._shown.items()):
            policy = now.policy(tool, shown.in_code)
            self.note(tool, shown.in_code, shown.by, policy, widens=shown.widens)

    def offers_changes(self, functions: "list[object]") -> bool:
        """Whether what this server shows may ever change: it has a hook, or one of its `functions` is decorated."""
        return self.hooked or any(self._options_of(function) is not None for function in functions)

    def options_in_code(self, names: list[str]) -> JsonObject:
        """What the server's code says of those of its tools that it persists, for `perdure tools`."""
        return {
            name: {
                "by": shown.by.name,
                "options": shown.in_code.model_dump(mode="json", exclude_unset=True, exclude_none=True),
            }
            for name in names
            if (shown := self._shown.get(name)) is not None and shown.in_code is not None
        }


@frozen()
class _Shown:
    in_code: ToolSettings | None
    by: Source
    widens: bool
    form: tuple[bool, bool]


def _form(policy: Policy, *, widens: bool) -> tuple[bool, bool]:
    """All of a policy that shows in `tools/list`: whether the id is in the input schema, and in the output schema."""
    return policy.enabled, policy.enabled and widens and Announce.STRUCTURED in policy.announce
