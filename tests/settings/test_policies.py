"""The policy of one tool: which section of the settings wins, what a setting takes, and where each value came from."""

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Activate
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp_wire import called, kept

from perdure import install, persisted
from perdure.errors import SettingsError
from perdure.middleware.call_reader import Caller, ToolRequest, ToolShape, read_call, readers_of
from perdure.middleware.persistence.wiring import build
from perdure.policy_sources import Origin, Source
from perdure.settings import Acknowledge, Policy, Settings, ToolSettings
from perdure.settings_loader import load_settings, tool_settings, variables_set
from perdure.testing import FrozenClock


def winner(tool: str, *sections: str) -> str:
    """Of sections that all set one thing, in this order in the file: whose value `tool` gets."""
    settings = Settings(tools={name: ToolSettings(prompt_argument=name) for name in sections})
    return settings.policy(tool).prompt_argument or "none"


# ── the most specific wins ───────────────────────────────────────────────────────────────────────────────────────

FROM_THE_MOST_SPECIFIC = {
    "the name itself, then by fixed characters": ("kimi_chat", ["kimi_chat", "kimi_c*", "kimi_*", "k*", "*"]),
    "the name itself above a glob without a star": ("chat", ["chat", "cha?", "ch*", "?h*", "??*"]),
    "with as many fixed characters, fewer stars": ("kimi_chat", ["kimi_*", "k*mi*_", "k*imi_*", "*k*i*mi_*"]),
    "a set is no fixed character": ("chat1", ["chat?", "cha[rst]*", "[c]h[!b]*", "*[!x]*"]),
    "a question mark is no fixed character": ("abcdef", ["ab*", "a?????", "?????*"]),
}


@pytest.mark.parametrize("case", FROM_THE_MOST_SPECIFIC)
def test_the_more_specific_section_wins_wherever_it_stands_in_the_file(case: str) -> None:
    tool, sections = FROM_THE_MOST_SPECIFIC[case]
    found = [name for name in sections if winner(tool, name) != "none"]
    for better, worse in itertools.combinations(found, 2):
        assert winner(tool, better, worse) == better
        assert winner(tool, worse, better) == better


@pytest.mark.parametrize("pair", [("kimi_*", "*_chat"), ("kimi*", "k?mi_*"), ("*a*", "*c*"), ("kim[i]_*", "kimi[_]*")])
def test_of_two_that_are_equally_specific_the_later_one_wins(pair: tuple[str, str]) -> None:
    first, second = pair
    assert winner("kimi_chat", first, second) == second
    assert winner("kimi_chat", second, first) == first


@pytest.mark.parametrize("name", ["a[b]", "what?", "star*", "[", "[x", "a]b", "[!]"])
def test_a_tool_whose_name_looks_like_a_glob_has_its_own_section(name: str) -> None:
    assert winner(name, "*", name, "a*", "[!]*") == name


def test_names_are_told_apart_by_case() -> None:
    assert winner("Chat", "chat", "c*", "C*") == "C*"


def test_what_the_most_specific_section_leaves_open_the_next_one_says() -> None:
    settings = Settings(
        defaults=ToolSettings(max_turns=1, max_tokens=1, redact=False),
        tools={"c*": ToolSettings(max_turns=2, max_tokens=2), "chat": ToolSettings(max_turns=3)},
    )
    policy = settings.policy("chat")
    assert (policy.max_turns, policy.max_tokens, policy.redact) == (3, 2, False)


# ── durations ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("30d", timedelta(days=30)),
        ("12h", timedelta(hours=12)),
        ("90s", timedelta(seconds=90)),
        ("5m", timedelta(minutes=5)),
        ("2w", timedelta(weeks=2)),
        ("1d12h", timedelta(hours=36)),
        ("1.5H", timedelta(minutes=90)),
        (" 30d ", timedelta(days=30)),
        ("P30D", timedelta(days=30)),
        ("p1dt12h", timedelta(hours=36)),
        ("PT0.5S", timedelta(milliseconds=500)),
        (3600, timedelta(hours=1)),
        (0.25, timedelta(milliseconds=250)),
        ("3600", timedelta(hours=1)),
        (timedelta(days=1), timedelta(days=1)),
    ],
)
def test_a_duration_is_written_as_people_do_or_as_iso_8601_or_in_seconds(written: Any, read: timedelta) -> None:
    assert tool_settings({"expire_after": written}).expire_after == read


