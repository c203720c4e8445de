"""Tools of a low-level server as people write them: a class with a name, a schema, and one method that answers.

Schemas and values are made by the same SDK's own means for functions, so that one toolbox serves both kinds of server.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

from seams.worlds.world import Json, Persist

__all__ = ["ClassBasedTool", "FunctionTool", "class_based_tool", "context_of_this_call"]

context_of_this_call: ContextVar[Any] = ContextVar("context_of_this_call")


class FunctionTool(Protocol):
    """What the SDK makes of a function."""

    name: str
    description: str
    parameters: Json
    output_schema: Json | None

    async def run(self, arguments: Json, context: Any, convert_result: bool = False) -> Any: ...


class ClassBasedTool(Protocol):
    tool: FunctionTool

    async def execute(self, arguments: Json) -> Any: ...


def class_based_tool(tool: FunctionTool, persist: Persist, as_result: Callable[[Any], Any]) -> ClassBasedTool:
    class Tool:
        def __init__(self) -> None:
            self.tool = tool

        def get_name(self) -> str:
            return tool.name

        def get_input_schema(self) -> Json:
            return tool.parameters

        @persist
        async def execute(self, arguments: dict[str, Any]) -> Any:
            return as_result(await tool.run(arguments, context_of_this_call.get(), convert_result=True))

    return Tool()
