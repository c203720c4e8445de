"""Tools in the shapes that their authors write: each toolbox holds one, and says how it is called."""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal, Optional

from pydantic import BaseModel, ConfigDict, Field
from seams.worlds.world import Json, Kit, Tool, Toolbox
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

__all__ = ["SHAPES", "Shape"]


@dataclass(frozen=True)
class Shape:
    toolbox: Toolbox
    arguments: Json

    def __str__(self) -> str:
        return self.toolbox.__name__


SHAPES: list[Shape] = []


def shape(**arguments: Any) -> Callable[[Callable[[Kit], Tool]], Toolbox]:
    def collect(tool_of: Callable[[Kit], Tool]) -> Toolbox:
        @functools.wraps(tool_of)
        def toolbox(kit: Kit) -> Sequence[Tool]:
            return [tool_of(kit)]

        SHAPES.append(Shape(toolbox, arguments))
        return toolbox

    return collect


# ── kinds of callables ───────────────────────────────────────────────────────────────────────────────────────────


@shape(prompt="hello")
def async_function(_: Kit) -> Tool:
    async def chat(prompt: str) -> str:
        """Talk about anything.

        A second paragraph, with "quotes".
        """
        return prompt.upper()

    return chat


@shape(prompt="hello")
def sync_function(_: Kit) -> Tool:
    def chat(prompt: str) -> str:
        """Talk about anything."""
        return prompt.upper()

    return chat


@shape()
def no_parameters(_: Kit) -> Tool:
    async def version() -> str:
        return "1.2.3"

    return version


class Teller:
    word = "class "

    def __init__(self, name: str) -> None:
        self.name = name

    async def greet(self, prompt: str, times: int = 1) -> str:
        """Greets."""
        return f"Hello {self.name}: {prompt * times}"

    def greet_plainly(self, prompt: str) -> str:
        return f"Hello {self.name}: {prompt}"

    @classmethod
    async def greet_as_class(cls, prompt: str) -> str:
        return cls.word + prompt

    @staticmethod
    def greet_nobody(prompt: str) -> str:
        return prompt


@shape(prompt="a", times=2)
def bound_method(_: Kit) -> Tool:
    return Teller("Ann").greet


@shape(prompt="a")
def bound_sync_method(_: Kit) -> Tool:
    return Teller("Ann").greet_plainly


@shape(prompt="a")
def class_method(_: Kit) -> Tool:
    return Teller.greet_as_class


@shape(prompt="a")
def static_method(_: Kit) -> Tool:
    return Teller.greet_nobody


@shape(prompt="a")
def method_decorated_in_its_class(kit: Kit) -> Tool:
    class Inner(Teller):
        @kit.persist
        async def talk(self, prompt: str) -> str:
            return f"{self.name} says {prompt}"

    return Inner("Bob").talk


@shape(prompt="a")
def class_method_decorated_in_its_class(kit: Kit) -> Tool:
    class Inner(Teller):
        @kit.persist
        @classmethod
        def talk(cls, prompt: str) -> str:
            return cls.word + prompt

    return Inner.talk


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
def async_callable_object(_: Kit) -> Tool:
    return AsyncObject()


@shape(prompt="a", loud=True)
def sync_callable_object(_: Kit) -> Tool:
    return SyncObject()


async def _three(prefix: str, prompt: str, suffix: str = "!") -> str:
    """Three parts."""
    return prefix + prompt + suffix


@shape(prompt="a")
def partial_of_a_function(_: Kit) -> Tool:
    three: Any = functools.partial(_three, "> ")
    three.__name__ = "three"  # an SDK takes nothing that has no name
    return three  # type: ignore[no-any-return]


