"""A server that dies, never starts, or writes no protocol: nobody waits for ever, nothing stays, no turn is lost."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from mcp_wire import kept
from proxy.conftest import RAW_SERVER, RawClient, behind, left, running

from perdure import Outcome
from perdure.middleware.persistence.wiring import Runtime


async def opened(client: RawClient) -> tuple[int, int, int]:
    """Three requests that the server will not answer."""
    calls = client.request("tools/call", {"name": "slow", "arguments": {"prompt": "x"}})
    number, other = client.request("tools/call", {"name": "slow"}), 1000
    client.send_line(json.dumps([{"jsonrpc": "2.0", "id": other, "method": "tools/call", "params": {"name": "slow"}}]))
    await client.ask("ping")
    while "slow" not in str(await client.ask("test/received")):
        pass
    return calls, number, other


@pytest.mark.parametrize(
    ("tool", "words", "exit_code"),
    [
        ("die", "ended with exit code 3", 3),
        ("kill", "was ended by signal 9 (Killed)", 128 + signal.SIGKILL),
        ("close_stdout", "was ended by signal 15 (Terminated)", 128 + signal.SIGTERM),
    ],
)
async def test_every_open_request_of_a_server_that_dies_is_answered_with_what_happened_and_what_to_do(
    all_kept: Runtime, tool: str, words: str, exit_code: int
) -> None:
    async with behind() as client:
        first, second, in_batch = await opened(client)
        last = client.request("tools/call", {"name": tool})
        lines = [json.loads(line) for line in await client.rest()]
    answers = {}
    for line in lines:
        for message in line if isinstance(line, list) else [line]:
            answers[message["id"]] = message
    for number in (first, second, in_batch, last):
        error = answers[number]["error"]
        assert error["code"] == -32000
        assert words in error["message"]
        assert "Remedy: see what it wrote to stderr" in error["message"]
    assert client.exit_code == exit_code
    assert [turn.outcome for turn in kept(all_kept)] == [Outcome.FAILED] * 4
    assert all(words in turn.answer.error["message"] for turn in kept(all_kept))  # type: ignore[union-attr, index]


async def test_a_server_killed_from_outside_leaves_no_call_without_an_answer(all_kept: Runtime) -> None:
    mark = str(uuid.uuid4())
    async with behind([*RAW_SERVER, mark]) as client:
        numbers = await opened(client)
        [server] = running(mark)
        server.kill()
        await client.answer(numbers[0])
        await client.rest()
    assert client.exit_code == 137
    assert {turn.outcome for turn in kept(all_kept)} == {Outcome.FAILED}


async def test_a_server_that_has_closed_its_stdin_is_ended_and_what_it_cannot_hear_is_answered(
    all_kept: Runtime,
) -> None:
    async with behind() as client:
        await client.call("close_stdin")
        answer = await client.call("echo", {"prompt": "x"})
    assert "was ended by signal 15" in answer["error"]["message"]
    assert [turn.outcome for turn in kept(all_kept)] == [Outcome.ANSWERED, Outcome.FAILED]


async def test_what_a_server_wrote_before_it_ended_is_given_to_the_client(all_kept: Runtime) -> None:
    async with behind() as client:
        answer = await client.call("ends_after_answer", {"size": 5_000_000})
    assert len(answer["result"]["content"][0]["text"]) == 5_000_000
    assert kept(all_kept)[0].outcome == Outcome.ANSWERED


async def test_a_process_that_a_dead_server_left_behind_is_ended_with_it(all_kept: Runtime) -> None:
    mark = str(uuid.uuid4())
    async with behind([*RAW_SERVER, mark]) as client:
        answer = await client.call("forks")
        assert answer["result"]["content"][0]["text"] == "forked"
        await client.rest()
    assert client.exit_code == 5
    assert left(mark) == []


@pytest.mark.parametrize(
    ("command", "words", "exit_code"),
    [
        (
            ["no-such-command-anywhere"],
            "'no-such-command-anywhere' could not be started: No such file or directory.",
            127,
        ),
        ([os.devnull], "could not be started: Permission denied.", 126),
        ([sys.executable, "-c", "import sys; sys.exit('broken')"], "ended with exit code 1", 1),
    ],
)
async def test_a_server_that_never_starts_is_named_to_the_client_and_to_the_operator(
    runtime: Runtime, command: list[str], words: str, exit_code: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with behind(command) as client:
        answer = await client.ask("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}})
        assert await client.line() == b""
    assert words in answer["error"]["message"]
    assert words in caplog.text
    assert "Remedy:" in caplog.text
    assert client.exit_code == exit_code


async def test_a_server_that_never_starts_is_not_waited_for_without_a_client(runtime: Runtime) -> None:
    async with behind(["no-such-command-anywhere"]) as client:
        pass
    assert client.exit_code == 127


async def test_what_is_no_message_on_its_stdout_is_said_on_stderr_and_kept_from_the_client(
    all_kept: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    async with behind() as client:
        answer = await client.call("garbage")
    assert answer["result"]["content"][0]["text"] == "after the garbage"
    assert len(client.lines) == 1
    for words in ("Starting up, please wait ...", "a log line as JSON", "'42'"):
        assert words in caplog.text
    assert "a stdio server must print to stderr" in caplog.text


async def test_a_line_that_comes_in_pieces_is_one_message(all_kept: Runtime) -> None:
    async with behind() as client:
        answer = await client.call("in_pieces")
    assert answer["result"]["content"][0]["text"] == "piece by piece"


async def test_a_line_that_the_client_sends_in_pieces_is_one_message(all_kept: Runtime) -> None:
    line = b'{"jsonrpc":"2.0","id":"p","method":"tools/call","params":{"name":"echo","arguments":{"prompt":"x"}}}\n'
    async with behind() as client:
        for start in range(0, len(line), 9):
            os.write(client._writing, line[start : start + 9])
            await asyncio.sleep(0.001)
        assert (await client.answer("p"))["result"]["content"][0]["text"] == "heard x"


async def test_a_last_line_without_an_end_is_a_line(runtime: Runtime) -> None:
    code = 'import sys; sys.stdout.write(\'{"jsonrpc":"2.0","method":"notifications/last"}\')'
    async with behind([sys.executable, "-c", code]) as client:
        assert await client.rest() == [b'{"jsonrpc":"2.0","method":"notifications/last"}']


async def test_an_id_that_is_used_twice_at_once_is_passed_on_and_said(
    all_kept: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    async with behind() as client:
        for prompt in ("first", "second"):
            client.send("tools/call", {"name": "echo", "arguments": {"prompt": prompt}}, id="same")
        answers = [await client.answer("same"), await client.answer("same")]
    assert sorted(answer["result"]["content"][0]["text"] for answer in answers) == ["heard first", "heard second"]
    assert "for a second request while the first was still open" in caplog.text


def test_the_stderr_of_a_server_passes_through(tmp_path: Path) -> None:
    code = "import sys; print('to stderr', file=sys.stderr); sys.stdin.read()"
    done = subprocess.run(
        [Path(sys.executable).with_name("perdure"), "proxy", "--", sys.executable, "-c", code],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stderr == "to stderr\n"
    assert done.stdout == ""
