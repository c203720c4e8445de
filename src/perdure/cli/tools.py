"""`perdure tools`: the tools of a server, the policy each gets, and where each value came from."""

import difflib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pydantic_core
from rich.table import Table
from rich.text import Text

from perdure.cli.terminal import console, printable, write_json
from perdure.errors import PerdureError
from perdure.middleware.persistence.turn import JsonObject
from perdure.middleware.sdk.tool_client import ServerTools, tools_of_command, tools_of_url
from perdure.policy_sources import BUILT_IN, IN_CODE, Chosen, Origin, Source, matching, section
from perdure.settings import Policy, Settings
from perdure.settings_loader import load_settings, settings_file, tool_settings, usual_settings_file, variables_set

__all__ = ["show_tools"]

_COLOURS = {Origin.DEFAULT: "dim", Origin.CODE: "magenta", Origin.FILE: "", Origin.VARIABLE: "yellow"}


def show_tools(
    command: Sequence[str], url: str | None, config: Path | None, *, seconds: float, everything: bool, as_json: bool
) -> None:
    """Ask the server and print what it gets; `everything`: those values too that are the built-in ones.

    Raises:
        PerdureError: The server cannot be asked, or the settings cannot be used.
    """
    if bool(command) == bool(url):
        raise PerdureError(
            "Name the server either by its command or by its address.",
            remedy="perdure tools -- python server.py, or perdure tools --url https://…/mcp",
        )
    settings = load_settings(config)
    file = config or settings_file()
    found = _asked(command, url, file, seconds)
    explained = [(tool["name"], _explained(tool["name"], found, settings)) for tool in found.tools]
    unused = [name for name in settings.tools if not any(matching([name], tool) for tool, _ in explained)]
    if as_json:
        write_json(
            {
                "server": {"name": found.name, "version": found.version},
                "settings_file": str(file) if file else None,
                "tools": [_as_json(tool, policy, everything=everything) for tool, policy in explained],
                "unused_sections": [section(("tools", name)) for name in unused],
            }
        )
        return
    if not explained:
        console().print(Text.assemble(printable(found.name), " has no tools."), soft_wrap=True)
        return
    console().print(_table(explained, everything=everything))
    console().print(_footer(found, explained, file), style="dim", soft_wrap=True)
    for name in unused:
        console().print(_of_no_tool(name, [tool for tool, _ in explained]), style="yellow", soft_wrap=True)


def _asked(command: Sequence[str], url: str | None, file: Path | None, seconds: float) -> ServerTools:
    logging.getLogger("mcp").setLevel(logging.CRITICAL + 1)  # what goes wrong is said once, in words of ours
    if url is not None:
        return anyio.run(lambda: tools_of_url(url, seconds=seconds))
    environment = {**os.environ, **({"PERDURE_CONFIG": str(file.absolute())} if file else {})}
    return anyio.run(lambda: tools_of_command(command, environment, seconds=seconds))


def _explained(tool: str, found: ServerTools, settings: Settings) -> dict[str, Chosen]:
    """Every setting of `tool`, with where it came from, in the order in which the documentation has them."""
    in_code = found.in_code.get(tool)
    code = Source(Origin.CODE, str(in_code["by"])) if in_code else IN_CODE
    options = tool_settings(in_code["options"]) if in_code else None
    chosen = settings.explained(tool, options, variables_set(), code=code)
    default = Policy()
    return {
        field.name: chosen.get(field.name, Chosen(getattr(default, field.name), BUILT_IN)) for field in fields(Policy)
    }


def _shown(policy: Mapping[str, Chosen], *, everything: bool) -> Iterator[tuple[str, Chosen]]:
    """What is told besides whether the tool is on."""
    default = Policy()
    for name, chosen in policy.items():
        if name != "enabled" and (everything or chosen.value != getattr(default, name)):
            yield name, chosen


def _as_json(tool: str, policy: Mapping[str, Chosen], *, everything: bool) -> JsonObject:
    values = [("enabled", policy["enabled"]), *_shown(policy, everything=everything)]
    return {
        "name": tool,
        "policy": {
            name: {
                "value": _jsonable(chosen.value),
                "source": {"origin": chosen.source.origin.value, "name": chosen.source.name},
            }
            for name, chosen in values
        },
    }


def _jsonable(value: Any) -> Any:
    return pydantic_core.to_jsonable_python(sorted(value) if isinstance(value, frozenset) else value)


def _table(explained: Sequence[tuple[str, Mapping[str, Chosen]]], *, everything: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    for column in ("tool", "value", "from"):
        table.add_column(column, overflow="fold")
    for number, (tool, policy) in enumerate(explained):
        if number:
            table.add_row()
        enabled = policy["enabled"]
        state = Text("on", style="bold green") if enabled.value else Text("off", style="dim")
        table.add_row(Text.assemble(printable(tool), style="bold cyan"), state, _from(enabled.source))
        for name, chosen in _shown(policy, everything=everything):
            table.add_row(Text(f"  {name}"), printable(_readable(chosen.value)), _from(chosen.source))
    return table


def _from(source: Source) -> Text:
    return Text.assemble(printable(source.name), style=_COLOURS[source.origin])


def _readable(value: Any) -> str:
    match value:
        case None:
            return "not set"
        case bool():
            return "true" if value else "false"
        case timedelta():
            return _duration(value)
        case frozenset():
            return ", ".join(sorted(value)) or "nowhere"
        case tuple():
            return "\n".join(str(item) for item in value) or "none"
        case _:
            return str(value)


def _duration(value: timedelta) -> str:
    for unit, name in ((timedelta(days=1), "d"), (timedelta(hours=1), "h"), (timedelta(minutes=1), "m")):
        if value % unit == timedelta(0):
            return f"{value // unit}{name}"
    return f"{value.total_seconds():g}s"


def _footer(found: ServerTools, explained: Sequence[tuple[str, Mapping[str, Chosen]]], file: Path | None) -> Text:
    on = sum(bool(policy["enabled"].value) for _, policy in explained)
    where = f"settings: {file}" if file else f"no settings file; there would be one at {usual_settings_file()}"
    return Text.assemble("\n", printable(found.name), f": {on} of {len(explained)} tools are on; ", printable(where))


def _of_no_tool(name: str, tools: Sequence[str]) -> Text:
    close = difflib.get_close_matches(name, tools, n=1)
    meant = f" Did you mean {section(('tools', close[0]))}?" if close else ""
    return Text.assemble(printable(f"{section(('tools', name))} means no tool of this server.{meant}"))
