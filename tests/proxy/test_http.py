"""A server behind streamable HTTP: sessions and stateless requests, streams, resumption, and what goes wrong."""

import asyncio
import json
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import SamplingMessage, TextContent
from mcp_wire import kept, text_of
from proxy.conftest import STATELESS, RawClient, proxied
from proxy.http_servers import Json, Script, as_json, event, events, result, self_signed, served
from proxy.test_transparent import HANDSHAKE
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from perdure import Outcome
from perdure.middleware.persistence.wiring import Runtime
from perdure.middleware.proxy.http_upstream import HttpUpstream

SECRET = "Bearer s3cret-of-the-operator"


def behind_url(url: str, **headers: str) -> AbstractAsyncContextManager[RawClient]:
    return proxied(partial(HttpUpstream, url, headers))


async def initialize(client: RawClient) -> Json:
    answer = await client.ask("initialize", HANDSHAKE | {"capabilities": {"sampling": {}}})
    client.send("notifications/initialized")
    return answer


def chat_server() -> MCPServer:
    server = MCPServer("chat", log_level="ERROR")

    @server.tool()
    def chat(prompt: str) -> str:
        return f"heard {prompt}"

    @server.tool()
    async def ask(prompt: str, ctx: Context) -> str:
        await ctx.report_progress(1, 2, "half")
        answer = await ctx.session.create_message(
            [SamplingMessage(role="user", content=TextContent(type="text", text=prompt))], max_tokens=9
        )
        assert isinstance(answer.content, TextContent)
        return answer.content.text

    return server


# ── real servers ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("json_response", [False, True], ids=["sse", "json"])
@pytest.mark.parametrize("stateless", [False, True], ids=["2025-11-25", "2026-07-28"])
async def test_a_tool_remembers(all_kept: Runtime, stateless: bool, json_response: bool) -> None:
    meta = {"_meta": STATELESS} if stateless else {}
    with served(chat_server().streamable_http_app(json_response=json_response)) as url:
        async with behind_url(url) as client:
            if not stateless:
                await initialize(client)
            tools = (await client.ask("tools/list", dict(meta)))["result"]["tools"]
            assert all("continuation_id" in tool["inputSchema"]["properties"] for tool in tools)
            first = (await client.call("chat", {"prompt": "first"}, **meta))["result"]
            identity = first["_meta"]["perdure/continuation-id"]
            second = (await client.call("chat", {"prompt": "second", "continuation_id": identity}, **meta))["result"]
    assert text_of(first) == "heard first"
    assert '"heard first"' in text_of(second)
    assert text_of(second).endswith("second")
    assert [turn.prompt for turn in kept(all_kept)] == ["first", "second"]


