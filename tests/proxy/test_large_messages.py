"""A message of 50 MB in both directions: with a constant factor of memory, and no faster than the other side reads."""

import asyncio
import json
import os
import time
from pathlib import Path

import psutil
import pytest
from conftest import Activate
from proxy.conftest import RAW_SERVER, ProxyProcess, behind

from perdure.middleware.persistence.wiring import Runtime
from perdure.settings import ToolSettings

LARGE = 50_000_000


@pytest.mark.parametrize("is_kept", [True, False])
async def test_fifty_megabytes_go_to_the_server_and_come_back(activate: Activate, is_kept: bool) -> None:
    activate(defaults=ToolSettings(enabled=is_kept, redact=False))
    text = "x" * LARGE
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    call["params"] = {"name": "echo", "arguments": {"prompt": text}}  # type: ignore[assignment]
    async with behind() as client:
        sending = asyncio.create_task(client.send_large(json.dumps(call).encode()))
        answer = await client.answer(1)
        await sending
    assert answer["result"]["content"][0]["text"] == f"heard {text}"
    assert ("_meta" in answer["result"]) == is_kept


def test_memory_for_a_large_answer_is_a_constant_factor_of_it(tmp_path: Path) -> None:
    with ProxyProcess(tmp_path, "--", *RAW_SERVER, PERDURE_ENABLED="false") as proxy:
        process = psutil.Process(proxy.process.pid)
        proxy.call("big", {"size": 1000})
        before = process.memory_info().rss
        for _ in range(3):
            proxy.call("big", {"size": LARGE})
        most = peak(proxy.process.pid) - before
    assert most < 5 * LARGE, f"{most / LARGE:.1f} times the message"


def test_a_client_that_does_not_read_holds_the_server_up_and_not_the_proxys_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flood = (
        "import sys, json\n"
        "line = json.dumps({'jsonrpc': '2.0', 'method': 'notifications/message', 'params': 'x' * 10000}) + '\\n'\n"
        "for number in range(20000):\n"
        "    sys.stdout.write(line)\n"
        "sys.stdout.flush()\n"
        "print('all is written', file=sys.stderr, flush=True)\n"
        "sys.stdin.read()\n"
    )
    (tmp_path / "flood.py").write_text(flood)
    with ProxyProcess(tmp_path, "--", RAW_SERVER[0], str(tmp_path / "flood.py")) as proxy:
        stdout = proxy.process.stdout
        assert stdout is not None
        assert os.read(stdout.fileno(), 1)
        process = psutil.Process(proxy.process.pid)
        sizes = [process.memory_info().rss]
        for _ in range(10):
            time.sleep(0.1)
            sizes.append(process.memory_info().rss)
        assert max(sizes) - sizes[0] < 30_000_000
        assert "all is written" not in proxy.stderr
        lines = 1
        while lines < 20000:
            assert stdout.readline()
            lines += 1
        proxy.wait_for("all is written")


async def test_small_messages_are_not_slower_for_a_large_one_that_went_before(runtime: Runtime) -> None:
    """What was buffered for it is let go of: no cost that grows with what has passed."""
    async with behind() as client:
        took = []
        for size in (1000, LARGE, 1000):
            started = time.perf_counter()
            for _ in range(1 if size == LARGE else 100):
                await client.call("big", {"size": size})
            took.append(time.perf_counter() - started)
    assert took[2] < 10 * took[0] + 0.5


def peak(pid: int) -> int:
    """The most memory that it ever had, in bytes."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
