"""Two server processes without affinity serve alternate legs and alternate turns of one conversation."""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from backends import Backend
from legs.asking import leg
from mcp import Client
from mcp_wire import announced_id, text_of

SERVER = Path(__file__).with_name("http_server.py")


@contextmanager
def replica(way: str, folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """A process, and its address."""
    folder.mkdir()
    port_file = folder / "port"
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, SERVER, way, port_file],
            # A machine that is busy is not what is looked at here.
            env={**os.environ, "PERDURE_CONFIG": os.devnull, "PERDURE_OPERATION_TIMEOUT": "60", **environment},
            stdout=stderr,
            stderr=stderr,
        )
    try:
        deadline = time.monotonic() + 60
        while not port_file.exists():
            assert process.poll() is None, (folder / "stderr").read_text()
            assert time.monotonic() < deadline, (folder / "stderr").read_text()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port_file.read_text()}/mcp"
    finally:
        process.kill()
        process.wait()


async def _call(addresses: Iterator[str], **arguments: Any) -> dict[str, Any]:
    """A whole call, each leg sent to the next replica."""
    state = text = None
    for number in range(1, 4):
        async with Client(next(addresses)) as client:
            result = await leg(client, arguments, state=state, text=text)
        if number < 3:
            assert result["resultType"] == "input_required"
            state, text = result["requestState"], f"answer {number}"
    return result


@pytest.mark.parametrize(
    ("way", "backend"),
    [("named", "sqlite"), ("class-based", "sqlite"), ("decorated", "postgres"), ("low-level, named", "postgres")],
    indirect=["backend"],
)
async def test_they_keep_one_conversation_of_turns_in_their_order(way: str, backend: Backend, tmp_path: Path) -> None:
    environments = [dict(backend.environment), dict(backend.environment)]
    if backend.name == "postgres":  # machines of their own: nothing but the database and the key is shared
        for number, environment in enumerate(environments):
            environment["PERDURE_DATA_DIR"] = str(tmp_path / f"data-{number}")
            environment["PERDURE_REQUEST_STATE_KEY"] = "one key for all replicas of the server"
    with ExitStack() as replicas:
        addresses = [
            replicas.enter_context(replica(way, tmp_path / f"replica-{number}", environment))
            for number, environment in enumerate(environments)
        ]
        balanced = itertools.cycle(addresses)
        first = await _call(balanced, prompt="one")
        conversation = announced_id(first)
        second = await _call(balanced, prompt="two", continuation_id=conversation)
        async with Client(next(balanced)) as client:
            third = await leg(client, {"prompt": "plain three", "continuation_id": conversation})
    for result, text, earlier in [
        (first, "booked one answer 2", 0),
        (second, "booked two answer 2", 1),
        (third, "booked plain three None", 2),
    ]:
        assert text_of(result) == text
        assert announced_id(result) == conversation
        assert result["_meta"]["perdure/persisted"] is True
        assert result["_meta"]["perdure/history"] == {
            "state": "loaded" if earlier else "new",
            "turns": earlier,
            "omitted": 0,
        }
    store = backend.open()
    try:
        [summary] = store.conversations()
        turns = store.turns(summary.principal, conversation)
    finally:
        store.close()
    assert [(turn.place, turn.prompt, turn.answer and turn.answer.text) for turn in turns] == [
        (1, "one", "booked one answer 2"),
        (2, "two", "booked two answer 2"),
        (3, "plain three", "booked plain three None"),
    ]
