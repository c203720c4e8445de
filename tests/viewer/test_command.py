"""`perdure ui` as a command: how it begins and ends, and what it says when it cannot."""

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from viewer.driving import a_viewer
from viewer.kept import Kept

from perdure.viewer.turn_view import readable


def run(*arguments: str, before: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", f"{before}\nfrom perdure.cli import main; main()", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_it_prints_its_address_listens_on_the_loopback_and_ends_with_ctrl_c_without_a_word(tmp_path: Path) -> None:
    with a_viewer(tmp_path) as viewer, httpx.Client() as client:
        assert viewer.process.stdout is not None
        assert "Ctrl-C ends it" in viewer.process.stdout.readline()
        listening = psutil.Process(viewer.process.pid).net_connections("tcp")
        assert [connection.laddr.ip for connection in listening] == ["127.0.0.1"]
        assert client.get(viewer.address).status_code == 303  # and the connection stays open
        viewer.process.send_signal(signal.SIGINT)
        out, err = viewer.process.communicate(timeout=30)
        assert (viewer.process.returncode, out, err) == (0, "", "")


def test_it_ends_with_a_page_and_no_trace_while_one_waits_for_its_store(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, concurrent.futures.ThreadPoolExecutor() as threads:
        address = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d"
        with (
            a_viewer(tmp_path, PERDURE_BACKEND="postgres", PERDURE_DATABASE_URL=address) as viewer,
            httpx.Client(follow_redirects=True, timeout=60) as client,
        ):
            page = threads.submit(client.get, viewer.address)
            connection, _ = silent.accept()  # The page has asked, and nobody will answer.
            with connection:
                viewer.process.send_signal(signal.SIGINT)
                answer = page.result()
                assert (answer.status_code, "was ended before" in answer.text) == (503, True)
                _, err = viewer.process.communicate(timeout=60)
            assert viewer.process.returncode == 0
            assert err.splitlines() in ([], ["Cancel 1 running task(s), timeout graceful shutdown exceeded"])


def test_a_port_that_is_taken_is_named_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ran = run("ui", "--port", str(port))
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.splitlines() == [
        f"perdure: The port {port} is taken by another program.",
        "Remedy: end that, or choose another with --port; `--port 0` takes any that is free.",
    ]


def test_without_the_packages_of_the_extra_it_says_what_to_install() -> None:
    ran = run("ui", before="import sys; sys.modules['jinja2'] = None")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert 'pip install "perdure[ui]"' in ran.stderr
    assert len(ran.stderr.splitlines()) == 2


def test_what_is_in_memory_cannot_be_looked_at() -> None:
    ran = run("ui", PERDURE_BACKEND="memory")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "where no other can look" in ran.stderr


def test_no_other_command_imports_anything_of_it(tmp_path: Path) -> None:
    tell = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(sorted(n for n in sys.modules if n.startswith('perdure.viewer')"
        " or n in ('jinja2', 'starlette', 'uvicorn', 'markdown_it')), file=sys.stderr))"
    )
    ran = run("stats", before=tell, PERDURE_DATA_DIR=str(tmp_path))
    assert (ran.returncode, ran.stderr.strip()) == (0, "[]")


def damaged(folder: Path) -> dict[str, str]:
    (folder / "perdure.db").write_bytes(b"no database " * 1000)
    return {}


def away(_folder: Path) -> dict[str, str]:
    return {"PERDURE_BACKEND": "postgres", "PERDURE_DATABASE_URL": "postgresql://u:secret@127.0.0.1:1/d"}


@pytest.mark.parametrize(("harm", "what"), [(damaged, "is damaged"), (away, "127.0.0.1")])
def test_a_store_that_cannot_be_read_is_a_page_that_says_why_and_what_to_do(
    tmp_path: Path, harm: Callable[[Path], dict[str, str]], what: str
) -> None:
    environment = harm(tmp_path)
    with a_viewer(tmp_path, **environment) as viewer, httpx.Client(follow_redirects=True, timeout=30) as client:
        for address in (viewer.address, viewer.page("conversation", user="a", id="b"), viewer.page("search", q="a")):
            answer = client.get(address)
            assert answer.status_code == 503
            assert what in answer.text
            assert 'role="alert"' in answer.text
            assert "Try again" in answer.text
            assert "secret" not in answer.text
            assert "Nothing is kept yet" not in answer.text


def test_a_file_whose_content_is_gone_or_another_is_not_given_out(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    small = kept.file("small.txt", b"as it was", "text/plain")
    large = kept.file("large.txt", b"0123456789" * 1_000_000, "text/plain")
    gone = kept.file("gone.txt", b"gone", "text/plain")
    kept.turn("p", files=(small, large, gone))
    kept.close()
    with a_viewer(tmp_path) as viewer, httpx.Client(follow_redirects=True) as client:
        client.get(viewer.address)
        addresses = {file.name: viewer.page("file", user="local", uri=file.uri) for file in (small, large, gone)}
        assert client.get(addresses["small.txt"]).content == b"as it was"
        assert client.get(addresses["large.txt"]).content == b"0123456789" * 1_000_000
        kept_at = {path.stat().st_size: path for path in (tmp_path / "files").rglob("*") if path.is_file()}
        for size in (9, 10_000_000):
            kept_at[size].chmod(0o600)
            with kept_at[size].open("r+b") as content:
                content.write(b"x")
        kept_at[4].unlink()
        for name in ("small.txt", "gone.txt"):
            assert client.get(addresses[name]).status_code == 404
        with pytest.raises(httpx.RemoteProtocolError):  # A part of it is never taken for the whole.
            client.get(addresses["large.txt"])
        assert client.get(viewer.page("file", user="alice", uri=small.uri)).status_code == 404


def test_a_turn_that_only_another_python_can_read_hides_no_other(tmp_path: Path) -> None:
    """A server on Python 3.13 keeps what is nested ten times more deeply than 3.12 reads."""
    kept = Kept(tmp_path)
    kept.turn("as always", conversation="first")
    kept.turn("nested", conversation="second", others={"value": "here"})
    kept.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "perdure.db")) as database, database:
        deep = "[" * 100_000 + "]" * 100_000
        assert database.execute(
            """update chat_messages set body = replace(body, '"here"', ?) where instr(body, '"here"')""", (deep,)
        ).rowcount
    with a_viewer(tmp_path) as viewer, httpx.Client(follow_redirects=True) as client:
        conversations = client.get(viewer.address)
        assert conversations.status_code == 200
        assert "as always" in conversations.text
        assert "Its last turn could not be read" in conversations.text
        answer = client.get(viewer.page("conversation", user="local", id="second"))
        assert answer.status_code == 503
        assert "nested more deeply than this Python reads" in answer.text


def test_a_value_that_python_reads_and_cannot_indent_is_shown_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """From about 1,000 levels on, with Python 3.12."""
    dumps = json.dumps

    def without_indent(value: Any, *, indent: int | None = None, **how: Any) -> str:
        if indent is not None:
            raise RecursionError
        return dumps(value, **how)

    monkeypatch.setattr(json, "dumps", without_indent)
    assert readable({"é": [[1]]}) == '{"é": [[1]]}'


def test_a_part_of_a_turn_can_be_saved_whole(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    long = "line\n" * 100_000
    kept.turn("the prompt", long)
    kept.close()
    with a_viewer(tmp_path) as viewer, httpx.Client(follow_redirects=True) as client:
        client.get(viewer.address)
        where: dict[str, str | int] = {"user": "local", "id": "c", "place": 1}
        page = client.get(viewer.page("turn", **where)).text
        assert "300,001 more characters" in page
        saved = client.get(viewer.page("text", **where, part="answer"))
        assert saved.text == long
        assert saved.headers["content-disposition"] == 'attachment; filename="turn-1-answer.txt"'
        assert client.get(viewer.page("text", **where, part="prompt")).text == "the prompt"
        result = client.get(viewer.page("text", **where, part="result"))
        assert json.loads(result.content)["content"][0]["text"] == long
        assert client.get(viewer.page("text", **where, part="else")).status_code == 404