@shape(prompt="a")
def decorated_by_others_below(kit: Kit) -> Tool:
    def louder(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def inner(*args: Any, **kwargs: Any) -> Any:
            return (await function(*args, **kwargs)) + "!"

        return inner

    @kit.persist
    @louder
    async def chat(prompt: str) -> str:
        return prompt

    return chat


# ── parameters ───────────────────────────────────────────────────────────────────────────────────────────────────


class Address(BaseModel):
    """Where somebody lives."""

    street: str = Field(description="with its number")
    city: Literal["Lisbon", "Porto"] = "Lisbon"


class Person(BaseModel):
    name: Annotated[str, Field(min_length=1)]
    homes: list[Address] = []


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@shape(prompt="a", count=3)
def annotated_fields(_: Kit) -> Tool:
    async def chat(
        prompt: Annotated[str, Field(description="What to say", max_length=50)],
        count: Annotated[int, Field(ge=1, le=9)] = 1,
        colour: Colour = Colour.RED,
        when: date | None = None,
    ) -> str:
        return f"{prompt} {count} {colour} {when}"

    return chat


@shape(person={"name": "Ann", "homes": [{"street": "Rua 1"}]})
def model_parameter(_: Kit) -> Tool:
    def register(person: Person, colour: Colour = Colour.BLUE) -> str:
        return person.model_dump_json() + colour.value

    return register


@shape(prompt="a", temperature=0.5)
def keyword_only(_: Kit) -> Tool:
    async def chat(prompt: str, *, temperature: float, tags: list[str] | None = None) -> str:
        return f"{prompt} {temperature} {tags}"

    return chat


@shape()
def all_defaults(_: Kit) -> Tool:
    async def chat(prompt: str = "hello", size: int = 3, extra: dict[str, Any] | None = None) -> str:
        return f"{prompt} {size} {extra}"

    return chat


@shape(prompt="a", note=None)
def optional_argument_that_is_null(_: Kit) -> Tool:
    async def chat(prompt: str, note: Optional[str] = "unset") -> str:  # noqa: UP045 - people write it
        return f"{prompt} {note}"

    return chat


@shape(schema="a", json="b")
def names_that_pydantic_uses_itself(_: Kit) -> Tool:
    async def chat(schema: str, json: str, copy: int = 0) -> str:
        return f"{schema} {json} {copy}"

    return chat


@shape(a="x", b="y")
def no_annotations(_: Kit) -> Tool:
    def chat(a, b=1):  # type: ignore[no-untyped-def]
        return f"{a}{b}"

    return chat


@shape(arguments={"a": 1})
def a_parameter_called_arguments(_: Kit) -> Tool:
    async def run(arguments: dict[str, Any]) -> str:
        return str(arguments)

    return run


@shape(prompt="a")
def context(kit: Kit) -> Tool:
    async def chat(prompt: str, ctx: kit.Context) -> str:  # type: ignore[name-defined]
        return f"{prompt} {ctx.request_id is not None}"

    return chat


@shape(prompt="a")
def context_of_a_sync_tool(kit: Kit) -> Tool:
    def chat(the_request: kit.Context, prompt: str) -> str:  # type: ignore[name-defined]
        return f"{prompt} {the_request.request_id is not None}"

    return chat


@shape(prompt="a")
def context_that_may_be_missing(kit: Kit) -> Tool:
    async def chat(prompt: str, ctx: Optional[kit.Context] = None) -> str:  # type: ignore[name-defined]  # noqa: UP045
        return f"{prompt} {ctx is not None}"

    return chat


# ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────


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


@shape()
def returns_int(_: Kit) -> Tool:
    async def count() -> int:
        return 10**30

    return count


@shape()
def returns_dict_of_int(_: Kit) -> Tool:
    async def counts() -> dict[str, int]:
        return {"b": 2, "a": 1}

    return counts


@shape()
def returns_dict_of_any(_: Kit) -> Tool:
    def counts() -> dict[str, Any]:
        return {"z": None, "a": [1, None, {"b": None}], "text": "x"}

    return counts


@shape()
def returns_dict_with_an_id_of_its_own(_: Kit) -> Tool:
    async def counts() -> dict[str, Any]:
        return {"continuation_id": "the tool's own", "a": 1}

    return counts


@shape()
def returns_model(_: Kit) -> Tool:
    async def report() -> Report:
        return Report(title="t", person=Person(name="Ann", homes=[Address(street="s")]))

    return report


@shape()
def returns_strict_model(_: Kit) -> Tool:
    def report() -> StrictReport:
        return StrictReport(title="t")

    return report


@shape()
def returns_typed_dict(_: Kit) -> Tool:
    async def report() -> TypedReport:
        return {"title": "t", "pages": 3}

    return report


@shape()
def returns_dataclass(_: Kit) -> Tool:
    async def report() -> DataReport:
        return DataReport("t")

    return report


@shape()
def returns_list_of_models(_: Kit) -> Tool:
    async def reports() -> list[Report]:
        return [Report(title="a"), Report(title="b", note="n")]

    return reports


@shape()
def returns_none(_: Kit) -> Tool:
    async def nothing() -> None:
        return None

    return nothing


@shape()
def returns_optional_that_is_none(_: Kit) -> Tool:
    async def maybe() -> str | None:
        return None

    return maybe


@shape()
def returns_text_with_hard_characters(_: Kit) -> Tool:
    async def hard() -> str:
        return "nul \0, line separator \u2028, emoji 🦜, escape \x1b[1m, " + "é" * 1000

    return hard


@shape(prompt="a")
def returns_without_annotation(_: Kit) -> Tool:
    async def chat(prompt: str):  # type: ignore[no-untyped-def]
        return {"said": prompt}

    return chat


@shape()
def returns_image(kit: Kit) -> Tool:
    async def picture() -> kit.Image:  # type: ignore[name-defined]
        return kit.image(b"\x89PNG\xff", "png")

    return picture


@shape()
def returns_list_of_blocks(kit: Kit) -> Tool:
    async def blocks() -> list[kit.TextContent]:  # type: ignore[name-defined]
        return [kit.block({"type": "text", "text": text}) for text in "ab"]

    return blocks


@shape()
def returns_mixed_content(kit: Kit) -> Tool:
    async def mixed():  # type: ignore[no-untyped-def]
        resource = {"uri": "memo://a.txt", "text": "inside", "mimeType": "text/plain"}
        return ["a", kit.image(b"1", "gif"), kit.block({"type": "resource", "resource": resource}), {"b": 1}]

    return mixed


@shape()
def returns_resource_link(kit: Kit) -> Tool:
    async def link():  # type: ignore[no-untyped-def]
        return kit.block({"type": "resource_link", "uri": "memo://a.txt", "name": "a.txt"})

    return link


@shape()
def returns_whole_result(kit: Kit) -> Tool:
    async def whole() -> kit.CallToolResult:  # type: ignore[name-defined]
        return kit.result(
            {
                "content": [{"type": "text", "text": "a"}],
                "structuredContent": {"n": None, "list": [None]},
                "_meta": {"own/key": {"x": None}},
            }
        )

    return whole


@shape()
def returns_whole_result_of_a_sync_tool(kit: Kit) -> Tool:
    def whole() -> kit.CallToolResult:  # type: ignore[name-defined]
        return kit.result({"content": [], "structuredContent": {"anything": [1]}})

    return whole


@shape()
def returns_validated_result(kit: Kit) -> Tool:
    async def whole() -> Annotated[kit.CallToolResult, StrictReport]:  # type: ignore[name-defined]
        return kit.result(
            {"content": [{"type": "text", "text": "a"}], "structuredContent": {"title": "t", "note": None}}
        )

    return whole


@shape()
def returns_an_error_result(kit: Kit) -> Tool:
    async def whole() -> kit.CallToolResult:  # type: ignore[name-defined]
        return kit.result({"content": [{"type": "text", "text": "not today"}], "isError": True})

    return whole


@shape()
def returns_a_path_that_is_not_kept(_: Kit) -> Tool:
    async def where() -> str:
        return os.devnull

    return where