@pytest.mark.parametrize(
    "written",
    [
        "",
        "soon",
        "30 days",
        "d",
        "-1d",
        "P",
        "PX",
        "0s",
        0,
        -5,
        "-P1D",
        "36501d",
        "9" * 40 + "d",
        True,
        [1],
        "nan",
        "inf",
    ],
)
def test_what_is_no_duration_is_said_to_be_none(written: Any) -> None:
    with pytest.raises(SettingsError, match="expire_after: .*"):
        tool_settings({"expire_after": written})


def test_the_file_and_the_environment_take_the_same_durations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "p.toml"
    file.write_text('[defaults]\nexpire_after = "30d"\n[tools.chat]\nexpire_after = 60')
    assert load_settings(file).policy("chat").expire_after == timedelta(minutes=1)
    assert load_settings(file).policy("other").expire_after == timedelta(days=30)
    monkeypatch.setenv("PERDURE_DEFAULTS__EXPIRE_AFTER", "P1D")
    assert load_settings(file).policy("other").expire_after == timedelta(days=1)


# ── what they do ─────────────────────────────────────────────────────────────────────────────────────────────────


async def echo(text: str) -> str:
    return text


async def test_a_conversation_of_a_tool_with_expire_after_is_forgotten_when_it_is_over(activate: Activate) -> None:
    clock = FrozenClock()
    runtime = activate(clock=clock, tools={"short": ToolSettings(expire_after=timedelta(hours=1))})
    server = MCPServer("s")
    for name in ("short", "long"):
        server.add_tool(persisted(echo), name=name)
    for name in ("short", "long"):
        await called(server, name, {"text": "a", "continuation_id": name})
    clock.advance(3600)
    states = {}
    for name in ("short", "long"):
        result = await called(server, name, {"text": "b", "continuation_id": name})
        states[name] = result["_meta"]["perdure/history"]["state"]
    assert states == {"short": "new", "long": "loaded"}
    assert [turn.prompt for turn in kept(runtime) if turn.tool == "short"] == ["b"]


@pytest.mark.parametrize("hooked", [False, True], ids=["decorated", "hooked"])
async def test_a_tools_user_is_the_principal_where_nobody_is_authenticated(activate: Activate, hooked: bool) -> None:
    tools = {"team": ToolSettings(user_id="the team", enabled=True), "mine": ToolSettings(enabled=True)}
    runtime = activate(user_id="me", tools=tools)
    server = MCPServer("s")
    for name in tools:
        server.add_tool(echo if hooked else persisted(echo), name=name)
    if hooked:
        install(server)
    for name in tools:
        await called(server, name, {"text": "a", "continuation_id": "same"})
    assert sorted((turn.tool, turn.principal) for turn in kept(runtime)) == [("mine", "me"), ("team", "the team")]


def test_a_tools_user_never_stands_above_an_authenticated_one() -> None:
    request = ToolRequest(tool="chat", arguments={}, caller=Caller("alice", remote=True))
    reading = read_call(request, ToolShape(), Policy(user_id="the team"), Settings(user_id="me"), datetime.now(UTC))
    assert reading.turn.principal == "alice"
    assert readers_of(request.caller, Settings(tools={"x": ToolSettings(user_id="the team")})) == ["alice"]


async def test_files_of_a_tool_with_a_user_of_its_own_can_be_read_by_whoever_may_call_it(tmp_path: Path) -> None:
    from perdure.middleware.persistence import wiring

    settings = Settings(
        data_dir=tmp_path / "data",
        tools={"write": ToolSettings(user_id="the team", enabled=True, file_roots=(tmp_path,))},
    )
    server = MCPServer("s")

    @server.tool()
    def write() -> str:
        (tmp_path / "out.txt").write_text("the content")
        return str(tmp_path / "out.txt")

    install(server)
    with wiring.activated(build(settings)) as runtime:
        async with Client(server) as client:
            uri = (await client.call_tool("write", {})).content[0].text
            (contents,) = (await client.read_resource(uri)).contents
        runtime.engine.store.close()
    assert "the content" in str(contents)