@pytest.mark.filterwarnings("ignore:The sampling capability is deprecated")
async def test_requests_of_the_server_reach_the_client_and_its_answers_the_server(all_kept: Runtime) -> None:
    with served(chat_server().streamable_http_app()) as url:
        async with behind_url(url) as client:
            await initialize(client)
            params = {"name": "ask", "arguments": {"prompt": "Who?"}, "_meta": {"progressToken": "p"}}
            number = client.request("tools/call", params)
            while (message := json.loads(await client.line())).get("method") != "sampling/createMessage":
                pass
            answer = {"role": "assistant", "content": {"type": "text", "text": "Ada"}, "model": "m"}
            client.send_line(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": answer}))
            said = await client.answer(number)
    assert text_of(said["result"]) == "Ada"
    progress = [json.loads(line)["params"] for line in client.lines if b"notifications/progress" in line]
    assert [(params["progressToken"], params["progress"]) for params in progress] == [("p", 1)]


async def test_a_conversation_goes_on_after_the_servers_restart(all_kept: Runtime) -> None:
    with served(chat_server().streamable_http_app()) as url:
        proxy = behind_url(url)
        client = await proxy.__aenter__()
        await initialize(client)
        first = (await client.call("chat", {"prompt": "first"}))["result"]
    assert "cannot be reached" in (await client.ask("ping"))["error"]["message"]
    with served(chat_server().streamable_http_app(), port=int(url.rpartition(":")[2].partition("/")[0])):
        arguments = {"prompt": "second", "continuation_id": first["_meta"]["perdure/continuation-id"]}
        second = (await client.call("chat", arguments))["result"]
        await proxy.__aexit__(None, None, None)
    assert '"heard first"' in text_of(second)


async def test_a_server_that_forgets_its_session_is_spoken_to_in_a_new_one(
    all_kept: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    sessions: list[str] = []

    def answer(request: Request, message: Json) -> Response:
        if message["method"] == "initialize":
            sessions.append(f"session-{len(sessions)}")
            return as_json(result(message, protocolVersion="2025-11-25"), **{"Mcp-Session-Id": sessions[-1]})
        if request.headers.get("mcp-session-id") != sessions[-1]:
            return Response(status_code=404)
        return as_json(result(message, content=[{"type": "text", "text": "x"}]))

    script = Script(answer)
    with served(script) as url:
        async with behind_url(url) as client:
            await initialize(client)
            await client.call("chat", {"prompt": "a"})
            sessions.append("of another process")
            numbers = [client.request("tools/call", {"name": "chat", "arguments": {}}) for _ in range(5)]
            answers = {}
            while len(answers) < 5:
                message = json.loads(await client.line())
                answers[message["id"]] = message
    assert all("result" in answers[number] for number in numbers)
    assert len(script.of("initialize")) == 2
    assert len(script.of("notifications/initialized")) == 2
    assert "mcp-session-id" not in script.of("initialize")[1].headers
    assert "another is begun" in caplog.text
    assert [seen.headers["mcp-session-id"] for seen in script.seen if seen.method == "DELETE"] == [sessions[-1]]


# ── what goes over the wire ──────────────────────────────────────────────────────────────────────────────────────


EXACT = (
    '{"z":1,"jsonrpc":"2.0",  "method":"of/the/future","id":"i","params":{"n":0.1000000000000000055511151231257827}}'
)


@pytest.mark.parametrize("way", ["json", "sse", "pretty"])
async def test_messages_pass_byte_for_byte(runtime: Runtime, way: str) -> None:
    back = '{"future":1.10,"id":"i","jsonrpc":"2.0","result":{"big":1e999,"text":"\\u2028é\u2028"}}'
    pretty = back.replace(",", ",\r\n  ")

    def answer(_: Request, message: Any) -> Response:
        match way:
            case "json":
                return as_json(back)
            case "pretty":
                return as_json(pretty)
            case _:
                return events(": a comment\n\n", event(back))

    script = Script(answer)
    with served(script) as url:
        async with behind_url(url) as client:
            client.send_line(EXACT)
            await client.answer("i")
            client.send_line('{"jsonrpc":"2.0","method":"notifications/x","params":{"n":1.50}}')
            client.send_line("no JSON")
            client.send_line('[{"jsonrpc":"2.0","id":"i","method":"ping"}]')
            while not any(seen.body.startswith(b"[") for seen in script.seen):
                await asyncio.sleep(0.01)
    assert client.lines[0].decode() == (back if way != "pretty" else pretty.replace("\r\n", "  "))
    assert [seen.body.decode() for seen in script.seen] == [
        EXACT,
        '{"jsonrpc":"2.0","method":"notifications/x","params":{"n":1.50}}',
        "no JSON",
        '[{"jsonrpc":"2.0","id":"i","method":"ping"}]',
    ]


async def test_headers_of_a_session(runtime: Runtime) -> None:
    def answer(_: Request, message: Json) -> Response:
        session = {"Mcp-Session-Id": "the session"} if message["method"] == "initialize" else {}
        return as_json(result(message, protocolVersion="2025-06-18"), **session)

    script = Script(answer)
    with served(script) as url:
        async with behind_url(url, Authorization=SECRET) as client:
            await initialize(client)
            await client.ask("ping")
    first, second, *others = script.seen
    assert "mcp-session-id" not in first.headers
    assert "mcp-protocol-version" not in first.headers
    assert all(seen.headers["authorization"] == SECRET for seen in script.seen)
    for seen in (second, *others):
        assert seen.headers["mcp-session-id"] == "the session"
        assert seen.headers["mcp-protocol-version"] == "2025-06-18"
    assert {seen.method for seen in others} == {"GET", "POST", "DELETE"}


async def test_headers_of_a_stateless_request_repeat_what_routers_want_to_know(all_kept: Runtime) -> None:
    schema = {
        "type": "object",
        "properties": {
            "prompt": {"type": "string"},
            "region": {"type": "string", "x-mcp-header": "Region"},
            "of": {"type": "object", "properties": {"all": {"type": "boolean", "x-mcp-header": "All"}}},
            "absent": {"type": "integer", "x-mcp-header": "Absent"},
        },
    }

    def answer(_: Request, message: Json) -> Response:
        if message["method"] == "tools/list":
            return as_json(result(message, tools=[{"name": "söng", "inputSchema": schema}]))
        return as_json(result(message, content=[], resultType="complete"))

    script = Script(answer)
    with served(script) as url:
        async with behind_url(url) as client:
            arguments = {"prompt": "x", "region": "Zürich", "of": {"all": True}}
            await client.call("söng", arguments, _meta=STATELESS)
            await client.ask("resources/read", {"uri": "file:///x", "_meta": STATELESS})
    call, read = script.of("tools/call")[0].headers, script.of("resources/read")[0].headers
    assert call["mcp-protocol-version"] == "2026-07-28"
    assert call["mcp-method"] == "tools/call"
    assert call["mcp-name"] == "=?base64?c8O2bmc=?="
    assert call["mcp-param-region"] == "=?base64?WsO8cmljaA==?="
    assert call["mcp-param-all"] == "true"
    assert "mcp-param-absent" not in call
    assert (read["mcp-method"], read["mcp-name"]) == ("resources/read", "file:///x")
    assert not any(seen.method in ("GET", "DELETE") for seen in script.seen)


async def test_what_the_server_sends_of_its_own_accord_is_passed_on_and_resumed(runtime: Runtime) -> None:
    asked: list[str | None] = []

    def stream(request: Request) -> Response:
        asked.append(request.headers.get("last-event-id"))
        number = len(asked)
        if number > 2:
            return Response(status_code=405)
        message = f'{{"jsonrpc":"2.0","method":"n/{number}","params":{{"x":1.10}}}}'
        return events("retry: 1\n", event(message, f"e{number}"))

    def answer(_: Request, message: Json) -> Response:
        return as_json(result(message, protocolVersion="2025-11-25"), **{"Mcp-Session-Id": "s"})

    with served(Script(answer, stream)) as url:
        async with behind_url(url) as client:
            await initialize(client)
            while b"n/2" not in await client.line():
                pass
            while len(asked) < 3:
                await asyncio.sleep(0.01)
    assert client.lines[1:] == [b'{"jsonrpc":"2.0","method":"n/%d","params":{"x":1.10}}' % n for n in (1, 2)]
    assert asked == [None, "e1", "e2"]


async def test_an_answer_whose_stream_broke_off_is_gone_on_with_after_the_last_event(all_kept: Runtime) -> None:
    last_seen: list[str | None] = []

    def answer(_: Request, message: Json) -> Response:
        if message["method"] == "tools/list":
            return as_json(result(message, tools=[{"name": "chat", "inputSchema": {"type": "object"}}]))
        waiting.append(message)
        return events("retry: 1\n", event("", "e0"), event('{"jsonrpc":"2.0","method":"n/first"}', "e1"))

    def stream(request: Request) -> Response:
        last_seen.append(request.headers.get("last-event-id"))
        if len(last_seen) == 1:
            return events(event('{"jsonrpc":"2.0","method":"n/second"}', "e2"))
        return events(event(result(waiting[0], content=[{"type": "text", "text": "at last"}]), "e3"))

    waiting: list[Json] = []
    with served(Script(answer, stream)) as url:
        async with behind_url(url) as client:
            said = await client.call("chat", {"prompt": "x"})
    assert text_of(said["result"]) == "at last"
    assert last_seen == ["e1", "e2"]
    assert [b"n/first" in client.lines[0], b"n/second" in client.lines[1]] == [True, True]
    assert [turn.outcome for turn in kept(all_kept)] == [Outcome.ANSWERED]


@pytest.mark.parametrize("stateless", [False, True], ids=["2025-11-25", "2026-07-28"])
async def test_a_cancelled_call_is_cancelled_as_its_protocol_version_says(all_kept: Runtime, stateless: bool) -> None:
    closed: list[str] = []

    def answer(_: Request, message: Json) -> Response:
        match message["method"]:
            case "initialize":
                return as_json(result(message, protocolVersion="2025-11-25"))
            case "tools/list":
                return as_json(result(message, tools=[{"name": "chat", "inputSchema": {"type": "object"}}]))
            case "ping":
                return as_json(result(message))
            case _:
                return events(": open\n\n", then=asyncio.Event(), on_close=lambda: closed.append("closed"))

    script = Script(answer)
    with served(script) as url:
        async with behind_url(url) as client:
            if not stateless:
                await initialize(client)
            meta = {"_meta": STATELESS} if stateless else {}
            number = client.request("tools/call", {"name": "chat", "arguments": {"prompt": "x"}, **meta})
            while not script.of("tools/call"):
                await asyncio.sleep(0.01)
            client.send("notifications/cancelled", {"requestId": number})
            await client.ask("ping", dict(meta))
            while stateless and not closed:
                await asyncio.sleep(0.01)
            told = script.of("notifications/cancelled")
            assert (len(told), len(closed)) == ((0, 1) if stateless else (1, 0))
            while kept(all_kept)[0].outcome is Outcome.RUNNING:
                await asyncio.sleep(0.01)
    assert [turn.outcome for turn in kept(all_kept)] == [Outcome.CANCELLED]


@pytest.mark.parametrize("way", ["json", "sse"])
async def test_fifty_megabytes_go_there_and_back(runtime: Runtime, way: str) -> None:
    text = "x" * 50_000_000

    def answer(_: Request, message: Json) -> Response:
        said = result(message, text=message["params"]["text"])
        return as_json(said) if way == "json" else events(event(said))

    with served(Script(answer)) as url:
        async with behind_url(url) as client:
            request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "x", "params": {"text": text}})
            sending = asyncio.create_task(client.send_large(request.encode()))
            assert (await client.answer(1))["result"]["text"] == text
            await sending


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────────────


