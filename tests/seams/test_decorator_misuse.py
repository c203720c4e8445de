"""`@persisted` in the wrong place, or on the wrong thing, says so when the module is imported, with the remedy."""

import functools
import importlib.util
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp.server import Server
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolRequestParams, CallToolResult
from mcp_wire import called, kept, text_of

from perdure import DecoratorError, PerdureError, SettingsError, persisted
from perdure.middleware.persistence.wiring import Runtime

# ── the wrong order ──────────────────────────────────────────────────────────────────────────────────────────────

WRONG_ORDER = {
    "bare": """
@persisted
@mcp.tool()
async def chat(prompt: str) -> str:
    return prompt
""",
    "sync": """
@persisted
@mcp.tool()
def chat(prompt: str) -> str:
    return prompt
""",
    "with options": """
@persisted(history="none", max_turns=3)
@mcp.tool(name="talk", title="Talk")
async def chat(prompt: str) -> str:
    return prompt
""",
    "options over several lines": """
@persisted(
    history="none",
    max_turns=3,
)
@mcp.tool(
    name="talk",
    title="Talk",
)
async def chat(
    prompt: str,
    other: int = 1,
) -> str:
    '''Talks.'''
    return prompt
""",
    "body on the line of its def": """
@persisted
@mcp.tool()
def chat(prompt: str) -> str: return prompt
""",
    "docstring only": """
@persisted
@mcp.tool()
async def chat(prompt: str) -> None:
    '''Talks.'''
""",
    "another decorator above": """
def noted(function):
    return function

@noted
@persisted
@mcp.tool()
async def chat(prompt: str) -> str:
    return prompt
""",
    "another decorator between": """
def noted(function):
    return function

@persisted
@noted
@mcp.tool()
async def chat(prompt: str) -> str:
    return prompt
""",
    "method": """
class Tools:
    @persisted
    @mcp.tool()
    async def chat(self, prompt: str) -> str:
        return prompt
""",
    "static method": """
class Tools:
    @persisted
    @mcp.tool()
    @staticmethod
    async def chat(prompt: str) -> str:
        return prompt
""",
    "static method above": """
class Tools:
    @staticmethod
    @persisted
    @mcp.tool()
    async def chat(prompt: str) -> str:
        return prompt
""",
    "in a function": """
def make():
    @persisted
    @mcp.tool()
    async def chat(prompt: str) -> str:
        return prompt

make()
""",
    "wrapped in between": """
import functools

def noted(function):
    @functools.wraps(function)
    async def inner(*args, **kwargs):
        return await function(*args, **kwargs)
    return inner

@persisted
@noted
@mcp.tool()
async def chat(prompt: str) -> str:
    return prompt
""",
}