def test_the_store_acknowledges_unless_a_tool_is_told_otherwise() -> None:
    assert Policy().acknowledge is Acknowledge.STORE
    assert Settings(defaults=ToolSettings(acknowledge=Acknowledge.SPOOL)).policy("x").acknowledge is Acknowledge.SPOOL
    with pytest.raises(SettingsError, match="acknowledge: must be 'store' or 'spool', not 'maybe'"):
        tool_settings({"acknowledge": "maybe"})


def test_every_setting_of_a_tool_has_its_effective_value_in_the_policy() -> None:
    assert set(ToolSettings.model_fields) == set(Policy.__dataclass_fields__)


# ── where a value came from ──────────────────────────────────────────────────────────────────────────────────────


def test_each_value_is_known_by_the_place_that_set_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "p.toml"
    file.write_text(
        'user_id = "me"\n[defaults]\nmax_turns = 1\nmax_tokens = 1\nfiles = false\n'
        '[tools."kimi_*"]\nmax_turns = 2\nredact = false\n[tools.kimi_chat]\nmax_tokens = 3'
    )
    monkeypatch.setenv("PERDURE_DEFAULTS__HISTORY", "none")
    monkeypatch.setenv("PERDURE_TOOLS", '{"kimi_chat": {"announce": "meta"}}')
    monkeypatch.setenv("PERDURE_TOOLS__KIMI_CHAT__ENABLED", "true")
    settings = load_settings(file)
    author = tool_settings({"prompt_argument": "query", "max_turns": 50})
    found = {name: chosen.source for name, chosen in settings.explained("kimi_chat", author, variables_set()).items()}
    assert found == {
        "enabled": Source(Origin.VARIABLE, "PERDURE_TOOLS__KIMI_CHAT__ENABLED"),
        "prompt_argument": Source(Origin.CODE, "@persisted"),
        "user_id": Source(Origin.FILE, "top of the file"),
        "max_turns": Source(Origin.FILE, '[tools."kimi_*"]'),
        "max_tokens": Source(Origin.FILE, "[tools.kimi_chat]"),
        "redact": Source(Origin.FILE, '[tools."kimi_*"]'),
        "files": Source(Origin.FILE, "[defaults]"),
        "history": Source(Origin.VARIABLE, "PERDURE_DEFAULTS__HISTORY"),
        "announce": Source(Origin.VARIABLE, "PERDURE_TOOLS"),
    }


def test_the_policy_is_what_the_explanation_says(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(
        defaults=ToolSettings(max_turns=1), tools={"c*": ToolSettings(max_turns=2), "chat": ToolSettings(enabled=True)}
    )
    for tool, author in itertools.product(["chat", "call", "other"], [None, ToolSettings(max_turns=9)]):
        values = {name: chosen.value for name, chosen in settings.explained(tool, author).items()}
        assert settings.policy(tool, author) == Policy(**values)


@pytest.mark.parametrize(
    ("variable", "source"),
    [
        ("false", Source(Origin.VARIABLE, "PERDURE_ENABLED")),
        (None, Source(Origin.FILE, "top of the file")),
    ],
)
def test_what_switched_perdure_off_altogether_is_named(
    variable: str | None, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "p.toml"
    file.write_text("" if variable else "enabled = false")
    if variable:
        monkeypatch.setenv("PERDURE_ENABLED", variable)
    chosen = load_settings(file).explained("chat", ToolSettings(enabled=True), variables_set())["enabled"]
    assert (chosen.value, chosen.source) == (False, source)


def test_without_any_variable_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PERDURE_CONFIG", "PERDURE_DATA_DIR"):
        monkeypatch.delenv(name)
    assert variables_set() == {}
