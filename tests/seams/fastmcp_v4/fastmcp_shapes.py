"""Tools in the shapes that fastmcp adds to those of the SDK, each on its own server, with or without `@persisted`."""

from __future__ import annotations  # as many servers have it: annotations are text

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastmcp import Context, FastMCP
from fastmcp.dependencies import CurrentContext, CurrentFastMCP, Depends
from fastmcp.server.dependencies import get_context
from fastmcp.tools import Tool, ToolResult, tool
from fastmcp.utilities.types import Image
from mcp_types import CallToolResult, TextContent
from pydantic import BaseModel, ConfigDict, Field

__all__ = ["SHAPES", "Persist", "Shape", "bare"]

Json = dict[str, Any]

Persist = Callable[[Any], Any]
"""`persisted`, or `bare` for the same handler without it."""


def bare(handler: Any) -> Any:
    return handler


@dataclass(frozen=True, kw_only=True)
class Shape:
    name: str
    register: Callable[[FastMCP, Persist], None]
    arguments: Json = field(default_factory=dict)

    def server(self, persist: Persist) -> FastMCP:
        server = FastMCP("shapes", version="1")
        self.register(server, persist)
        return server


SHAPES: list[Shape] = []

Register = Callable[[FastMCP, Persist], None]


def shape(**arguments: Any) -> Callable[[Register], Register]:
    def collect(register: Register) -> Register:
        SHAPES.append(Shape(name=register.__name__, register=register, arguments=arguments))
        return register

    return collect


# ── kinds of callables ───────────────────────────────────────────────────────────────────────────────────────────