def imported(source: str, folder: Path) -> Any:
    """A module of its own, imported from a file as an author's is."""
    path = folder / "author_module.py"
    path.write_text(
        "from mcp.server.mcpserver import MCPServer\nfrom perdure import persisted\nmcp = MCPServer('author')\n"
        + source
    )
    spec = importlib.util.spec_from_file_location("author_module", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("source", WRONG_ORDER.values(), ids=WRONG_ORDER.keys())
def test_persisted_above_the_servers_decorator_is_refused_at_import_with_the_remedy(
    source: str, tmp_path: Path
) -> None:
    with pytest.raises(DecoratorError, match=r"put @persisted directly below @mcp\.tool\(\)") as raised:
        imported(source, tmp_path)
    assert "author_module.py" in str(raised.value)
    assert "chat" in str(raised.value)


@pytest.mark.parametrize("source", WRONG_ORDER.values(), ids=WRONG_ORDER.keys())
def test_the_same_source_in_the_right_order_is_accepted(source: str, tmp_path: Path) -> None:
    """Guards the test above: it is the order that is refused and nothing else."""
    module = imported(_swapped(source), tmp_path)
    assert len(module.mcp._tool_manager.list_tools()) == 1


def _swapped(source: str) -> str:
    """`source` with `@persisted…` moved directly above what it decorates."""
    lines = source.splitlines()
    start = next(number for number, line in enumerate(lines) if line.strip().startswith("@persisted"))
    end = start + 1
    while lines[start:end][-1].strip() not in (")",) and "(" in lines[start] and ")" not in lines[start]:
        end += 1
    block = lines[start:end]
    rest = lines[:start] + lines[end:]
    target = next(
        number
        for number, line in enumerate(rest)
        if number >= start and line.strip().startswith(("def ", "async def ", "@staticmethod"))
    )
    return "\n".join([*rest[:target], *block, *rest[target:]])


def test_the_error_is_a_type_error_and_names_its_kind(tmp_path: Path) -> None:
    with pytest.raises(TypeError) as raised:
        imported(WRONG_ORDER["bare"], tmp_path)
    assert isinstance(raised.value, PerdureError)
    assert raised.value.code == "decorator_misplaced"
    assert raised.value.remedy


async def test_persisting_a_function_that_another_server_has_bare_is_allowed_and_said(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    async def chat(prompt: str) -> str:
        return prompt

    bare_server, server = MCPServer("bare"), MCPServer("persisted")
    bare_server.add_tool(chat)
    with caplog.at_level(logging.WARNING, logger="perdure"):
        server.add_tool(persisted(chat))
    assert "register what persisted() returns" in caplog.text
    assert text_of(await called(server, "chat", {"prompt": "a"})) == "a"
    assert len(kept(runtime)) == 1


# ── the wrong thing ──────────────────────────────────────────────────────────────────────────────────────────────


class _Class:
    def __call__(self, prompt: str) -> str:
        return prompt


def _generator(prompt: str) -> Iterator[str]:
    yield prompt


async def _async_generator(prompt: str) -> AsyncIterator[str]:
    yield prompt


class _GeneratorObject:
    def __call__(self, prompt: str) -> Iterator[str]:
        yield prompt

    def stream(self, prompt: str) -> Iterator[str]:
        yield prompt


async def _on_call_tool(context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
    return CallToolResult(content=[])


async def _on_call_tool_as_text(context: "ServerRequestContext[Any]", params: "CallToolRequestParams") -> Any:
    return CallToolResult(content=[])


class _LowLevel:
    async def on_call_tool(self, context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        return CallToolResult(content=[])


WRONG_THINGS: dict[str, tuple[Any, str]] = {
    "class": (_Class, "put it on the method"),
    "None": (None, "without parentheses, or with options"),
    "a number": (3, "directly below"),
    "text": ("chat", "directly below"),
    "a server": (MCPServer("x"), "directly below"),
    "generator": (_generator, "return the whole answer"),
    "async generator": (_async_generator, "return the whole answer"),
    "generator method": (_GeneratorObject().stream, "return the whole answer"),
    "generator object": (_GeneratorObject(), "return the whole answer"),
    "partial of a generator": (functools.partial(_generator), "return the whole answer"),
    "static generator": (staticmethod(_generator), "return the whole answer"),
    "on_call_tool": (_on_call_tool, r"perdure\.install\(server"),
    "on_call_tool as text": (_on_call_tool_as_text, r"perdure\.install\(server"),
    "on_call_tool method": (_LowLevel().on_call_tool, r"perdure\.install\(server"),
}


@pytest.mark.parametrize("with_options", [False, True], ids=["bare", "options"])
@pytest.mark.parametrize(("thing", "remedy"), WRONG_THINGS.values(), ids=WRONG_THINGS.keys())
def test_what_cannot_be_wrapped_is_refused_with_the_remedy(thing: Any, remedy: str, with_options: bool) -> None:
    decorate = persisted(max_turns=1) if with_options else persisted
    with pytest.raises(DecoratorError, match=remedy) as raised:
        decorate(thing)
    assert "@persisted" in str(raised.value)


def test_empty_parentheses_are_refused_or_mean_no_options() -> None:
    with pytest.raises(DecoratorError, match="without parentheses"):
        persisted()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda function: persisted(persisted(function)),
        lambda function: persisted(max_turns=1)(persisted(function)),
        lambda function: persisted(staticmethod(persisted(function))),
        lambda function: persisted(functools.wraps(persisted(function))(lambda *a, **k: None)),
    ],
)
def test_twice_is_refused(wrap: Callable[[Any], Any]) -> None:
    async def chat(prompt: str) -> str:
        return prompt

    with pytest.raises(DecoratorError, match="twice") as raised:
        wrap(chat)
    assert "chat" in str(raised.value)


def test_a_lowlevel_server_is_refused_as_a_handler() -> None:
    with pytest.raises(DecoratorError):
        persisted(Server("x"))


# ── bad options ──────────────────────────────────────────────────────────────────────────────────────────────────

BAD_OPTIONS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown": ({"histroy": "none"}, ["histroy", 'did you mean "history"']),
    "unknown and far off": ({"xyzzy": 1}, ["xyzzy", "max_turns"]),
    "history": ({"history": "always"}, ["history", "'auto'", "'parameter'", "'prompt'", "'none'", "always"]),
    "turns too low": ({"max_turns": -1}, ["max_turns", "0", "-1"]),
    "turns too high": ({"max_turns": 10_000}, ["max_turns", "1000"]),
    "turns no number": ({"max_turns": "many"}, ["max_turns", "many"]),
    "tokens": ({"max_tokens": -5}, ["max_tokens", "-5"]),
    "announce": ({"announce": ["meta", "shout"]}, ["announce", "'meta'", "'structured'", "'text'", "shout"]),
    "pattern": ({"redact_patterns": ["("]}, ["redact_patterns", "regular expression"]),
    "prompt argument": ({"prompt_argument": ""}, ["prompt_argument"]),
    "enabled": ({"enabled": "perhaps"}, ["enabled", "perhaps"]),
}


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_a_bad_option_is_refused_at_import_in_words_that_name_it_and_what_is_allowed(
    options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(SettingsError) as raised:
        persisted(**options)
    for word in ("@persisted", *words, "Remedy"):
        assert word in str(raised.value)


@pytest.mark.parametrize(
    "options",
    [
        {"history": "prompt", "prompt_argument": "question", "max_turns": 20},
        {"history": "none", "max_turns": 0, "max_tokens": 0},
        {"announce": "meta"},
        {"announce": []},
        {"redact": False, "redact_patterns": r"\d{16}"},
        {"enabled": False},
    ],
    ids=str,
)
def test_good_options_are_accepted(options: dict[str, Any]) -> None:
    @persisted(**options)
    async def chat(question: str) -> str:
        return question

    assert chat.__name__ == "chat"


def test_an_argument_that_the_handler_does_not_have_cannot_be_its_prompt() -> None:
    async def chat(question: str) -> str:
        return question

    with pytest.raises(PerdureError, match="prompt_argument.*question"):
        persisted(history="prompt", prompt_argument="qestion")(chat)


def test_history_as_a_parameter_needs_the_parameter() -> None:
    async def chat(question: str) -> str:
        return question

    with pytest.raises(PerdureError, match="History"):
        persisted(history="parameter")(chat)
