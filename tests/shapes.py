"""Handlers in every shape that tool authors write, each as a server of one tool, with or without `@persisted`."""

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, Optional, TypedDict, TypeVar

import postponed_shapes
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.resolve import Resolve
from mcp_types import CallToolResult, EmbeddedResource, Icon, TextContent, TextResourceContents, ToolAnnotations
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, field_serializer

__all__ = ["SHAPES", "Persist", "Shape", "bare"]

F = TypeVar("F")

Persist = Callable[[Any], Any]
"""`persisted`, or `bare` for the same handler without it."""


def bare(handler: F) -> F:
    return handler


@dataclass(frozen=True, kw_only=True)
class Shape:
    name: str
    register: Callable[[MCPServer, Persist], None]
    arguments: dict[str, Any] = field(default_factory=dict)
    """Of the call that is compared."""
    declares_id: bool = False

    def server(self, persist: Persist) -> MCPServer:
        server = MCPServer("shapes")
        self.register(server, persist)
        return server


SHAPES: list[Shape] = []

Register = Callable[[MCPServer, Persist], None]


def shape(*, declares_id: bool = False, **arguments: Any) -> Callable[[Register], Register]:
    def collect(register: Register) -> Register:
        name = register.__name__
        SHAPES.append(Shape(name=name, register=register, arguments=arguments, declares_id=declares_id))
        return register

    return collect


# ── kinds of callables ───────────────────────────────────────────────────────────────────────────────────────────


