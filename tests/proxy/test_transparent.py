"""Promise: what is not a persisted tool passes the proxy as the bytes it came in, in both directions."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp_wire import kept, without_announcement
from proxy.conftest import RAW_SERVER, STATELESS, RawClient, behind

from perdure.middleware.persistence.wiring import Runtime
from perdure.middleware.tool_schema import continuation_id_schema

HANDSHAKE = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}

DIALOGUE: list[str] = [
    json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HANDSHAKE}),
    '{"jsonrpc":"2.0","method":"notifications/initialized"}',
    '{"jsonrpc": "2.0",  "id": "a string", "method": "ping"}',
    '{"method":"resources/list","id":1,"jsonrpc":"2.0","params":{"cursor":"x","_meta":{"progressToken":"p"}}}',
    '{"jsonrpc":"2.0","id":2,"method":"resources/templates/list"}',
    '{"jsonrpc":"2.0","id":3,"method":"resources/read","params":{"uri":"file:///x"}}',
    '{"jsonrpc":"2.0","id":4,"method":"resources/subscribe","params":{"uri":"file:///x"}}',
    '{"jsonrpc":"2.0","id":5,"method":"prompts/list","params":{}}',
    '{"jsonrpc":"2.0","id":6,"method":"prompts/get","params":{"name":"p","arguments":{"a":"1"}}}',
    '{"jsonrpc":"2.0","id":7,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"p"}}}',
    '{"jsonrpc":"2.0","id":8,"method":"logging/setLevel","params":{"level":"debug"}}',
    '{"jsonrpc":"2.0","id":9,"method":"tasks/get","params":{"taskId":"t"}}',
    '{"jsonrpc":"2.0","id":10,"method":"server/discover","params":{"_meta":{"x":1.50}}}',
    '{"jsonrpc":"2.0","id":11,"method":"of/the/future","params":[1,2,{"x":1e999}],"future":{"z":1,"a":2}}',
    '{"jsonrpc":"2.0","id":12.5,"method":"numbers","params":{"long":0.1000000000000000055511151231257827,"big":'
    + "9" * 5000
    + ',"zero":-0.0}}',
    '{"jsonrpc":"2.0","id":"\\ud800\\u0000é","method":"text","params":{"x":"é\\u00e9\\ud800\u2028","x":"twice"}}',
    '{"jsonrpc":"2.0","method":"notifications/roots/list_changed","params":{"future":1.10}}',
    '{"jsonrpc":"2.0","method":"notifications/of/the/future"}',
    '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1.10}}',
    '{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"nobody\'s","reason":"r"}}',
    '{"jsonrpc":"2.0","id":77,"result":{"nobody":"asked"}}',
    '{"jsonrpc":"2.0","id":78,"error":{"code":-1,"message":"nobody asked","data":1.10}}',
    '[{"jsonrpc":"2.0","id":20,"method":"ping"},{"jsonrpc":"2.0","method":"notifications/x"},'
    '{"jsonrpc":"2.0","id":21,"method":"of/the/future","params":{"x":1.10}}]',
    "this is no JSON",
    '{"jsonrpc":"2.0","id":13,"method":"tools/list","params":{"cursor":"c"}}',
    '{"jsonrpc":"2.0","id":14,"method":"tools/call","params":{"name":"echo","arguments":{"prompt":"x","n":1e999}}}',
    '{"jsonrpc":"2.0","id":15,"method":"tools/call","params":{"name":"error","arguments":{}}}',
    '{"jsonrpc":"2.0","id":16,"method":"tools/call","params":{"name":"no such tool"},"future":1.10}',
    '{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{"name":17,"arguments":"none"}}',
    '{"jsonrpc":"2.0","method":"tools/call","params":{"name":"echo"}}',
    '{"jsonrpc":"2.0","id":18,"method":"tools/call","params":{"name":"progress","_meta":{"progressToken":"tok"}}}',
    '{"jsonrpc":"2.0","id":19,"method":"tools/call","params":{"name":"ask"}}',
]

FROM_THE_SERVER = '{"jsonrpc": "2.0", "id": "server-1", "result": {"role": "assistant", "future": 1.10}}'
"""The client's answer to the server's own request."""


@asynccontextmanager
async def bare(command: list[str] = RAW_SERVER) -> AsyncIterator[RawClient]:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**28
    )
    assert process.stdin is not None
    assert process.stdout is not None
    client = RawClient(process.stdout, process.stdin.get_extra_info("pipe").fileno())
    try:
        yield client
    finally:
        process.kill()
        await process.wait()


async def recorded(client: RawClient) -> tuple[list[bytes], list[str]]:
    """What the client saw, and what the server."""
    for line in DIALOGUE:
        client.send_line(line)
    while b"sampling/createMessage" not in await client.line():
        pass
    client.send_line(FROM_THE_SERVER)
    await client.answer(19)
    seen = list(client.lines)
    return seen, (await client.ask("test/received"))["result"]["lines"]


async def test_a_dialogue_of_every_kind_of_message_is_the_same_byte_for_byte(runtime: Runtime) -> None:
    async with bare() as client:
        expected_by_client, expected_by_server = await recorded(client)
    async with behind() as client:
        by_client, by_server = await recorded(client)

    assert by_server == expected_by_server
    assert by_client == expected_by_client
    assert len(by_client) > 25
    assert kept(runtime) == []


async def test_with_every_tool_kept_only_tools_differ_and_only_as_promised(all_kept: Runtime) -> None:
    async with bare() as client:
        expected, _ = await recorded(client)
    async with behind() as client:
        seen, _ = await recorded(client)

    def parsed(line: bytes) -> Any:
        return json.loads(line, parse_int=lambda digits: int(digits[:100]))

    ours = {13, 14, 18, 19}

    def others(lines: list[bytes]) -> list[bytes]:
        return [line for line in lines if not ours & {_id(line)}]

    assert sorted(others(seen)) == sorted(others(expected))
    by_id = {_id(line): parsed(line) for line in seen}
    for line in expected:
        if (number := _id(line)) not in ours:
            continue
        wanted, found = parsed(line), by_id[number]
        if number == 13:
            for tool in found["result"]["tools"]:
                assert tool["inputSchema"]["properties"].pop("continuation_id") == continuation_id_schema()
        else:
            found = {**found, "result": without_announcement(found["result"])}
        assert json.dumps(found) == json.dumps(wanted)  # the order of the fields, too
    # "no such tool" is nobody's turn, and 17 is no call at all
    assert sorted(turn.tool for turn in kept(all_kept)) == ["ask", "echo", "error", "progress"]


def _id(line: bytes) -> Any:
    message = json.loads(line, parse_int=lambda digits: int(digits[:100]))
    return message.get("id") if isinstance(message, dict) else None


@pytest.mark.parametrize("stateless", [False, True], ids=["2025-11-25", "2026-07-28"])
async def test_the_protocol_version_is_taken_from_the_handshake_or_from_the_request(
    all_kept: Runtime, stateless: bool
) -> None:
    async with behind() as client:
        if not stateless:
            await client.ask("initialize", HANDSHAKE)
        await client.call("echo", {"prompt": "x"}, **({"_meta": STATELESS} if stateless else {}))
    [turn] = kept(all_kept)
    assert turn.metadata["protocol_version"] == ("2026-07-28" if stateless else "2025-11-25")


async def test_the_list_that_perdure_asks_for_is_never_shown_to_the_client(all_kept: Runtime) -> None:
    async with behind() as client:
        await client.call("echo", {"prompt": "x"}, _meta={**STATELESS, "progressToken": 1, "other": 2})
        received = [json.loads(line) for line in (await client.ask("test/received"))["result"]["lines"]]
        lines = list(client.lines)
    [listing] = [message for message in received if message["method"] == "tools/list"]
    assert listing["id"].startswith("perdure-")
    assert listing["params"] == {"_meta": STATELESS}
    assert [_id(line) for line in lines] == [1001, 1002]


async def test_numbers_fields_and_their_order_survive_where_arguments_and_results_are_changed(
    all_kept: Runtime,
) -> None:
    raw = '{"z":1,"jsonrpc":"2.0","result":{"b":1e999,"content":[],"a":0.1000000000000000055511151231257827},"id":$ID}'
    exact = '"z":{"n":0.1000000000000000055511151231257827,"e":1e999,"i":' + "7" * 5000 + ',"m":-0},"a":1'
    async with behind() as client:
        first = await client.call("answer", {"raw": raw})
        identity = first["result"]["_meta"]["perdure/continuation-id"]
        answered = client.lines[-1].decode()
        client.send_line(
            '{"future":1.10,"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"later":2.50,"name":"arguments",'
            f'"arguments":{{"continuation_id":"{identity}",{exact}}}}}}}'
        )
        second = await client.answer("x")
    assert answered.startswith('{"z":1,"jsonrpc":"2.0","result":{"b":1e999,"content":[')
    assert '"a":0.1000000000000000055511151231257827' in answered
    line = second["result"]["content"][0]["text"]
    assert f'"arguments":{{{exact}}}' in line
    assert line.startswith('{"future":1.1,"jsonrpc":"2.0","id":"x"')
    assert "later" in line


@pytest.mark.parametrize(
    "answer",
    [
        '{"jsonrpc":"2.0","id":$ID,"result":null}',
        '{"jsonrpc":"2.0","id":$ID,"result":"text"}',
        '{"jsonrpc":"2.0","id":$ID,"result":{"content":7}}',
        '{"jsonrpc":"2.0","id":$ID,"result":{"content":["x"]}}',
        '{"jsonrpc":"2.0","id":$ID,"result":{"content":[],"_meta":3}}',
        '{"jsonrpc":"2.0","id":$ID}',
        '{"jsonrpc":"2.0","id":$ID,"error":"only text"}',
        '{"jsonrpc":"2.0","id":$ID,"error":{"code":1}}',
    ],
)
async def test_an_answer_that_is_no_tool_result_passes_as_it_is_and_is_a_failed_turn(
    all_kept: Runtime, answer: str
) -> None:
    async with behind() as client:
        number = client.request("tools/call", {"name": "answer", "arguments": {"raw": answer}})
        await client.answer(number)
    assert client.lines[-1].decode() == answer.replace("$ID", str(number))
    [turn] = kept(all_kept)
    assert turn.outcome == "failed"


async def test_a_task_that_is_to_bring_the_answer_passes_as_it_is(all_kept: Runtime) -> None:
    answer = '{"jsonrpc":"2.0","id":$ID,"result":{"task":{"taskId":"t","status":"working","ttl":1.50}}}'
    async with behind() as client:
        number = client.request("tools/call", {"name": "answer", "arguments": {"raw": answer}})
        await client.answer(number)
    assert client.lines[-1].decode() == answer.replace("$ID", str(number))


async def test_a_question_differs_by_the_envelope_around_its_state_which_the_server_never_sees(
    all_kept: Runtime,
) -> None:
    question = {"resultType": "input_required", "inputRequests": {"a": {"future": 1}}, "requestState": "s", "x": 1}
    raw = json.dumps({"jsonrpc": "2.0", "id": "ID", "result": question}).replace('"ID"', "$ID")
    async with behind() as client:
        first = (await client.call("answer", {"raw": raw}, _meta=STATELESS))["result"]
        more = {"_meta": STATELESS, "requestState": first["requestState"], "inputResponses": {"a": {}}}
        await client.call("answer", {"raw": raw}, **more)
        received = [json.loads(line) for line in (await client.ask("test/received"))["result"]["lines"]]
    assert first["requestState"] != "s"
    assert first | {"requestState": "s"} == question
    [_, second] = [message for message in received if message["method"] == "tools/call"]
    assert second["params"]["requestState"] == "s"
    assert second["params"]["inputResponses"] == {"a": {}}
    assert len(kept(all_kept)) == 1


async def test_a_json_rpc_error_is_passed_on_as_it_is_and_recorded(all_kept: Runtime) -> None:
    async with behind() as client:
        await client.call("error", {})
    error = '{"code":-32042,"message":"not today","data":{"x":1.10},"extra":1}'
    assert client.lines == [f'{{"jsonrpc":"2.0","id":1001,"error":{error},"future":[]}}'.encode()]
    [turn] = kept(all_kept)
    assert turn.outcome == "failed"
    assert turn.answer is not None
    assert turn.answer.error == {"type": "AnsweredWithError", "message": "JSON-RPC error -32042: not today"}


async def test_a_list_of_several_pages_is_known_as_a_whole(all_kept: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAW_TWO_PAGES", "1")
    async with behind() as client:
        first = await client.ask("tools/list")
        assert first["result"]["nextCursor"] == "more"
        for tool in ("echo", "progress"):
            await client.call(tool, {"prompt": "x"})
    assert sorted(turn.tool for turn in kept(all_kept)) == ["echo", "progress"]


async def test_a_server_that_takes_too_long_to_list_its_tools_is_called_all_the_same(
    all_kept: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAW_LATE_LIST", "1")
    monkeypatch.setattr("perdure.middleware.proxy.behind._LISTING_SECONDS", 0.2)
    async with behind() as client:
        answer = await client.call("echo", {"prompt": "x"})
        await client.ask("test/received")  # before which the list comes at last
    assert answer["result"]["content"][0]["text"] == "heard x"
    assert answer["result"]["_meta"]["perdure/persisted"] is True
    assert len(client.lines) == 2


async def test_an_environment_reaches_the_server_whole(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET_OF_THE_SERVER", "x")
    code = "import os, json; print(json.dumps({'jsonrpc': '2.0', 'method': 'env', 'params': dict(os.environ)}))"
    async with behind([sys.executable, "-c", code]) as client:
        assert json.loads(await client.line())["params"]["A_SECRET_OF_THE_SERVER"] == "x"
