"""A client that closes its pipes, dies, or ends the proxy: what runs is recorded, and no process stays."""

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from functools import partial
from pathlib import Path

import pytest
from mcp_wire import kept
from proxy.conftest import PATIENCE, RAW_SERVER, ProxyProcess, behind, left, running, turns_in_store

from perdure import Outcome
from perdure.middleware.persistence.wiring import Runtime
from perdure.middleware.proxy.child import started
from perdure.middleware.proxy.session import serve


def is_gone(mark: str) -> bool:
    """In a while: the system may take a moment to take a killed process away."""
    until = time.monotonic() + PATIENCE
    while running(mark):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def mark() -> str:
    return str(uuid.uuid4())


async def test_a_client_that_closes_stdin_ends_the_session_and_what_runs_is_cancelled(
    all_kept: Runtime, mark: str
) -> None:
    async with behind([*RAW_SERVER, mark]) as client:
        await client.call("echo", {"prompt": "x"})
        client.request("tools/call", {"name": "slow"})
    assert client.exit_code == 0
    assert left(mark) == []
    assert sorted(turn.outcome for turn in kept(all_kept)) == [Outcome.ANSWERED, Outcome.CANCELLED]


async def test_a_client_on_sockets_that_dies_before_it_has_read_everything_is_gone_like_any_other(
    all_kept: Runtime, mark: str
) -> None:
    ours, its = socket.socketpair()
    with its:
        session = asyncio.create_task(
            serve(partial(started, [*RAW_SERVER, mark]), os.dup(its.fileno()), os.dup(its.fileno()))
        )
        ours.sendall(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
        while not select.select([ours], [], [], 0)[0]:
            await asyncio.sleep(0.01)
        ours.close()  # with an answer in it: the other end's next read fails
        assert await asyncio.wait_for(session, PATIENCE) == 0
    assert left(mark) == []


async def test_what_was_asked_before_stdin_closed_is_still_answered(all_kept: Runtime) -> None:
    async with behind() as client:
        number = client.request("tools/call", {"name": "echo", "arguments": {"prompt": "x"}})
        client.close()
        assert "result" in await client.answer(number)
    assert [turn.outcome for turn in kept(all_kept)] == [Outcome.ANSWERED]


async def test_a_server_that_is_slow_to_start_still_answers_what_was_asked_before_stdin_closed(
    all_kept: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.middleware.proxy.session._TO_FINISH", 0.2)
    monkeypatch.setenv("RAW_STARTS_AFTER", "0.6")
    async with behind() as client:
        number = client.request("tools/call", {"name": "echo", "arguments": {"prompt": "x"}})
        client.close()
        assert "result" in await client.answer(number)
    assert [turn.outcome for turn in kept(all_kept)] == [Outcome.ANSWERED]


async def test_a_client_that_closed_stdin_and_then_ends_the_proxy_does_not_wait_for_an_answer(
    all_kept: Runtime, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.middleware.proxy.session._TO_ANSWER", 3600)
    monkeypatch.setenv("RAW_IGNORES", "1")
    async with behind([*RAW_SERVER, mark]) as client:
        client.request("tools/call", {"name": "slow", "arguments": {"prompt": "x"}})
        await client.ask("ping")
        client.close()
        await asyncio.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)
    assert client.exit_code == 128 + signal.SIGTERM
    assert left(mark) == []
    assert [turn.outcome for turn in kept(all_kept)] == [Outcome.CANCELLED]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=["TERM", "INT", "HUP"])
def test_a_proxy_that_is_told_to_end_records_what_runs_and_ends_its_server(
    tmp_path: Path, mark: str, number: signal.Signals
) -> None:
    with ProxyProcess(tmp_path, "--", *RAW_SERVER, mark) as proxy:
        proxy.send("tools/call", {"name": "slow", "arguments": {"prompt": "x"}})
        proxy.wait_for("slow has begun")
        proxy.process.send_signal(number)
        assert proxy.process.wait(PATIENCE) == 128 + number
        assert left(mark) == []
    [turn] = turns_in_store()
    assert (turn.prompt, turn.outcome) == ("x", Outcome.CANCELLED)


@pytest.mark.parametrize("way", ["stdin", "signal"])
def test_a_server_that_ignores_every_wish_to_end_is_killed(tmp_path: Path, mark: str, way: str) -> None:
    with ProxyProcess(tmp_path, "--", *RAW_SERVER, mark, RAW_IGNORES="1") as proxy:
        proxy.call("echo", {"prompt": "x"})
        if way == "stdin":
            proxy.process.stdin.close()  # type: ignore[union-attr]
        else:
            proxy.process.terminate()
        proxy.process.wait(PATIENCE)
        assert left(mark) == []


def test_a_client_that_dies_with_both_pipes_is_noticed_though_its_server_is_stuck(tmp_path: Path, mark: str) -> None:
    with ProxyProcess(tmp_path, "--", *RAW_SERVER, mark) as proxy:
        proxy.call("echo", {"prompt": "x"})
        [server] = [process for process in running(mark) if process.pid != proxy.process.pid]
        server.suspend()
        stdin, stdout = proxy.process.stdin, proxy.process.stdout
        assert stdin is not None
        assert stdout is not None
        os.set_blocking(stdin.fileno(), False)
        try:
            while True:  # until every pipe on the way is full
                os.write(stdin.fileno(), b'{"jsonrpc":"2.0","method":"x","params":"' + b"x" * 4000 + b'"}\n')
                time.sleep(0.0002)
        except BlockingIOError:
            pass
        stdout.close()  # and stdin stays open, as where another process has inherited it
        proxy.process.wait(PATIENCE)
        assert left(mark) == []


def test_a_proxy_that_is_killed_leaves_no_orphan_and_an_interrupted_turn(tmp_path: Path, mark: str) -> None:
    with ProxyProcess(tmp_path, "--", *RAW_SERVER, mark) as proxy:
        proxy.send("tools/call", {"name": "slow", "arguments": {"prompt": "x"}})
        proxy.wait_for("slow has begun")
        proxy.process.kill()
        proxy.process.wait()
        assert is_gone(mark)
    [turn] = turns_in_store()
    assert (turn.prompt, turn.outcome) == ("x", Outcome.RUNNING)  # and interrupted, when its lease is over


def test_nothing_that_a_proxy_prints_by_accident_reaches_the_client(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, threading, time\n"
        "def talk():\n"
        "    while True:\n"
        "        print('a library talks', flush=True)\n"
        "        time.sleep(0.01)\n"
        "if 'proxy' in sys.argv: import perdure.middleware.proxy.session as s; o = s.own_stdio\n"
        "if 'proxy' in sys.argv: s.own_stdio = lambda: (o(), threading.Thread(target=talk, daemon=True).start())[0]\n"
        "if 'proxy' in sys.argv: import perdure.middleware.proxy as p; p.own_stdio = s.own_stdio\n"
    )
    with ProxyProcess(tmp_path, "--", *RAW_SERVER, PYTHONPATH=str(tmp_path)) as proxy:
        proxy.wait_for("a library talks")
        proxy.call("echo", {"prompt": "x"})
        proxy.process.stdin.close()  # type: ignore[union-attr]
        assert proxy.process.stdout is not None
        assert proxy.process.stdout.read() == b""


def test_a_proxy_whose_stdin_and_stdout_are_files_serves_them(tmp_path: Path) -> None:
    (tmp_path / "in").write_text('{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
    with (tmp_path / "in").open() as stdin, (tmp_path / "out").open("w") as stdout:
        subprocess.run(
            [Path(sys.executable).with_name("perdure"), "proxy", "--", *RAW_SERVER],
            stdin=stdin,
            stdout=stdout,
            timeout=PATIENCE,
            check=True,
        )
    assert '"id": 1, "result"' in (tmp_path / "out").read_text()
