"""What a turn costs in requests, counted by the gateway; and whose connections they go over.

Run as a program, this file is the process that forks: `test_requests.py FUNCTION URL KEY`.
"""

import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from mcp.server.mcpserver import MCPServer
from mcp_wire import called
from servers.gateway_faults import trickle
from servers.postgres_cluster import PostgresCluster
from servers.supabase_stack import SupabaseStack

from perdure import persisted
from perdure.middleware.persistence.stores.supabase import SupabaseStore
from perdure.middleware.persistence.supabase_api.client import SupabaseApi
from perdure.middleware.persistence.turn import Window
from perdure.testing.store_bench import at_once
from perdure.testing.turns import a_turn, answered

WINDOW = Window(20, 8_000)
RPC = "/rest/v1/rpc/"
PATIENCE = 60


@pytest.fixture(scope="module")
def stack(supabase_cluster: PostgresCluster) -> Iterator[SupabaseStack]:
    with SupabaseStack(supabase_cluster) as made:
        yield made


@pytest.fixture(autouse=True)
def _emptied(stack: SupabaseStack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.empty()
    monkeypatch.setenv("USE_SUPABASE", "true")
    monkeypatch.setenv("SUPABASE_URL", stack.url)
    monkeypatch.setenv("SUPABASE_KEY", stack.secret_key)


@pytest.fixture
def store(stack: SupabaseStack) -> Iterator[SupabaseStore]:
    made = SupabaseStore(SupabaseApi(stack.url, stack.secret_key))
    yield made
    made.close()


def keep(store: SupabaseStore, prompt: str, name: str = "c") -> list[str]:
    """Keep a turn; the prompts of the history that it was given."""
    turn = a_turn(prompt, continuation_id=name)
    begun = store.begin(turn, WINDOW)
    store.finish(answered(replace(turn, place=begun.place), f"answer to {prompt}"))
    return [earlier.prompt for earlier in begun.history]


def asked(stack: SupabaseStack) -> list[str]:
    """What was requested since it was asked last."""
    requests = [f"{request.method} {request.path.removeprefix(RPC)}" for request in stack.requests]
    already = _seen.get(stack.database, 0)
    _seen[stack.database] = len(requests)
    return requests[already:]


_seen: dict[str, int] = {}


@pytest.fixture(autouse=True)
def _none_seen(_emptied: None) -> None:
    _seen.clear()


def test_a_turn_is_two_requests_and_its_history_comes_with_the_first(
    store: SupabaseStore, stack: SupabaseStack
) -> None:
    keep(store, "first")
    assert asked(stack) == ["POST begin_turns", "POST finish_turns"], "the very first makes no others either"
    keep(store, "second")
    asked(stack)
    assert keep(store, "third") == ["first", "second"]
    assert asked(stack) == ["POST begin_turns", "POST finish_turns"]


def tools(folder: Path) -> MCPServer:
    server = MCPServer("files")

    @server.tool()
    @persisted(file_roots=[str(folder)])
    def write(names: list[str], text: str) -> list[str]:
        for name in names:
            (folder / name).write_text(f"{text} {name}")
        return [str(folder / name) for name in names]

    return server


async def test_each_small_file_is_one_request_more(stack: SupabaseStack, tmp_path: Path) -> None:
    server, conversation = tools(tmp_path), {"continuation_id": "c"}
    first = await called(server, "write", {"names": ["a"], "text": "first", **conversation})
    assert first["_meta"]["perdure/persisted"] is True
    looked = Counter(asked(stack))
    assert looked["POST store_status"] == 1, "what is kept in all, for the quota"
    assert looked["GET /storage/v1/bucket/mcp-files"] == 1, "the bucket's limit"
    assert looked.total() == 2 + 2 + 1
    for names in ([], ["a"], ["a", "b", "c"]):
        result = await called(server, "write", {"names": names, "text": f"{len(names)}", **conversation})
        assert [item["text"].startswith("storage://") for item in result["content"][: len(names)]] == [True] * len(
            names
        )
        requests = asked(stack)
        uploads = [request for request in requests if request.startswith("POST /storage/v1/object/mcp-files/local/")]
        assert len(uploads) == len(names)
        assert len(requests) == 2 + len(names), requests


def test_importing_making_and_listing_tools_asks_nothing(stack: SupabaseStack, tmp_path: Path) -> None:
    script = f"""
import asyncio, sys
connected = []
sys.addaudithook(lambda event, given: connected.append(given) if event == "socket.connect" else None)
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from mcp.server.mcpserver import MCPServer
from mcp_wire import listed
from perdure import persisted
from perdure.middleware.persistence import wiring
server = MCPServer("lazy")
@server.tool()
@persisted
def chat(prompt: str) -> str:
    return prompt
runtime = wiring.runtime()
assert len(asyncio.run(listed(server))) == 1
stores = runtime.engine.store._store, runtime.keeper.file_store
print(*(type(store).__name__ for store in stores), connected, "supabase" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ran.stdout.split() == ["SupabaseStore", "SupabaseFileStore", "[]", "False"], ran.stderr
    assert stack.requests == []


def test_one_client_is_shared_by_all_threads(stack: SupabaseStack) -> None:
    of_the_test = ports_to(stack.url)
    api = SupabaseApi(stack.url, stack.secret_key)
    store = SupabaseStore(api)
    clients = at_once(lambda _: (api.client, api.http), range(16))
    assert len({id(client) for client, _ in clients}) == len({id(http) for _, http in clients}) == 1
    at_once(lambda number: keep(store, f"{number}"), range(16))
    before = ports_to(stack.url) - of_the_test
    assert 1 <= len(before) <= 16
    for number in range(5):
        keep(store, f"again {number}")
    assert ports_to(stack.url) - of_the_test == before, "connections are used again"
    assert len(asked(stack)) <= 2 * (16 + 5), "what begins at once may go together"
    store.close()
    assert ports_to(stack.url) == of_the_test


# ── forks ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("end", ["os._exit", "sys.exit"])
def test_a_child_uses_connections_of_its_own_and_its_end_leaves_its_parents_alone(
    stack: SupabaseStack, end: str
) -> None:
    said = run(fork_while_idle, stack, end)
    assert len(said["of the parent"]) >= 1
    assert said["of the parent afterwards"] == said["of the parent"]
    assert len(said["of the child"]) == 1
    assert not set(said["of the child"]) & set(said["of the parent"])
    assert prompts(stack) == {"parent 0", "parent 1", "parent 2", "parent 3", "child", "again", "parent afterwards"}
    assert len(asked(stack)) <= 2 * 7, "nobody had to ask twice"


def test_a_child_that_is_forked_while_another_thread_is_in_a_call_is_not_left_hanging(stack: SupabaseStack) -> None:
    stack.order(trickle("headers", 0.002).on(RPC, skip=2))
    assert run(fork_while_in_use, stack) == "written"
    assert prompts(stack) == {"first", "under way", "child", "parent afterwards"}
    assert len(asked(stack)) == 2 * 4


def prompts(stack: SupabaseStack) -> set[str]:
    return {prompt for (prompt,) in stack.execute("select content from chat_messages where part = 0")}


def ports_to(url: str) -> set[int]:
    """The local ports of this process's connections to `url`."""
    port = int(url.rpartition(":")[2])
    return {
        connection.laddr.port
        for connection in psutil.Process().net_connections("tcp")
        if connection.raddr and connection.raddr.port == port and connection.status == psutil.CONN_ESTABLISHED
        if connection.laddr.port != port
    }


def run(function: Callable[..., object], stack: SupabaseStack, *arguments: str) -> Any:
    """What `function` returns in a process of its own, which leaves nothing on stderr."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", __file__, function.__name__]
    done = subprocess.run(
        [*command, stack.url, stack.secret_key, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout.splitlines()[-1])


# ── the other process ────────────────────────────────────────────────────────────────────────────────────────


def fork_while_idle(url: str, key: str, end: str) -> dict[str, list[int]]:
    store = SupabaseStore(SupabaseApi(url, key))
    at_once(lambda number: keep(store, f"parent {number}"), range(4))
    of_the_parent = ports_to(url)

    def in_the_child() -> None:
        keep(store, "child")
        keep(store, "again")
        print(json.dumps(sorted(ports_to(url) - of_the_parent)))

    of_the_child = forked(in_the_child, end)
    keep(store, "parent afterwards")
    return {
        "of the parent": sorted(of_the_parent),
        "of the child": of_the_child,
        "of the parent afterwards": sorted(ports_to(url)),
    }


def fork_while_in_use(url: str, key: str) -> str:
    store = SupabaseStore(SupabaseApi(url, key), timeout=20)
    keep(store, "first")
    calling = threading.Thread(target=keep, args=(store, "under way"))
    calling.start()
    time.sleep(0.3)  # its reply trickles for longer
    assert calling.is_alive()
    forked(lambda: keep(store, "child") and None, "os._exit")
    calling.join()
    keep(store, "parent afterwards")
    return "written"


def forked(work: Callable[[], None], end: str) -> list[int]:
    """What a child says that does `work` and ends as told."""
    ours, its = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(its, 1)
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        if end == "os._exit":
            os._exit(status)
        os.close(ours)
        sys.exit(status)  # with all that an interpreter does at its end
    os.close(its)
    with open(ours) as said:
        heard = said.read()
    if status := os.waitpid(child, 0)[1]:
        raise ChildProcessError(f"the child ended with {status}")
    return json.loads(heard) if heard else []


def main() -> None:
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))


if __name__ == "__main__":
    main()
