"""docs/reference/settings.md, from `perdure.settings` and `perdure.tool_settings`."""

import json
from typing import Any

from pydantic_core import to_jsonable_python

from perdure.settings import NEEDS_RESTART, Settings
from perdure.tool_settings import Policy, ToolSettings
from tools.reference.source import docs_of, table

__all__ = ["settings_page"]

_IN_SECTIONS = ("defaults", "tools")


def settings_page() -> str:
    of_the_process = [
        [
            f"`{name}`",
            _value(Settings.model_fields[name].default),
            "at a restart" if name in NEEDS_RESTART else "at once",
            text,
        ]
        for name, text in docs_of(Settings).items()
        if name in Settings.model_fields and name not in _IN_SECTIONS
    ]
    of_a_tool = [
        [f"`{name}`", "" if name == "enabled" else _value(getattr(Policy(), name)), text]
        for name, text in docs_of(ToolSettings).items()
        if name in ToolSettings.model_fields
    ]
    return f"""\
# Settings

Every setting, its built-in value, and when a change of it takes effect. How they are written, and which one wins:
[configuring](../guides/configuring.md).

<!-- Made by `make reference`: change src/perdure/settings.py and src/perdure/tool_settings.py instead. -->

## For the whole process

At the top of `perdure.toml`, or as a variable: `backend` is `PERDURE_BACKEND`.

{table(["setting", "built-in", "a change takes effect", "what it is"], of_the_process)}
## For a tool

In `[defaults]`, `[tools.NAME]` or `@persisted(…)`, or as a variable: `max_turns` is `PERDURE_DEFAULTS__MAX_TURNS`, or
`PERDURE_TOOLS__CHAT__MAX_TURNS` for the tool `chat`. A change takes effect at once.

{table(["setting", "built-in", "what it is"], of_a_tool)}"""


def _value(default: Any) -> str:
    if default is None:
        return ""
    plain = to_jsonable_python(default)
    if isinstance(default, frozenset):
        plain = sorted(plain)
    return f"`{plain:_}`" if type(plain) is int else f"`{json.dumps(plain)}`"