@shape(prompt="hello", size=3)
def async_function(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool
    @persist
    async def chat(prompt: str, size: int = 1) -> str:
        """Talk about anything.

        Args:
            prompt: what to talk about
        """
        return prompt.upper() * size


@shape(prompt="hello")
def sync_function(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool()
    @persist
    def chat(prompt: str) -> str:
        return prompt.upper()


@shape(prompt="hello")
def sync_function_on_the_event_loop(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool(run_in_thread=False)
    @persist
    def chat(prompt: str) -> str:
        return prompt.upper()


@shape()
def no_parameters(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool
    @persist
    def version() -> str:
        return "1.2.3"


class Teller:
    greeting = "Hello"

    async def greet(self, prompt: str) -> str:
        return f"{self.greeting}: {prompt}"

    def greet_plainly(self, prompt: str, ctx: Context) -> str:
        return f"{self.greeting} {ctx.fastmcp.name}: {prompt}"

    @classmethod
    def greet_all(cls, prompt: str) -> str:
        return f"{cls.greeting}, all: {prompt}"

    @staticmethod
    def greet_nobody(prompt: str) -> str:
        return prompt

    async def __call__(self, prompt: str) -> str:
        """Speaks."""
        return f"{self.greeting}! {prompt}"


@shape(prompt="a")
def bound_method(mcp: FastMCP, persist: Persist) -> None:
    mcp.tool(persist(Teller().greet))


@shape(prompt="a")
def bound_method_with_context(mcp: FastMCP, persist: Persist) -> None:
    mcp.tool(persist(Teller().greet_plainly))


@shape(prompt="a")
def method_decorated_in_its_class(mcp: FastMCP, persist: Persist) -> None:
    class Inner(Teller):
        @persist
        async def talk(self, prompt: str) -> str:
            return f"{self.greeting} and {prompt}"

    mcp.tool(Inner().talk)


@shape(prompt="a")
def class_method(mcp: FastMCP, persist: Persist) -> None:
    mcp.tool(persist(Teller.greet_all))


@shape(prompt="a")
def static_method(mcp: FastMCP, persist: Persist) -> None:
    mcp.tool(persist(Teller.greet_nobody))


@shape(prompt="a")
def callable_object(mcp: FastMCP, persist: Persist) -> None:
    mcp.add_tool(Tool.from_function(persist(Teller()), name="speak"))


async def _three(prefix: str, prompt: str) -> str:
    """Says it.

    Args:
        prompt: what to say
    """
    return prefix + prompt


@shape(prompt="a")
def partial_of_a_function(mcp: FastMCP, persist: Persist) -> None:
    mcp.add_tool(Tool.from_function(persist(functools.partial(_three, "> "))))


@shape(prompt="a")
def decorated_by_others_above(mcp: FastMCP, persist: Persist) -> None:
    """The id cannot be announced in such a result, so only `_meta` of a hook would carry it: see the hook's tests."""

    def louder(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def inner(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        return inner

    @mcp.tool
    @persist
    @louder
    async def chat(prompt: str) -> str:
        return prompt


@shape(prompt="a")
def marked_by_the_free_decorator(mcp: FastMCP, persist: Persist) -> None:
    @tool(name="talk", tags={"free"})
    @persist
    async def chat(prompt: str) -> str:
        return prompt

    mcp.add_tool(chat)


@shape(prompt="a")
def marked_by_the_free_decorator_below(mcp: FastMCP, persist: Persist) -> None:
    @persist
    @tool(name="talk", tags={"free"})
    async def chat(prompt: str) -> str:
        return prompt

    mcp.add_tool(chat)


@shape(prompt="a")
def everything_that_can_be_said_of_a_tool(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool(
        name="talk",
        title="Talk!",
        description="Talks.",
        version="2.0",
        tags={"b", "a"},
        annotations={"readOnlyHint": True},
        meta={"own": 1},
        timeout=20,
    )
    @persist
    async def chat(prompt: str) -> str:
        return prompt


# ── parameters ───────────────────────────────────────────────────────────────────────────────────────────────────


class Person(BaseModel):
    name: str = Field(min_length=1, title="How they are called")


@shape(person={"name": "Ann"}, times="2")
def models_and_fields(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool
    @persist
    def register(
        person: Person, times: Annotated[int, Field(ge=1, title="How often")] = 1, note: Annotated[str, "a note"] = ""
    ) -> str:
        return f"{person.name * times}{note}"


@shape(prompt="a", count=2)
def strict_validation(mcp: FastMCP, persist: Persist) -> None:
    mcp.strict_input_validation = True

    @mcp.tool
    @persist
    def repeat(prompt: str, count: int) -> str:
        return prompt * count


@shape(prompt="a")
def context_by_annotation(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool
    @persist
    async def chat(ctx: Context, prompt: str) -> str:
        return f"{ctx.fastmcp.name} {prompt}"


@shape(prompt="a")
def optional_context(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool
    @persist
    async def chat(prompt: str, ctx: Context | None = None) -> str:
        return f"{ctx is not None} {prompt}"


@shape(prompt="a")
def context_by_default(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool
    @persist
    async def chat(prompt: str, ctx: Context = CurrentContext(), server: FastMCP = CurrentFastMCP()) -> str:  # noqa: B008
        return f"{ctx.fastmcp is server} {prompt}"


@shape(prompt="a")
def ambient_context(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool
    @persist
    def chat(prompt: str) -> str:
        return f"{get_context().fastmcp.name} {prompt}"


@asynccontextmanager
async def _connection() -> AsyncIterator[list[str]]:
    yield ["open"]


@contextmanager
def _plain_connection(ctx: Context = CurrentContext()) -> Iterator[str]:  # noqa: B008
    yield ctx.fastmcp.name


@shape(prompt="a")
def injected_dependencies(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool
    @persist
    async def chat(
        prompt: str,
        connection: list[str] = Depends(_connection),  # noqa: B008
        plain: str = Depends(_plain_connection),
    ) -> str:
        return f"{connection} {plain} {prompt}"


# ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Loose(BaseModel):
    answer: str


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    answer: str


@shape()
def gives_a_list(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool
    @persist
    def numbers() -> list[int]:
        return [1, 2, 3]


@shape()
def gives_nothing(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool
    @persist
    def nothing() -> None: ...


@shape()
def gives_what_is_not_said(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool
    @persist
    def anything():  # type: ignore[no-untyped-def]
        return {"a": [1, None]}


@shape()
def gives_numbers_by_name(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool
    @persist
    def counts() -> dict[str, int]:
        return {"a": 1}


@shape()
def gives_a_model(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool
    @persist
    async def answer() -> Loose:
        return Loose(answer="42")


@shape()
def gives_a_strict_model(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool
    @persist
    async def answer() -> Strict:
        return Strict(answer="42")


@shape()
def gives_a_tool_result(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool
    @persist
    async def answer() -> ToolResult:
        return ToolResult(content="said", structured_content={"answer": 42}, meta={"own": {"deep": [1]}})


@shape()
def gives_a_wire_result(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool
    @persist
    async def answer() -> CallToolResult:
        return CallToolResult(content=[TextContent(type="text", text="said")], _meta={"own": 1})


@shape()
def gives_content_blocks(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool
    @persist
    async def answer() -> list[TextContent]:
        return [TextContent(type="text", text="a"), TextContent(type="text", text="b")]


@shape()
def gives_an_image(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool
    @persist
    def draw() -> Image:
        return Image(data=b"png", format="png")


@shape()
def gives_bytes(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool
    @persist
    def read() -> bytes:
        return b"plain"


@shape()
def gives_a_path(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool
    @persist
    def where() -> Path:
        return Path("/nowhere/at/all")


@shape()
def gives_a_generator(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool
    @persist
    def count() -> list[int]:
        return (number for number in (1, 2, 3))  # type: ignore[return-value]


@shape()
def gives_what_its_schema_says(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool(output_schema={"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False})
    @persist
    def answer() -> dict[str, Any]:
        return {"a": 1}


@shape()
def gives_without_a_schema(mcp: FastMCP, persist: Persist) -> None:
    @mcp.tool(output_schema=None)
    @persist
    def answer() -> str:
        return "a"