@shape(prompt="hello")
def async_function(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def chat(prompt: str) -> str:
        """Talk about anything.

        A second paragraph, with "quotes" and a
        broken line.
        """
        return prompt.upper()


@shape(prompt="hello")
def sync_function(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    def chat(prompt: str) -> str:
        """Talk about anything."""
        return prompt.upper()


@shape()
def no_parameters(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    def version() -> str:
        return "1.2.3"


class Teller:
    greeting = "Hello"

    def __init__(self, name: str) -> None:
        self.name = name

    async def greet(self, prompt: str, times: int = 1) -> str:
        """Greets."""
        return f"{self.greeting} {self.name}: {prompt * times}"

    def greet_plainly(self, prompt: str) -> str:
        return f"{self.greeting} {self.name}: {prompt}"


@shape(prompt="a", times=2)
def bound_method(mcp: MCPServer, persist: Persist) -> None:
    mcp.tool()(persist(Teller("Ann").greet))


@shape(prompt="a")
def bound_sync_method(mcp: MCPServer, persist: Persist) -> None:
    mcp.tool()(persist(Teller("Ann").greet_plainly))


@shape(prompt="a")
def method_decorated_in_its_class(mcp: MCPServer, persist: Persist) -> None:
    class Inner(Teller):
        @persist
        async def talk(self, prompt: str) -> str:
            """Talks."""
            return f"{self.name} says {prompt}"

    mcp.tool()(Inner("Bob").talk)


@shape(prompt="a")
def static_method_outside(mcp: MCPServer, persist: Persist) -> None:
    class Holder:
        @staticmethod
        @persist
        async def talk(prompt: str) -> str:
            return prompt

    mcp.tool()(Holder.talk)


@shape(prompt="a")
def static_method_inside(mcp: MCPServer, persist: Persist) -> None:
    class Holder:
        @persist
        @staticmethod
        def talk(prompt: str) -> str:
            return prompt

    mcp.tool()(Holder.talk)


@shape(prompt="a")
def static_method_registered_in_its_class(mcp: MCPServer, persist: Persist) -> None:
    class Holder:
        @mcp.tool()
        @persist
        @staticmethod
        def talk(prompt: str) -> str:
            return prompt


@shape(prompt="a")
def class_method_outside(mcp: MCPServer, persist: Persist) -> None:
    class Holder:
        word = "class"

        @classmethod
        @persist
        async def talk(cls, prompt: str) -> str:
            return cls.word + prompt

    mcp.tool()(Holder.talk)


@shape(prompt="a")
def class_method_inside(mcp: MCPServer, persist: Persist) -> None:
    class Holder:
        word = "class"

        @persist
        @classmethod
        def talk(cls, prompt: str) -> str:
            return cls.word + prompt

    mcp.tool()(Holder.talk)


class AsyncObject:
    """An object that is a tool."""

    __name__ = "speak"

    async def __call__(self, prompt: str, loud: bool = False) -> str:
        return prompt.upper() if loud else prompt


class SyncObject:
    """An object that is a plain tool."""

    __name__ = "speak"

    def __call__(self, prompt: str, *, loud: bool = False) -> str:
        return prompt.upper() if loud else prompt


@shape(prompt="a", loud=True)
def async_callable_object(mcp: MCPServer, persist: Persist) -> None:
    mcp.tool()(persist(AsyncObject()))


@shape(prompt="a", loud=True)
def sync_callable_object(mcp: MCPServer, persist: Persist) -> None:
    mcp.tool()(persist(SyncObject()))


async def _three(prefix: str, prompt: str, suffix: str = "!") -> str:
    """Three parts."""
    return prefix + prompt + suffix


def _named(partial: Any) -> Any:
    """The SDK takes nothing that has no name. (`update_wrapper` would show the parameters that are filled already.)"""
    partial.__name__ = "three"
    return partial


@shape(prompt="a")
def partial_of_a_function(mcp: MCPServer, persist: Persist) -> None:
    mcp.tool()(persist(_named(functools.partial(_three, "> "))))


@shape(prompt="a", suffix="?")
def partial_by_keyword(mcp: MCPServer, persist: Persist) -> None:
    mcp.tool()(persist(_named(functools.partial(_three, prefix="> "))))


@shape(prompt="a")
def decorated_by_others_below(mcp: MCPServer, persist: Persist) -> None:
    def louder(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def inner(*args: Any, **kwargs: Any) -> Any:
            return (await function(*args, **kwargs)) + "!"

        return inner

    @mcp.tool()
    @persist
    @louder
    async def chat(prompt: str) -> str:
        return prompt


# ── parameters ───────────────────────────────────────────────────────────────────────────────────────────────────


class Address(BaseModel):
    """Where somebody lives."""

    street: str = Field(description="with its number")
    city: Literal["Lisbon", "Porto"] = "Lisbon"


class Person(BaseModel):
    name: Annotated[str, Field(min_length=1)]
    homes: list[Address] = []


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@shape(prompt="a", count=3)
def annotated_fields(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def chat(
        prompt: Annotated[str, Field(description="What to say", examples=["hi"], max_length=50)],
        count: Annotated[int, Field(ge=1, le=9, description="How often")] = 1,
        colour: Colour = Colour.RED,
        when: date | None = None,
    ) -> str:
        return f"{prompt} {count} {colour} {when}"


@shape(person={"name": "Ann", "homes": [{"street": "Rua 1"}]})
def model_parameter(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    def register(person: Person, colour: Colour = Colour.BLUE) -> str:
        return person.model_dump_json() + colour.value


@shape(prompt="a", temperature=0.5)
def keyword_only(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def chat(prompt: str, *, temperature: float, tags: list[str] | None = None) -> str:
        return f"{prompt} {temperature} {tags}"


@shape()
def all_defaults(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def chat(prompt: str = "hello", size: int = 3, extra: dict[str, Any] | None = None) -> str:
        return f"{prompt} {size} {extra}"


@shape(schema="a", json="b", copy=1)
def names_that_pydantic_uses_itself(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def chat(schema: str, json: str, copy: int = 0) -> str:
        return f"{schema} {json} {copy}"


@shape(q="a")
def alias_of_a_parameter(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def chat(prompt: Annotated[str, Field(validation_alias="q", description="the question")]) -> str:
        return prompt


@shape(a="x", b=2)
def no_annotations(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    def chat(a, b=1):  # type: ignore[no-untyped-def]
        return f"{a}{b}"


@shape(prompt="a")
def validated_by_a_function(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def chat(prompt: Annotated[str, AfterValidator(lambda text: text + " checked")]) -> str:
        return prompt


@shape(declares_id=True, prompt="a", continuation_id="my-own")
def continuation_id_of_its_own(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def chat(prompt: str, continuation_id: str | None = None) -> str:
        return f"{prompt} {continuation_id}"


@shape(declares_id=True, prompt="a", continuation_id="my-own")
def continuation_id_that_is_required(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    def chat(continuation_id: Annotated[str, Field(description="mine")], prompt: str) -> str:
        return f"{prompt} {continuation_id}"


@shape(arguments={"a": 1})
def a_parameter_called_arguments(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def run(arguments: dict[str, Any]) -> str:
        return str(arguments)


# ── what the SDK injects ─────────────────────────────────────────────────────────────────────────────────────────


@shape(prompt="a")
def context(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def chat(prompt: str, ctx: Context) -> str:
        return f"{prompt} {ctx.mcp_server.name} {ctx.request_id is not None}"


@shape(prompt="a")
def context_under_another_name(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    def chat(the_request: Context[Any, Any], prompt: str) -> str:
        return f"{prompt} {the_request.protocol_version}"


@shape(prompt="a")
def context_that_may_be_missing(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def chat(prompt: str, ctx: Optional[Context] = None) -> str:  # noqa: UP045 - people write it
        return f"{prompt} {ctx is not None and ctx.mcp_server.name}"


@shape(prompt="a")
def context_or_none(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def chat(prompt: str, ctx: Context | None = None) -> str:
        return f"{prompt} {ctx is not None and ctx.mcp_server.name}"


@shape(prompt="a")
def resolved_parameter(mcp: MCPServer, persist: Persist) -> None:
    async def account(ctx: Context, prompt: str) -> Person:
        return Person(name=f"{prompt} of {ctx.mcp_server.name}")

    @mcp.tool()
    @persist
    async def chat(prompt: str, person: Annotated[Person, Resolve(account)]) -> str:
        return f"{prompt} {person.name}"


@shape(prompt="a")
def resolved_parameter_of_a_sync_tool(mcp: MCPServer, persist: Persist) -> None:
    def account() -> Person:
        return Person(name="Ann")

    @mcp.tool()
    @persist
    def chat(prompt: str, person: Annotated[Person, Resolve(account)], ctx: Context) -> str:
        return f"{prompt} {person.name} {ctx.mcp_server.name}"


# ── what is given to mcp.tool ────────────────────────────────────────────────────────────────────────────────────


@shape(prompt="a")
def title_annotations_meta_icons(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool(
        name="chat-2",
        title="Chat",
        description="A description that replaces the docstring",
        annotations=ToolAnnotations(read_only_hint=True, title="T"),
        icons=[Icon(src="https://example.com/i.png")],
        meta={"vendor/key": {"deep": [1, None]}},
    )
    @persist
    async def chat(prompt: str) -> str:
        """Not shown."""
        return prompt


@shape(prompt="a")
def structured_output_forced(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool(structured_output=True)
    @persist
    async def chat(prompt: str) -> list[int]:
        return [len(prompt)]


@shape(prompt="a")
def structured_output_refused(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool(structured_output=False)
    @persist
    async def chat(prompt: str) -> dict[str, str]:
        return {"said": prompt}


# ── return types ─────────────────────────────────────────────────────────────────────────────────────────────────


class Report(BaseModel):
    """What was found."""

    title: str
    pages: int = 0
    note: str | None = None
    person: Person | None = None


class StrictReport(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: str
    note: str | None = None


class TypedReport(TypedDict):
    title: str
    pages: int


@dataclass
class DataReport:
    title: str
    pages: int = 1


class AliasedReport(BaseModel):
    full_title: str = Field(alias="fullTitle")
    model_config = ConfigDict(populate_by_name=True)


class FormattedReport(BaseModel):
    when: datetime

    @field_serializer("when")
    def _as_people_write_it(self, when: datetime) -> str:
        return when.strftime("%d of %B %Y")


class UnbendingReport(BaseModel):
    model_config = ConfigDict(strict=True)
    day: date
    colour: Colour
    sizes: tuple[int, ...]


@shape()
def returns_int(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def count() -> int:
        return 10**30


@shape()
def returns_float_that_is_minus_zero(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def count() -> float:
        return -0.0


@shape()
def returns_bool(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    def flag() -> bool:
        return False


@shape()
def returns_dict_of_int(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def counts() -> dict[str, int]:
        return {"b": 2, "a": 1}


@shape()
def returns_dict_of_any(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def counts() -> dict[str, Any]:
        return {"z": None, "a": [1, None, {"b": None}], "text": "x"}


@shape()
def returns_dict_of_its_own_ids(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def counts() -> dict[str, Any]:
        return {"continuation_id": "the tool's own", "a": 1}


@shape()
def returns_unparametrised_dict(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def counts() -> dict:  # type: ignore[type-arg]
        return {1: "a", "b": (1, 2)}


@shape()
def returns_model(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def report() -> Report:
        return Report(title="t", person=Person(name="Ann", homes=[Address(street="s")]))


@shape()
def returns_strict_model(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    def report() -> StrictReport:
        return StrictReport(title="t")


@shape()
def returns_subclass_with_more_fields(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    def report() -> Report:
        class Longer(Report):
            appendix: str = "more"

        return Longer(title="t")


@shape()
def returns_model_under_alias(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def report() -> AliasedReport:
        return AliasedReport(full_title="t")


@shape()
def returns_model_with_a_serializer(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def report() -> FormattedReport:
        return FormattedReport(when=datetime(2026, 11, 3, tzinfo=UTC))


@shape()
def returns_model_that_takes_no_strings_for_dates(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def report() -> UnbendingReport:
        return UnbendingReport(day=date(2026, 1, 2), colour=Colour.RED, sizes=(1, 2))


@shape()
def returns_typed_dict(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def report() -> TypedReport:
        return {"title": "t", "pages": 3}


@shape()
def returns_dataclass(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def report() -> DataReport:
        return DataReport("t")


@shape()
def returns_root_model(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def report() -> RootModel[dict[str, int]]:
        return RootModel({"a": 1})


@shape()
def returns_list_of_str(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def names() -> list[str]:
        return ["a", "b"]


@shape()
def returns_list_of_models(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def reports() -> list[Report]:
        return [Report(title="a"), Report(title="b", note="n")]


@shape()
def returns_none(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def nothing() -> None:
        return None


@shape()
def returns_optional_that_is_none(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def maybe() -> str | None:
        return None


@shape()
def returns_union(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def either() -> int | Report:
        return Report(title="t")


@shape()
def returns_tuple(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def pair() -> tuple[int, str]:
        return 1, "a"


@shape()
def returns_bytes(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def raw() -> bytes:
        return "naïve".encode()


@shape()
def returns_text_with_hard_characters(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def hard() -> str:
        return "nul \0, line separator \u2028, emoji 🦜, escape \x1b[1m, " + "é" * 1000


@shape()
def returns_lone_surrogate_in_no_schema(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def hard() -> CallToolResult:
        return CallToolResult(content=[TextContent(type="text", text="\ud800")])


@shape()
def returns_set(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def names() -> set[str]:
        return {"a"}


@shape()
def returns_whole_result_of_an_own_class(mcp: MCPServer, persist: Persist) -> None:
    class Priced(CallToolResult):
        price: int = 3

    @mcp.tool()
    @persist
    async def whole() -> CallToolResult:
        return Priced(content=[TextContent(type="text", text="a")])


@shape()
def returns_image(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def picture() -> Image:
        return Image(data=b"\x89PNG\xff", format="png")


@shape()
def returns_text_content(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def blocks() -> list[TextContent]:
        return [TextContent(type="text", text="a"), TextContent(type="text", text="b", _meta={"k": None})]


@shape()
def returns_mixed_content(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool(structured_output=False)
    @persist
    async def mixed() -> list[Any]:
        resource = TextResourceContents(uri="file:///a.txt", text="inside", mime_type="text/plain")
        return ["a", Image(data=b"1", format="gif"), EmbeddedResource(type="resource", resource=resource), {"b": 1}]


@shape()
def returns_result(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def whole() -> CallToolResult:
        return CallToolResult(
            content=[TextContent(type="text", text="a")],
            structured_content={"n": None, "list": [None]},
            _meta={"own/key": {"x": None}},
        )


@shape()
def returns_validated_result(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def whole() -> Annotated[CallToolResult, StrictReport]:
        return CallToolResult(
            content=[TextContent(type="text", text="a")], structured_content={"title": "t", "note": None}
        )


@shape()
def returns_result_without_content(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def whole() -> CallToolResult:
        return CallToolResult(content=[], structured_content={"anything": [1]})


@shape(prompt="a")
def returns_without_annotation(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def chat(prompt: str):  # type: ignore[no-untyped-def]
        return {"said": prompt, "at": datetime(2026, 1, 2, tzinfo=UTC)}


@shape()
def returns_an_error_result(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def whole() -> CallToolResult:
        return CallToolResult(content=[TextContent(type="text", text="not today")], is_error=True)


@shape()
def returns_an_iterator(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def numbers():  # type: ignore[no-untyped-def]
        return (number * 2 for number in range(3))


@shape(prompt="a")
def returns_what_a_function_checks(mcp: MCPServer, persist: Persist) -> None:
    @mcp.tool()
    @persist
    async def chat(prompt: str) -> Annotated[str, AfterValidator(lambda text: text + " (end)")]:
        return prompt


# ── a module with `from __future__ import annotations` ───────────────────────────────────────────────────────────

SHAPES += [
    Shape(name=f"postponed_{name}", register=register, arguments=arguments)
    for name, register, arguments in postponed_shapes.SHAPES
]
