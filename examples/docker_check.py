"""A client for the walk through docs/docker.md: each command makes one thing happen on the server, and checks it.

What is worth keeping, a continuation id or a storage URI, goes to stdout, so that a shell can; what there is to read,
to stderr. Exits with 1 if something is not as it should be.
"""

import argparse
import base64
import hashlib
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

TURNS_OF_A_SESSION = 5


async def chat(client: Client, prompt: str, conversation: str | None) -> None:
    result = await call(client, "chat", prompt=prompt, **named(conversation))
    told(text(result))
    told(history(result))
    keep(id_of(result))


async def long_chat(client: Client, turns: int) -> None:
    result = await call(client, "chat", prompt="This is number 1.")
    for number in range(2, turns + 1):
        result = await call(client, "chat", prompt=f"This is number {number}.", continuation_id=id_of(result))
    told(f"{turns} turns, {2 * turns} messages.")
    told(history(result))
    keep(id_of(result))


async def sessions(url: str, how_many: int) -> None:
    said: dict[str, str] = {}

    async def one(number: int) -> None:
        conversation = None
        async with connected(url) as client:
            for turn in range(TURNS_OF_A_SESSION):
                result = await call(client, "chat", prompt=f"session {number}, turn {turn}", **named(conversation))
                conversation = id_of(result)
                await anyio.sleep(0)
            asked = await call(client, "chat", prompt="What did I say?", **named(conversation))
        own = " / ".join(f"session {number}, turn {turn}" for turn in range(TURNS_OF_A_SESSION))
        expect(text(asked) == f"You said: {own}", f"session {number} knows its own turns, not: {text(asked)}")
        said[id_of(asked)] = own

    async with anyio.create_task_group() as at_once:
        for number in range(how_many):
            at_once.start_soon(one, number)
    expect(len(said) == how_many, f"{how_many} sessions have {how_many} conversations, not {len(said)}")
    told(f"{how_many} sessions at once, {TURNS_OF_A_SESSION} turns each: each knows its own, and nothing else.")


async def upload(client: Client, path: Path) -> None:
    content = path.read_bytes()
    result = await call(client, "upload", name=path.name, content=base64.b64encode(content).decode())
    told(f"{path.name}, {len(content)} bytes: kept.")
    keep(uri_of(result))


async def download(client: Client, uri: str, like: Path) -> None:
    (content,) = (await client.read_resource(uri)).contents
    expect(hasattr(content, "blob") or hasattr(content, "text"), "the file was sent")
    got = base64.b64decode(content.blob) if hasattr(content, "blob") else content.text.encode()
    expect(got == like.read_bytes(), f"the server's file is equal to {like}; it has {len(got)} bytes")
    told(f"{len(got)} bytes, equal to {like.name}.")


async def make_file(client: Client, megabytes: int) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    made = random.Random(seed)
    expected = hashlib.sha256()
    for _ in range(megabytes):
        expected.update(made.randbytes(1_000_000))
    uri = uri_of(await call(client, "make_file", megabytes=megabytes, seed=seed))
    told(f"{expected.hexdigest()} {megabytes * 1_000_000} bytes: made and kept.")
    keep(uri)


async def checksum(client: Client, uri: str) -> None:
    told(text(await call(client, "checksum", path=uri)))


# ── one call ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """The result in wire form, of a call that was kept."""
    result = await client.call_tool(tool, arguments)
    wire: dict[str, Any] = result.model_dump(by_alias=True, mode="json", exclude_none=True)
    expect(not wire.get("isError"), f"the tool answers: {text(wire)}")
    meta = wire.get("_meta", {})
    expect(meta.get("perdure/persisted") is True, f"the turn was kept; the server says: {meta.get('perdure/fault')}")
    return wire


def text(result: dict[str, Any]) -> str:
    """The tool's own text."""
    first: str = result["content"][0]["text"]
    return first


def id_of(result: dict[str, Any]) -> str:
    identity: str = result["_meta"]["perdure/continuation-id"]
    return identity


def uri_of(result: dict[str, Any]) -> str:
    uri = text(result)
    expect(uri.startswith("storage://"), f"the file was kept, and named by a storage URI, not by {uri}")
    return uri


def history(result: dict[str, Any]) -> str:
    given = result["_meta"]["perdure/history"]
    return f"history: {given['state']} (turns given: {given['turns']}, omitted: {given['omitted']})"


def named(conversation: str | None) -> dict[str, str]:
    return {"continuation_id": conversation} if conversation else {}


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    async with Client(streamable_http_client(url)) as client:
        yield client


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────


async def main(options: argparse.Namespace) -> None:
    if options.command == "sessions":
        await sessions(options.url, options.how_many)
        return
    async with connected(options.url) as client:
        match options.command:
            case "chat":
                await chat(client, options.prompt, options.id)
            case "long-chat":
                await long_chat(client, options.turns)
            case "upload":
                await upload(client, options.path)
            case "download":
                await download(client, options.uri, options.like)
            case "make-file":
                await make_file(client, options.megabytes)
            case "checksum":
                await checksum(client, options.uri)


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--url",
        default=os.environ.get("MCP_URL", "http://127.0.0.1:8080/mcp"),
        help="the server's; else MCP_URL, else http://127.0.0.1:8080/mcp",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("chat", help="say something; prints the continuation id")
    command.add_argument("prompt")
    command.add_argument("--id", help="the conversation to continue")

    command = commands.add_parser("long-chat", help="a conversation of many turns; prints its continuation id")
    command.add_argument("turns", type=int)

    command = commands.add_parser("sessions", help="many conversations at once")
    command.add_argument("how_many", type=int)

    command = commands.add_parser("upload", help="give the server a file of less than 3 MB; prints its storage URI")
    command.add_argument("path", type=Path)

    command = commands.add_parser("download", help="get a file of less than 10 MB back, and compare it")
    command.add_argument("uri")
    command.add_argument("like", type=Path, help="what it should be equal to")

    command = commands.add_parser("make-file", help="have the server make a file of any size; prints its storage URI")
    command.add_argument("megabytes", type=int)

    command = commands.add_parser("checksum", help="have a tool read a file that is kept")
    command.add_argument("uri")
    return parser


class Failed(Exception):
    """What should hold, and does not."""


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise Failed(what)


def told(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def keep(value: str) -> None:
    print(value, flush=True)


def innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


if __name__ == "__main__":
    chosen = command_line().parse_args()
    try:
        anyio.run(main, chosen)
    except* Failed as group:
        told(f"FAILED. This should hold, and does not: {innermost(group)}")
        sys.exit(1)
    except* MCPError as group:
        told(f"FAILED. The server says: {innermost(group)}")
        sys.exit(1)
    except* httpx2.TransportError as group:
        told(f"FAILED. Nobody answers at {chosen.url}: {innermost(group)}")
        sys.exit(1)