def _status(status: int) -> Callable[[Request, Any], Response]:
    return lambda _request, _message: Response("<html>no JSON</html>", status, media_type="text/html")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (_status(401), ["wants to know who is asking (HTTP 401)", "--header 'Authorization: Bearer …'"]),
        (_status(403), ["does not allow this (HTTP 403)", "ask whoever runs the server"]),
        (_status(404), ["There is no MCP server at", "(HTTP 404)", "check the path in --url"]),
        (_status(429), ["asked too often (HTTP 429)"]),
        (_status(500), ["failed (HTTP 500)", "try again later"]),
        (_status(503), ["failed (HTTP 503)"]),
        (_status(200), ["did not answer as an MCP server does (HTTP 200)", "check the address in --url"]),
        (lambda _, __: Response(status_code=202), ["did not answer as an MCP server does (HTTP 202)"]),
        (lambda _, __: as_json("no JSON"), ["sent what is no JSON"]),
        (lambda _, __: events(": nothing\n\n"), ["ended its response without an answer", "is not known"]),
    ],
)  # fmt: skip
async def test_an_http_fault_is_an_error_in_clear_words_and_a_failed_turn(
    all_kept: Runtime, answer: Any, words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def listing_first(request: Request, message: Json) -> Response:
        if message["method"] == "tools/list":
            return as_json(result(message, tools=[{"name": "chat", "inputSchema": {"type": "object"}}]))
        response: Response = answer(request, message)
        return response

    with served(Script(listing_first)) as url:
        async with behind_url(f"{url}?key=s3cret-in-the-address", Authorization=SECRET) as client:
            error = (await client.call("chat", {"prompt": "x"}))["error"]
    assert error["code"] == -32000
    for word in words:
        assert word in error["message"]
        assert word in caplog.text
    assert "s3cret" not in caplog.text + str(error)
    assert [turn.outcome for turn in kept(all_kept)] == [Outcome.FAILED]


async def test_the_servers_own_error_is_passed_on_whatever_the_http_status(all_kept: Runtime) -> None:
    body = '{"jsonrpc":"2.0","id":1001,"error":{"code":-32602,"message":"no","data":{"x":1.10}},"z":1}'
    before_its_id_was_read = '{"jsonrpc":"2.0","id":null,"error":{"code":-32020,"message":"mismatch"}}'
    bodies = iter([body, before_its_id_was_read])
    with served(Script(lambda _, __: as_json(next(bodies), 400))) as url:
        async with behind_url(url) as client:
            await client.ask("x")
            second = await client.ask("x")
    assert client.lines[0].decode() == body
    assert second["error"] == {"code": -32020, "message": "mismatch"}


async def test_a_redirect_to_another_origin_is_refused_and_nothing_is_sent_there(runtime: Runtime) -> None:
    other = Script(lambda _, message: as_json(result(message)))
    with served(other) as elsewhere:
        with served(Script(lambda _, __: RedirectResponse(f"{elsewhere}?key=s3cret", 307))) as url:
            async with behind_url(url, Authorization=SECRET) as client:
                error = (await client.ask("ping"))["error"]
    assert f"redirects to {elsewhere}, which is not followed" in error["message"]
    assert "give its address to --url" in error["message"]
    assert "s3cret" not in str(error)
    assert other.seen == []


async def test_a_redirect_within_the_origin_is_followed_with_the_message(runtime: Runtime) -> None:
    def answer(request: Request, message: Json) -> Response:
        if request.url.path == "/mcp":
            return RedirectResponse("/mcp/", 307)
        return as_json(result(message, there=True))

    with served(Script(answer)) as url:
        async with behind_url(url, Authorization=SECRET) as client:
            assert (await client.ask("ping"))["result"] == {"there": True}
    endless = Script(lambda request, _: RedirectResponse(request.url.path, 308))
    with served(endless) as url:
        async with behind_url(url) as client:
            assert "redirects for ever" in (await client.ask("ping"))["error"]["message"]


async def test_a_redirect_that_would_lose_the_message_is_refused(runtime: Runtime) -> None:
    with served(Script(lambda _, __: RedirectResponse("/mcp/", 303))) as url:
        async with behind_url(url) as client:
            assert "is not followed" in (await client.ask("ping"))["error"]["message"]


async def test_a_certificate_that_cannot_be_verified_is_named(runtime: Runtime, tmp_path: Path) -> None:
    script = Script(lambda _, message: as_json(result(message)))
    with served(script, certificate=self_signed(tmp_path)) as url:
        async with behind_url(url, Authorization=SECRET) as client:
            error = (await client.ask("ping"))["error"]
        assert "certificate" in error["message"]
        assert "cannot be verified: self-signed certificate" in error["message"]
        assert "SSL_CERT_FILE" in error["message"]
        assert script.seen == []


async def test_http_where_https_was_meant_is_said(runtime: Runtime) -> None:
    with served(Script(lambda _, message: as_json(result(message)))) as url:
        async with behind_url(url.replace("http:", "https:")) as client:
            error = (await client.ask("ping"))["error"]
    assert "No TLS connection to https://127.0.0.1" in error["message"]


async def test_a_server_that_is_not_there_is_named(all_kept: Runtime) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/mcp"
        async with behind_url(url) as client:
            error = (await client.ask("ping"))["error"]
    assert f"{url} cannot be reached" in error["message"]
    assert "check whether it runs" in error["message"]


async def test_an_event_that_is_no_message_is_said_and_kept_from_the_client(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    with served(Script(lambda _, message: events(event("no JSON"), event(result(message))))) as url:
        async with behind_url(url) as client:
            await client.ask("ping")
    assert len(client.lines) == 1
    assert "sent an event that is no message of the protocol" in caplog.text


async def test_a_client_that_goes_ends_the_session_and_records_what_runs(all_kept: Runtime) -> None:
    def answer(_: Request, message: Json) -> Response:
        match message["method"]:
            case "initialize":
                return as_json(result(message, protocolVersion="2025-11-25"), **{"Mcp-Session-Id": "s"})
            case "tools/list":
                return as_json(result(message, tools=[{"name": "chat", "inputSchema": {"type": "object"}}]))
            case _:
                return events(": open\n\n", then=asyncio.Event())

    script = Script(answer)
    with served(script) as url:
        async with behind_url(url) as client:
            await initialize(client)
            client.request("tools/call", {"name": "chat", "arguments": {"prompt": "x"}})
            while not script.of("tools/call"):
                await asyncio.sleep(0.01)
    assert client.exit_code == 0
    assert script.seen[-1].method == "DELETE"
    assert [turn.outcome for turn in kept(all_kept)] == [Outcome.CANCELLED]
