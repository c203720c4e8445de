"""Conversations are resources behind the proxy too, of a server in any language that may have none of its own."""

import sys
from typing import Any

import pytest
from conftest import Activate
from proxy.conftest import STATELESS, RawClient, behind

TEMPLATE = {"type": "ref/resource", "uri": "conversation://{continuation_id}"}

BARE = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        answer = {"jsonrpc": "2.0", "id": asked["id"]}
        match asked["method"]:
            case "initialize":
                answer["result"] = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "x"}}
            case "tools/list":
                answer["result"] = {"tools": [{"name": "chat", "inputSchema": {"type": "object"}}]}
            case "tools/call":
                answer["result"] = {"content": [{"type": "text", "text": "good day"}]}
            case _:
                answer["error"] = {"code": -32601, "message": "Method not found"}
        print(json.dumps(answer), flush=True)
"""

both_eras = pytest.mark.parametrize("meta", [{}, {"_meta": STATELESS}], ids=["2025-11-25", "2026-07-28"])


async def asked(client: RawClient, method: str, meta: dict[str, Any], **params: Any) -> dict[str, Any]:
    return (await client.ask(method, {**params, **meta}))["result"]


@both_eras
async def test_they_are_listed_read_and_completed(activate: Activate, meta: dict[str, Any]) -> None:
    activate(defaults={"enabled": True}, conversation_resources=True)
    async with behind([sys.executable, "-c", BARE]) as client:
        await client.ask(
            "tools/call", {"name": "chat", "arguments": {"prompt": "hello", "continuation_id": "trip"}, **meta}
        )
        page = await asked(client, "resources/list", meta)
        [resource] = page["resources"]
        assert resource["uri"] == "conversation://trip"
        assert page.get("cacheScope") == ("private" if meta else None)
        [template] = (await asked(client, "resources/templates/list", meta))["resourceTemplates"]
        assert template["uriTemplate"] == "conversation://{continuation_id}"
        [content] = (await asked(client, "resources/read", meta, uri=resource["uri"]))["contents"]
        assert "> good day" in content["text"]
        argument = {"name": "continuation_id", "value": "tr"}
        done = await asked(client, "completion/complete", meta, ref=TEMPLATE, argument=argument)
        assert done["completion"] == {"values": ["trip"], "total": 1, "hasMore": False}
        unknown = await client.ask("resources/read", {"uri": "conversation://unknown", **meta})
        assert (unknown["error"]["code"], unknown["error"]["data"]) == (-32602, {"uri": "conversation://unknown"})
        other = {"type": "ref/prompt", "name": "x"}
        assert (await client.ask("completion/complete", {"ref": other, "argument": argument}))["error"][
            "code"
        ] == -32601


async def test_without_the_setting_the_server_alone_answers(activate: Activate) -> None:
    activate(defaults={"enabled": True})
    async with behind([sys.executable, "-c", BARE]) as client:
        for method in ("resources/list", "resources/templates/list", "resources/read"):
            assert (await client.ask(method, {"uri": "conversation://c"}))["error"]["code"] == -32601
