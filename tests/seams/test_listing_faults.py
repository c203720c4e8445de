"""That the list of tools may have changed is looked at before each request: a fault there breaks none."""

import pytest
from conftest import Activate
from mcp.server.mcpserver import MCPServer
from mcp_wire import called, listed, text_of

from perdure import persisted
from perdure.middleware.persistence.wiring import Runtime
from perdure.middleware.shown_tools import ShownTools
from perdure.policy_sources import IN_CODE
from perdure.settings import Policy, ToolSettings


def test_a_fault_while_looking_for_changes_is_said_and_is_no_change(
    activate: Activate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    activate()
    shown = ShownTools(lambda _: ToolSettings())
    shown.note("chat", ToolSettings(), IN_CODE, Policy(enabled=True), widens=False)
    monkeypatch.setattr(Runtime, "policy", lambda *_: 1 / 0)
    assert shown.have_changed() is False
    assert "tools.change_not_noticed" in caplog.text
    monkeypatch.undo()
    assert shown.have_changed() is False


async def test_a_fault_while_looking_for_changes_breaks_no_call(
    activate: Activate, monkeypatch: pytest.MonkeyPatch
) -> None:
    activate()
    server = MCPServer("echoing")

    @server.tool()
    @persisted
    def chat(prompt: str) -> str:
        return prompt

    await listed(server)
    monkeypatch.setattr(ShownTools, "_follow", lambda *_: 1 / 0)
    activate()
    assert text_of(await called(server, "chat", {"prompt": "hello"})).startswith("hello")
