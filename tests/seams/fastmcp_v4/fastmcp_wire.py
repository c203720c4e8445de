"""What a client of a fastmcp server sees of its tools, in wire form."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastmcp import Client, FastMCP
from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from pydantic import BaseModel

Json = dict[str, Any]


def wire(value: BaseModel) -> Json:
    return value.model_dump(by_alias=True, mode="json", exclude_none=True)


async def listed(server: FastMCP) -> list[Json]:
    async with Client(server) as client:
        return [wire(tool) for tool in await client.list_tools()]


async def called(server: FastMCP, tool: str, arguments: Json | None = None, **options: Any) -> Json:
    """The result of one call, held against the tool's output schema as clients do."""
    async with Client(server) as client:
        await client.list_tools()
        return wire(await client.call_tool_mcp(tool, arguments or {}, **options))


@contextmanager
def authenticated(
    *, client_id: str, subject: str | None = None, claims: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Requests in here come with a token that was verified."""
    access = AccessToken(token="t", client_id=client_id, scopes=[], subject=subject, claims=dict(claims or {}))
    token = auth_context_var.set(AuthenticatedUser(access))
    try:
        yield
    finally:
        auth_context_var.reset(token)
