"""Files that a tool behind the proxy gives out are kept, read as resources, and brought back; progress only rises."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from mcp_wire import text_of
from proxy.conftest import STATELESS, RawClient, behind

from perdure.middleware.persistence.wiring import Runtime

LARGE = 24_000_000


async def given_out(client: RawClient, path: Path, size: int = 100, **params: Any) -> str:
    result = (await client.call("file", {"write": str(path), "size": size}, **params))["result"]
    return text_of(result)


def progress(client: RawClient, token: Any) -> list[dict[str, Any]]:
    messages = [json.loads(line) for line in client.lines]
    told = [message["params"] for message in messages if message.get("method") == "notifications/progress"]
    assert all(params["progressToken"] == token for params in told)
    return told


async def test_a_path_becomes_a_storage_uri_that_works_as_an_argument(all_kept: Runtime, tmp_path: Path) -> None:
    async with behind() as client:
        uri = await given_out(client, tmp_path / "report.bin")
        assert uri.startswith("storage://mcp-files/")
        (tmp_path / "report.bin").unlink()
        size = text_of((await client.call("file", {"path": uri}))["result"])
    assert size == "100"


@pytest.mark.parametrize("stateless", [False, True], ids=["2025-11-25", "2026-07-28"])
async def test_a_stored_file_is_read_as_a_resource_without_asking_the_server(
    all_kept: Runtime, tmp_path: Path, stateless: bool
) -> None:
    meta = {"_meta": STATELESS} if stateless else {}
    async with behind() as client:
        uri = await given_out(client, tmp_path / "report.bin")
        result = (await client.ask("resources/read", {"uri": uri, **meta}))["result"]
        missing = await client.ask("resources/read", {"uri": "storage://mcp-files/local/none", **meta})
        others = (await client.ask("resources/read", {"uri": "storage://another/x", **meta}))["result"]
        received = " ".join((await client.ask("test/received"))["result"]["lines"])
    [content] = result.pop("contents")
    assert base64.b64decode(content["blob"]) == (tmp_path / "report.bin").read_bytes()
    assert result == ({"resultType": "complete", "ttlMs": 0, "cacheScope": "private"} if stateless else {})
    assert missing["error"]["code"] == -32602
    assert missing["error"]["data"] == {"uri": "storage://mcp-files/local/none"}
    assert others["method"] == "resources/read"
    assert received.count("resources/read") == 1


async def test_a_file_that_is_not_the_callers_is_refused_before_the_tool_runs(all_kept: Runtime) -> None:
    async with behind() as client:
        answer = await client.call("file", {"path": "storage://mcp-files/local/none"}, _meta=STATELESS)
        received = " ".join((await client.ask("test/received"))["result"]["lines"])
    assert answer["result"]["isError"] is True
    assert answer["result"]["resultType"] == "complete"
    assert "tools/call" not in received


async def test_progress_of_a_large_file_has_the_clients_token_and_rises_with_the_tools_own(
    all_kept: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.middleware.call_files._REPORT_EVERY", 0.0)
    async with behind() as client:
        uri = await given_out(client, tmp_path / "first.bin", LARGE)
        client.lines.clear()
        arguments = {"path": uri, "write": str(tmp_path / "second.bin"), "size": LARGE}
        await client.call("file", arguments, _meta={"progressToken": "tok"})
    told = progress(client, "tok")
    values = [params["progress"] for params in told]
    assert values == sorted(set(values))
    assert [value for value in values if value in (1, 2)] == [1, 2]
    assert any("bringing back" in params.get("message", "") for params in told[: values.index(1)])
    assert any("keeping" in params.get("message", "") for params in told[values.index(2) :])
    assert "result" in json.loads(client.lines[-1])  # no progress after the answer


async def test_without_a_token_there_is_no_progress_of_ours(
    all_kept: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.middleware.call_files._REPORT_EVERY", 0.0)
    async with behind() as client:
        await given_out(client, tmp_path / "first.bin", LARGE)
    assert not any("message" in params for params in progress(client, None))
