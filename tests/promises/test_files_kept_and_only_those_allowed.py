"""Promise 8: only regular files under the allowed roots are ever read, and what is stored is what was hashed.

That nothing else is opened is proven by watching: in a child process by Python's audit events, and in races by the
kernel's own (inotify). Each way of watching has a control that trips it. All secrets are stand-ins.
"""

import hashlib
import itertools
import json
import math
import os
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Activate
from fuzz.machine import SECRET, SOMEBODY, Machine
from fuzz.swapped_names import (
    ALL_SWAPS,
    LINK_SWAPS,
    Opened,
    Swap,
    a_directory_and_a_link,
    a_file_and_a_link,
    look_amid_swaps,
    swapping,
)
from mcp import Client
from mcp.server.mcpserver import MCPServer

from perdure import install, persisted
from perdure.errors import FileMissing, PerdureError, SettingsError
from perdure.middleware.argument_schema import replaced_by_schema
from perdure.middleware.path_rewriting import local_path, rewritten_result, storage_uri
from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.files.allowed_roots import AllowedRoots, FileRefused
from perdure.middleware.persistence.files.keeper import FileKeeper, FileLimits
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.turn import StoredFile
from perdure.settings import ToolSettings

TESTS = Path(__file__).parents[1]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others and devices")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(made.temp))
    monkeypatch.setenv("HOME", str(made.home))
    yield made
    made.close()


Hostile = Callable[[Machine], str]

HOSTILE: dict[str, Hostile] = {
    # outside
    "outside": lambda m: str(m.secret),
    "outside as uri": lambda m: m.secret.as_uri(),
    "a sibling whose name begins alike": lambda m: f"{m.out}side/secret.txt",
    "/etc/passwd": lambda m: "/etc/passwd",
    "/etc/shadow as uri": lambda m: "file:///etc/shadow",
    "a slash encoded": lambda m: "file:///%2Fetc/passwd",
    "/proc/self/environ": lambda m: "/proc/self/environ",
    "/proc/self/mem": lambda m: "/proc/self/mem",
    "/proc/self/root": lambda m: f"/proc/self/root{m.out}/../outside/secret.txt",
    "/proc/self/cwd": lambda m: "/proc/self/cwd/pyproject.toml",
    "/proc/self/fd": lambda m: "/proc/self/fd/0",
    "/dev/zero": lambda m: "/dev/zero",
    "/dev/stdin": lambda m: "/dev/stdin",
    "~/.ssh": lambda m: str(m.key),
    "~/.ssh unexpanded": lambda m: "~/.ssh/id_rsa",
    "the home directory itself": lambda m: str(m.home),
    # dots
    "..": lambda m: f"{m.out}/../outside/secret.txt",
    ".. twice": lambda m: f"{m.out}/sub/../../outside/secret.txt",
    ".. that stays inside": lambda m: f"{m.out}/sub/../good.txt",
    ".. at the end": lambda m: f"{m.out}/sub/..",
    ".. encoded": lambda m: f"file://{m.out}/%2e%2e/outside/secret.txt",
    ".. with its slash encoded": lambda m: f"file://{m.out}/..%2foutside/secret.txt",
    ".. encoded twice": lambda m: f"file://{m.out}/%252e%252e/outside/secret.txt",
    ".. in a plain path that looks encoded": lambda m: f"{m.out}/%2e%2e/outside/secret.txt",
    ".. with a backslash": lambda m: f"{m.out}\\..\\outside\\secret.txt",
    ".. of full width": lambda m: f"{m.out}/\uff0e\uff0e/outside/secret.txt",
    ".. too long in UTF-8": lambda m: f"file://{m.out}/%c0%ae%c0%ae/outside/secret.txt",
    "a dot file": lambda m: str(m.put(m.out / ".env")),
    "a dot directory": lambda m: str(m.put(m.out / ".git" / "config")),
    "a dot directory deep down": lambda m: str(m.put(m.out / "a" / ".b" / "c" / "d.txt")),
    "a dot file in the temp directory": lambda m: str(m.put(m.temp / ".secret")),
    "a dot file as uri": lambda m: f"file://{m.put(m.out / '.env2').parent}/%2eenv2",
    "three dots": lambda m: str(m.put(m.out / "..." / "x.txt")),
    # links
    "a link": lambda m: m.link(m.out / "link.txt", m.secret),
    "a link as uri": lambda m: "file://" + m.link(m.out / "link2.txt", m.secret),
    "a relative link": lambda m: m.link(m.out / "link3.txt", "../outside/secret.txt"),
    "a link to a link": lambda m: m.link(m.out / "chain", m.link(m.out / "chain2", m.secret)),
    "a link on the way": lambda m: m.link(m.out / "way", m.outside) + "/secret.txt",
    "a link on the way, deep down": lambda m: m.link(m.out / "sub" / "way", m.outside) + "/sub/good.txt",
    "a link to the top": lambda m: m.link(m.out / "top", "/") + "/etc/passwd",
    "a link upwards": lambda m: m.link(m.out / "up", "..") + "/outside/secret.txt",
    "a link to itself": lambda m: m.link(m.out / "self", m.out / "self"),
    "a link to nothing": lambda m: m.link(m.out / "nothing", m.outside / "nothing"),
    "a link to /proc": lambda m: m.link(m.out / "proc", "/proc/self") + "/environ",
    "a link in the temp directory": lambda m: m.link(m.temp / "link.txt", m.secret),
    "a hard link": lambda m: m.hard_link(m.out / "hard.txt"),
    "a hard link in the temp directory": lambda m: m.hard_link(m.temp / "hard.txt"),
    # what is no file
    "a directory": lambda m: f"{m.out}/sub",
    "a directory with a slash": lambda m: f"{m.out}/sub/",
    "a root itself": lambda m: str(m.out),
    "a root itself with a dot": lambda m: f"{m.out}/.",
    "a file taken for a directory": lambda m: f"{m.good}/x",
    "a FIFO": lambda m: m.node(m.out / "fifo", stat.S_IFIFO),
    "a socket": lambda m: m.listening(m.out / "socket"),
    "nothing": lambda m: f"{m.out}/nothing.txt",
    # other machines
    "UNC": lambda m: "//host/share/file.txt",
    "UNC of this machine": lambda m: f"/{m.good}",
    "UNC with backslashes": lambda m: "\\\\host\\share\\file.txt",
    "UNC as uri": lambda m: "file:////host/share/file.txt",
    "UNC as uri of a good file": lambda m: f"file:///{m.good}",
    "file://host/": lambda m: "file://host/etc/passwd",
    "file://host/ of a good file": lambda m: f"file://host{m.good}",
    "file://127.0.0.1/": lambda m: f"file://127.0.0.1{m.good}",
    "file://user@localhost/": lambda m: f"file://user@localhost{m.good}",
    "file://localhost:80/": lambda m: f"file://localhost:80{m.good}",
    "file://localhost.evil.com/": lambda m: f"file://localhost.evil.com{m.good}",
    # characters
    "a NUL": lambda m: f"{m.good}\0.png",
    "a NUL at the end": lambda m: f"{m.good}\0",
    "a NUL as uri": lambda m: f"file://{m.good}%00.png",
    "a NUL in a directory": lambda m: f"{m.out}\0/../outside/secret.txt",
    "a line break": lambda m: f"{m.out}/\ngood.txt",
    "a line break as uri": lambda m: f"file://{m.out}/go%0aod.txt",
    "a query": lambda m: f"file://{m.good}?x=1",
    "a fragment": lambda m: f"file://{m.good}#x",
    "a name too long": lambda m: f"{m.out}/{'x' * 300}",
    "a path too long": lambda m: f"{m.out}/" + "sub/" * 1100 + "good.txt",
    "another case": lambda m: str(m.good).upper(),
}

NEEDS_ROOT: dict[str, Hostile] = {
    "another's hard link": lambda m: m.hard_link(m.out / "theirs.txt", SOMEBODY),
    "another's file in the temp directory": lambda m: m.another_owners(m.temp / "theirs.txt"),
    "another's file deep in the temp directory": lambda m: m.another_owners(m.temp / "a" / "theirs.txt"),
    "a character device": lambda m: m.node(m.out / "null", stat.S_IFCHR, os.makedev(1, 3)),
    "an endless device": lambda m: m.node(m.out / "zero", stat.S_IFCHR, os.makedev(1, 5)),
    "a terminal": lambda m: m.node(m.out / "tty", stat.S_IFCHR, os.makedev(5, 0)),
    "a block device": lambda m: m.node(m.out / "loop", stat.S_IFBLK, os.makedev(7, 0)),
}

ALL = HOSTILE | (NEEDS_ROOT if os.geteuid() == 0 else {})


async def given_out(text: str, seam: str = "decorator") -> dict[str, Any]:
    server = MCPServer("hostile")

    def give() -> str:
        return text

    server.tool()(persisted(give) if seam == "decorator" else give)
    if seam == "hook":
        install(server, tools=["give"])
    async with Client(server) as client:
        return (await client.call_tool("give")).model_dump(by_alias=True, mode="json", exclude_none=True)


# ── each by itself ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seam", ["decorator", "hook"])
@pytest.mark.parametrize("what", HOSTILE)
async def test_what_may_not_be_read_is_left_as_it_is(
    machine: Machine, activate: Activate, what: str, seam: str
) -> None:
    await _is_left(machine, activate, HOSTILE[what](machine), seam)


@as_root
@pytest.mark.parametrize("seam", ["decorator", "hook"])
@pytest.mark.parametrize("what", NEEDS_ROOT)
async def test_what_belongs_to_others_or_is_a_device_is_left_as_it_is(
    machine: Machine, activate: Activate, what: str, seam: str
) -> None:
    await _is_left(machine, activate, NEEDS_ROOT[what](machine), seam)


async def _is_left(machine: Machine, activate: Activate, text: str, seam: str) -> None:
    runtime = activate(defaults=ToolSettings(file_roots=(machine.out,), rewrite_text=True))

    result = await given_out(text, seam)

    assert result["content"][0]["text"] == text
    assert result["structuredContent"]["result"] == text
    assert runtime.engine.files("local") == []
    assert result["_meta"]["perdure/persisted"] is True
    assert "perdure/fault" not in result["_meta"]
    if (path := local_path(text)) is not None:
        # In prose, points at the end belong to the sentence: then the rest is looked at too.
        left, *_ = result["_meta"]["perdure/files"]["left"]
        assert left["reason"]
        assert left["path"] == path or not path.isprintable()


REASONS = {
    "outside": "outside of the allowed roots",
    "a sibling whose name begins alike": "outside of the allowed roots",
    "/etc/passwd": "outside of the allowed roots",
    "..": "'..'",
    ".. that stays inside": "'..'",
    ".. encoded": "'..'",
    ".. with its slash encoded": "'..'",
    "a dot file": "dot file",
    "a dot directory deep down": "dot directory",
    "a dot file as uri": "dot file",
    "a link": "no regular file",
    "a link on the way": "cannot be opened",
    "a hard link": "hard links",
    "a directory": "no regular file",
    "a FIFO": "no regular file",
    "a socket": "no regular file",
    "nothing": "cannot be opened",
    "a file taken for a directory": "cannot be opened",
}


@pytest.mark.parametrize("what", REASONS)
def test_it_is_refused_for_the_right_reason(machine: Machine, what: str) -> None:
    """So that each guard is missed if it goes, even where another would still stand."""
    path = local_path(HOSTILE[what](machine))
    assert path is not None
    with pytest.raises(FileRefused) as refused:
        AllowedRoots([machine.out]).open(path)
    assert REASONS[what] in refused.value.reason
    assert (refused.value.setting == "file_roots") == ("outside" in refused.value.reason)


NO_PATHS = [
    what
    for what in HOSTILE
    if what.startswith(("UNC", "file://", "a NUL", "a line break", "a query", "a fragment", "a slash encoded"))
]


@pytest.mark.parametrize("what", NO_PATHS)
async def test_what_names_another_machine_or_nothing_is_not_even_taken_for_a_path(
    machine: Machine, activate: Activate, what: str
) -> None:
    activate(defaults=ToolSettings(file_roots=(machine.out,)))
    text = HOSTILE[what](machine)
    assert local_path(text) is None
    assert "perdure/files" not in (await given_out(text))["_meta"]


@pytest.mark.parametrize("name", ["good.txt\0", "\0", "a\0/good.txt", "\ud800"])
def test_a_name_that_no_file_can_have_is_refused_by_the_roots_too(machine: Machine, name: str) -> None:
    with pytest.raises(FileRefused):
        AllowedRoots([machine.out]).open(f"{machine.out}/{name}")


async def test_the_good_file_beside_them_is_kept(machine: Machine, activate: Activate) -> None:
    """The control: nothing but the guards keeps the others from being read."""
    activate(defaults=ToolSettings(file_roots=(machine.out,)))
    for path in (machine.good, machine.put(machine.temp / "own.txt", b"public")):
        result = await given_out(str(path))
        assert result["content"][0]["text"].startswith("storage://")


@as_root
async def test_in_a_root_of_the_operators_choice_files_of_others_are_read_unless_they_have_links(
    machine: Machine, activate: Activate
) -> None:
    activate(defaults=ToolSettings(file_roots=(machine.out,)))
    path = machine.another_owners(machine.out / "theirs.txt")
    assert (await given_out(path))["content"][0]["text"].startswith("storage://")
    os.link(path, machine.outside / "second name")
    assert (await given_out(path))["content"][0]["text"] == path


async def test_a_root_inside_another_decides_for_what_lies_in_it(machine: Machine) -> None:
    """The temp directory inside a chosen root still gives out only our own."""
    if os.geteuid() != 0:
        pytest.skip("only root can make files of others")
    temp = machine.out / "temp"
    theirs = machine.another_owners(temp / "theirs.txt")
    with pytest.raises(FileRefused):
        AllowedRoots([machine.out], shared=[temp]).open(theirs)
    short, other = machine.folder / "t", machine.folder / "another-name-of-out"
    short.symlink_to(temp)
    other.symlink_to(machine.out)
    with pytest.raises(FileRefused):
        AllowedRoots([machine.out], shared=[short]).open(theirs)
    with pytest.raises(FileRefused):
        AllowedRoots([other], shared=[temp]).open(str(other / "temp" / "theirs.txt"))


@pytest.mark.parametrize("root", ["/", "~", "{home}", "{folder}", "{link to home}", "{out}/../home"])
async def test_a_root_above_everything_of_yours_is_refused(machine: Machine, root: str) -> None:
    (machine.folder / "link").symlink_to(machine.home)
    chosen = root.format(
        home=machine.home, folder=machine.folder, out=machine.out, **{"link to home": machine.folder / "link"}
    )
    roots = AllowedRoots([Path(chosen)])
    assert [type(error) for error in roots.refused] == [SettingsError]
    for path in (machine.secret, machine.home / "papers.txt"):
        with pytest.raises(FileRefused):
            roots.open(str(machine.put(path)))


async def test_a_temp_directory_above_the_home_directory_admits_nothing(machine: Machine) -> None:
    roots = AllowedRoots([], shared=[machine.folder])
    with pytest.raises(FileRefused):
        roots.open(str(machine.secret))


async def test_what_perdure_keeps_itself_is_not_given_out_by_its_path(
    machine: Machine, activate: Activate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data may lie in a root by accident; in it are the conversations and files of everybody."""
    data = machine.out / "data"
    monkeypatch.setenv("PERDURE_DATA_DIR", str(data))
    runtime = activate(user_id="bob", defaults=ToolSettings(file_roots=(machine.out,)))
    uri = (await given_out(str(machine.put(machine.out / "bobs.txt"))))["content"][0]["text"]
    (machine.out / "bobs.txt").unlink()
    machine.put(data / "perdure.db", b"everybody's conversations")
    copy = runtime.keeper.bring_back("bob", uri, max_bytes=1000, progress=lambda *_: None)

    activate(runtime.engine.store, user_id="mallory", defaults=ToolSettings(file_roots=(machine.out,)))
    for path in [path for path in data.rglob("*") if path.is_file()]:
        result = await given_out(str(path))
        assert result["content"][0]["text"] == str(path)
    assert copy.is_relative_to(data)


@pytest.mark.parametrize("linked", [False, True], ids=["in a root", "through a link"])
async def test_a_copy_made_for_another_call_is_not_given_out_however_its_path_is_spelt(
    machine: Machine, activate: Activate, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    data = machine.out / "data"
    data.mkdir()
    named = data
    if linked:
        named = machine.folder / "a-name-of-data"
        named.symlink_to(data)
    monkeypatch.setenv("PERDURE_DATA_DIR", str(named))
    runtime = activate(user_id="bob", defaults=ToolSettings(file_roots=(machine.out,)))
    uri = (await given_out(str(machine.put(machine.out / "bobs.txt"))))["content"][0]["text"]
    copy = runtime.keeper.bring_back("bob", uri, max_bytes=1000, progress=lambda *_: None)

    activate(runtime.engine.store, user_id="mallory", defaults=ToolSettings(file_roots=(machine.out,)))
    spellings = {str(copy), str(copy.resolve())}
    for copies in (runtime.keeper.copies, runtime.keeper.copies.resolve()):
        rest = f"{copy.parent.name}/{copy.name}"
        spellings |= {f"{copies}//{rest}", f"{copies}/./{rest}", f"{copies.parent}/./{copies.name}/{rest}"}
        spellings |= {f"{copies.parent}//{copies.name}/{rest}", f"file://{copies}/%2e/{rest}"}
    for path in spellings:
        assert (await given_out(path))["content"][0]["text"] == path


# ── nothing else is opened ───────────────────────────────────────────────────────────────────────────────────────

WATCHED = """
import json, os, sys, tempfile
from pathlib import Path

import anyio
from fuzz.watched_opens import WatchedOpens
from mcp import Client
from mcp.server.mcpserver import MCPServer
from perdure import persisted
from perdure.logs import log
from perdure.middleware.persistence.files import allowed_roots
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.wiring import activated, build
from perdure.settings import Settings, ToolSettings

asked = json.load(sys.stdin)
server = MCPServer("watched")


@server.tool()
@persisted
async def give(values: list[str]) -> list[str]:
    return values


@server.tool()
@persisted
async def take(values: list[str]) -> str:
    return "took them"


def without_guard(self, path):
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    return allowed_roots.OpenFile(descriptor, os.fstat(descriptor), os.path.basename(path))


async def main():
    if asked["without_guard"]:
        allowed_roots.AllowedRoots.open = without_guard
    policy = ToolSettings(file_roots=(Path(asked["out"]),), max_file_bytes=1_000_000, max_turn_files=1000)
    with activated(build(Settings(defaults=policy), store=MemoryStore())):
        async with Client(server) as client:
            # Once before, so that everything there is to import is imported.
            uri = (await client.call_tool("give", {"values": [asked["good"]]})).content[0].text
            await client.call_tool("take", {"values": [uri]})
            log.debug("watching.begins")
            os.chdir(asked["out"])
            watched = WatchedOpens([asked["out"], tempfile.gettempdir(), os.environ["PERDURE_DATA_DIR"]])
            got = []
            for value in asked["values"]:
                result = await client.call_tool("give", {"values": [value]})
                got.append([block.text for block in result.content][0])
            for uri in asked["uris"]:
                await client.call_tool("take", {"values": [uri]})
    print(json.dumps({"seen": watched.seen, "outside": watched.outside, "got": got}))


anyio.run(main)
"""


def watched(machine: Machine, values: list[str], uris: tuple[str, ...] = (), *, without_guard: bool = False) -> Any:
    asked = {
        "out": str(machine.out),
        "good": str(machine.good),
        "values": values,
        "uris": uris,
        "without_guard": without_guard,
    }
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        input=json.dumps(asked),
        env=os.environ | {"PYTHONPATH": str(TESTS), "TMPDIR": str(machine.temp), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_nothing_outside_of_the_roots_is_ever_opened(machine: Machine) -> None:
    values = [make(machine) for make in ALL.values()]
    tenant = f"storage://mcp-files/local/{'0' * 64}"
    uris = (f"{tenant}/../../../../../etc/passwd", f"{tenant}/..", "storage://mcp-files/../../../../etc/passwd")

    found = watched(machine, [*values, str(machine.good)], uris)

    assert found["outside"] == []
    assert found["got"][:-1] == values
    assert found["got"][-1].startswith("storage://")
    assert found["seen"] >= 20


def test_without_the_guard_the_watch_sees_each_opening_outside(machine: Machine) -> None:
    """The control: the same calls, with a plain `os.open` where the guard stands."""
    outside = ["outside", "/etc/passwd", "a link", "a link on the way", "~/.ssh", ".. twice", "a link to the top"]
    found = watched(machine, [HOSTILE[what](machine) for what in outside], without_guard=True)

    seen = set(found["outside"])
    assert {str(machine.secret), "/etc/passwd", str(machine.key)} <= seen
    assert len(found["outside"]) >= len(outside)


@pytest.mark.parametrize("what", ["a FIFO", *(["a character device", "a terminal"] if os.geteuid() == 0 else [])])
def test_what_does_something_when_it_is_opened_is_not_even_opened(machine: Machine, what: str) -> None:
    path = Path(ALL[what](machine))
    seen = Opened(path)
    with pytest.raises(FileRefused):
        AllowedRoots([machine.out]).open(str(path))
    assert not seen
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)) if what != "a terminal" else None
    assert what == "a terminal" or seen  # the control
    seen.close()


# ── races ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("swap", ALL_SWAPS)
def test_no_swap_while_it_is_looked_at_makes_a_file_outside_be_read(machine: Machine, swap: Swap) -> None:
    """At least 10,000 swaps, by another process, while the path is opened over and over; `make soak-8` makes more."""
    looked = look_amid_swaps(machine, swap, swaps=10_000, tries=5_000, patience=30)
    assert looked.contents == {b"public"}
    assert not looked.secret_opened


@pytest.mark.parametrize("swap", LINK_SWAPS)
def test_a_guard_that_looks_first_and_opens_then_loses_the_same_race(machine: Machine, swap: Swap) -> None:
    """The control: the swaps are fast enough, and the kernel tells of the openings."""
    one, two, path = swap(machine)
    real = os.path.realpath(machine.out)
    seen = Opened(*[found for found in machine.outside.rglob("*") if found.is_file()])
    until = time.monotonic() + 20
    lost = False
    with swapping(machine, one, two):
        while not lost and time.monotonic() < until:
            with suppress(OSError):
                if os.path.realpath(path).startswith(real + "/"):
                    os.close(os.open(path, os.O_RDONLY))
                lost = bool(seen)
    seen.close()
    assert lost


@pytest.mark.parametrize("swap", [a_file_and_a_link, a_directory_and_a_link])
def test_no_swap_during_a_whole_call_makes_a_secret_be_kept(machine: Machine, swap: Swap) -> None:
    one, two, path = swap(machine)
    keeping = Keeping(machine)
    seen = Opened(machine.secret, machine.outside / "sub" / "good.txt")
    kept: set[bytes | None] = set()
    tries = 0
    with swapping(machine, one, two) as swaps:
        while swaps.swaps < 10_000 or tries < 100 or len(kept) < 2:
            tries += 1
            kept.add(keeping.keep(path))
        assert not seen
    seen.close()
    assert kept == {b"public", None}


def test_a_root_that_becomes_a_link_later_is_not_followed(machine: Machine) -> None:
    """Whoever may write beside a root could else choose what it is: `file_roots = ["/tmp/out"]`."""
    machine.put(machine.outside / "good.txt")
    roots = AllowedRoots([machine.out])
    machine.out.rename(machine.folder / "away")
    machine.out.symlink_to(machine.outside)
    with pytest.raises(FileRefused):
        roots.open(str(machine.good))


def test_a_root_that_is_made_as_a_link_after_the_start_is_not_followed(machine: Machine) -> None:
    later = machine.folder / "later"
    roots = AllowedRoots([later])
    later.symlink_to(machine.outside)
    with pytest.raises(FileRefused):
        roots.open(str(later / "secret.txt"))


def test_a_directory_above_a_root_that_becomes_a_link_is_not_followed(machine: Machine) -> None:
    root = machine.folder / "above" / "root"
    machine.put(root / "good.txt", b"public")
    machine.put(machine.outside / "root" / "good.txt")
    roots = AllowedRoots([root])
    root.parent.rename(machine.folder / "away")
    root.parent.symlink_to(machine.outside)
    with pytest.raises(FileRefused):
        roots.open(str(root / "good.txt"))


# ── a file that changes while it is read ─────────────────────────────────────────────────────────────────────────


class Keeping:
    """Files kept by a keeper of their own, with something that happens when a piece has been read."""

    def __init__(self, machine: Machine) -> None:
        self.store = LocalFileStore(machine.folder / "files", "mcp-files")
        self.roots = AllowedRoots([machine.out])
        self.keeper = FileKeeper(MemoryStore(), self.store, machine.folder / "files")
        self.incoming = machine.folder / "files" / "incoming"
        self.left: Any = None

    def keep(self, path: Path, happens: Callable[[], None] | None = None, *, max_bytes: int = 10**8) -> bytes | None:
        """What was kept, read back from the store; None if it was left alone."""
        limits = FileLimits(
            max_file_bytes=max_bytes, max_turn_files=9, max_turn_bytes=10**9, max_total_bytes=10**9, seconds=10
        )
        keeping = self.keeper.keeping("local", self.roots, limits, lambda done, size: happens and happens())
        uri = keeping.uri_for(str(path))
        self.left = keeping.left.get(str(path))
        if uri is None:
            return None
        (stored,) = keeping.stored.values()
        with self.store.read(stored.key) as source:
            content = source.read()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (stored.sha256, stored.size)
        return content

    @property
    def is_clean(self) -> bool:
        return not self.incoming.exists() or list(self.incoming.iterdir()) == []


@pytest.fixture
def keeping(machine: Machine) -> Keeping:
    return Keeping(machine)


PIECE = 1 << 20


def once(work: Callable[[], Any]) -> Callable[[], None]:
    pending = [work]
    return lambda: pending.pop()() if pending else None


def test_a_file_that_grew_once_is_kept_as_it_is_afterwards(machine: Machine, keeping: Keeping) -> None:
    machine.good.write_bytes(b"a" * 2 * PIECE)

    def grow() -> None:
        with machine.good.open("ab") as file:
            file.write(b"b" * PIECE)

    assert keeping.keep(machine.good, once(grow)) == b"a" * 2 * PIECE + b"b" * PIECE
    assert keeping.is_clean


def test_a_file_that_was_cut_once_is_kept_as_it_is_afterwards(machine: Machine, keeping: Keeping) -> None:
    machine.good.write_bytes(b"a" * 3 * PIECE)
    assert keeping.keep(machine.good, once(lambda: os.truncate(machine.good, PIECE))) == b"a" * PIECE
    assert keeping.is_clean


def test_a_file_that_was_rewritten_once_is_kept_as_it_is_afterwards(machine: Machine, keeping: Keeping) -> None:
    machine.good.write_bytes(b"a" * 3 * PIECE)
    content = keeping.keep(machine.good, once(lambda: machine.good.write_bytes(b"b" * 3 * PIECE)))
    assert content == b"b" * 3 * PIECE
    assert keeping.is_clean


@pytest.mark.parametrize("how", ["grows", "shrinks", "is rewritten"])
def test_a_file_that_changes_each_time_it_is_read_is_left_alone(machine: Machine, keeping: Keeping, how: str) -> None:
    sizes = iter(range(100, 0, -1))
    machine.good.write_bytes(b"a" * 3 * PIECE)

    def change() -> None:
        match how:
            case "grows":
                with machine.good.open("ab") as file:
                    file.write(b"+")
            case "shrinks":
                os.truncate(machine.good, 2 * PIECE + next(sizes))
            case _:
                with machine.good.open("r+b") as file:
                    file.write(os.urandom(8))

    assert keeping.keep(machine.good, change) is None
    assert "changed" in keeping.left.reason
    assert keeping.is_clean


def test_a_file_that_grows_for_ever_is_given_up(machine: Machine, keeping: Keeping) -> None:
    def grow() -> None:
        with machine.good.open("ab") as file:
            file.write(b"x" * PIECE)

    assert keeping.keep(machine.good, grow, max_bytes=4 * PIECE) is None
    assert keeping.left.setting == "max_file_bytes" or "changed" in keeping.left.reason
    assert keeping.is_clean


def test_a_file_that_is_replaced_while_it_is_read_is_kept_as_the_file_that_was_opened(
    machine: Machine, keeping: Keeping
) -> None:
    machine.good.write_bytes(b"a" * 3 * PIECE)

    def replace() -> None:
        machine.put(machine.out / "new", b"b" * 3 * PIECE).replace(machine.good)

    assert keeping.keep(machine.good, once(replace)) in (b"a" * 3 * PIECE, None)
    assert keeping.is_clean


def test_a_file_that_is_deleted_while_it_is_read_is_kept_or_left_but_nothing_else(
    machine: Machine, keeping: Keeping
) -> None:
    machine.good.write_bytes(b"a" * 3 * PIECE)
    assert keeping.keep(machine.good, once(machine.good.unlink)) in (b"a" * 3 * PIECE, None)
    assert keeping.is_clean


def test_a_file_that_is_written_to_all_the_time_is_kept_whole_or_not_at_all(machine: Machine, keeping: Keeping) -> None:
    """Each state that was ever in the file is of one letter."""
    size = 3 * PIECE
    machine.good.write_bytes(b"a" * size)
    done = threading.Event()

    def write() -> None:
        for number in itertools.count():
            if done.is_set():
                return
            machine.put(machine.out / "next", bytes([97 + number % 26]) * size).replace(machine.good)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(20):
            content = keeping.keep(machine.good)
            assert content is None or len(set(content)) == 1
    finally:
        done.set()
        writer.join()
    assert keeping.is_clean


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────

HASH = "0" * 64

KEYS = [
    f"../{HASH}/a",
    f"../../{HASH}/a",
    f"../../../outside/{HASH}/a",
    f"../outside/{HASH}",
    f"./../{HASH}/a",
    f"%2e%2e/{HASH}/a",
    f"%252e%252e/{HASH}/a",
    f"..\\..\\outside/{HASH}/a",
    f"local\\..\\../{HASH}/a",
    f"local/../{HASH}",
    "local/../../outside/secret.txt",
    f"local/{'../' * 21}x/a",
    f"local/{HASH}/../../../../outside/secret.txt",
    f"/{HASH}/a",
    f"//{HASH}",
    f"local\0/{HASH}/a",
    "",
]


@pytest.mark.parametrize("key", KEYS)
def test_no_key_leads_out_of_the_file_store(machine: Machine, key: str) -> None:
    folder = machine.folder / "files"
    store = LocalFileStore(folder, "mcp-files")
    # A secret wherever these keys could lead.
    for place in (folder, machine.folder, folder / "mcp-files", machine.outside, folder / "mcp-files" / "outside"):
        machine.put(place / HASH)
    (folder / "mcp-files" / "local").mkdir()
    before = {path: path.read_bytes() for path in machine.folder.rglob("*") if path.is_file()}

    with pytest.raises(FileMissing), store.read(key) as source:
        pytest.fail(f"{key!r} was read: {source.read()!r}")
    snapshot = machine.put(machine.folder / "snapshot", b"overwritten")
    with pytest.raises(PerdureError):
        store.put(key, snapshot, media_type="text/plain")

    snapshot.unlink(missing_ok=True)
    assert {path: path.read_bytes() for path in machine.folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("key", KEYS)
def test_a_row_with_a_key_of_an_attackers_making_brings_back_nothing(machine: Machine, key: str) -> None:
    """As if the database were not ours alone."""

    class Planted(MemoryStore):
        def file(self, principal: str, key: str) -> StoredFile | None:
            digest = hashlib.sha256(SECRET).hexdigest()
            return StoredFile(
                key=key, bucket="mcp-files", name="a", sha256=digest, size=len(SECRET), media_type="text/plain"
            )

    folder = machine.folder / "files"
    for place in (folder, machine.folder, folder / "mcp-files", machine.outside):
        machine.put(place / HASH)
    keeper = FileKeeper(Planted(), LocalFileStore(folder, "mcp-files"), folder)
    with pytest.raises(PerdureError):
        keeper.bring_back("local", f"storage://mcp-files/{key}", max_bytes=10**6, progress=lambda *_: None)
    with pytest.raises(PerdureError):
        keeper.bring_back("local", f"storage://mcp-files/local/{key}", max_bytes=10**6, progress=lambda *_: None)


@pytest.mark.parametrize(
    "name", ["../../../escaped", "/escaped", "..", ".", "a/../../../escaped", "\\..\\escaped", "x\0"]
)
def test_a_logical_name_never_leads_out_of_the_folder_for_copies(machine: Machine, name: str) -> None:
    content = b"content"
    digest = hashlib.sha256(content).hexdigest()
    key = f"local/{digest}/a"

    class Planted(MemoryStore):
        def file(self, principal: str, key: str) -> StoredFile | None:
            return StoredFile(
                key=key, bucket="mcp-files", name=name, sha256=digest, size=len(content), media_type="text/plain"
            )

    folder = machine.folder / "files"
    store = LocalFileStore(folder, "mcp-files")
    store.put(key, machine.put(machine.folder / "snapshot", content), media_type="text/plain")
    keeper = FileKeeper(Planted(), store, folder)

    path = keeper.bring_back("local", f"storage://mcp-files/{key}", max_bytes=10**6, progress=lambda *_: None)

    assert path.resolve().is_relative_to(keeper.copies.resolve())
    assert path.read_bytes() == content
    assert not [found for found in machine.folder.rglob("escaped") if not found.is_relative_to(keeper.copies)]


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

ADVERSARIAL: dict[str, Callable[[int], str]] = {
    "letters": lambda n: "a" * n,
    "a path": lambda n: "/tmp/" + "a" * n,
    "slashes": lambda n: "/" * n,
    "short components": lambda n: "/a" * (n // 2),
    "components of dots": lambda n: "/.." * (n // 3),
    "many paths in prose": lambda n: " /a" * (n // 3),
    "paths that end in points": lambda n: "/a" + "." * n,
    "words of points": lambda n: "/a... " * (n // 6),
    "schemes": lambda n: "file://" * (n // 7),
    "schemes with a slash": lambda n: "file:///" * (n // 8),
    "schemes apart": lambda n: " file:///a" * (n // 10),
    "percents": lambda n: "file:///" + "%" * n,
    "encoded": lambda n: "file:///" + "%2e" * (n // 3),
    "storage schemes": lambda n: "storage://" * (n // 10),
    "a storage uri": lambda n: "storage://b/" + "a" * n,
    "space before": lambda n: " " * n + "/a",
    "space after": lambda n: "/a" + " " * n,
    "space around": lambda n: " " * (n // 2) + "/a" + " " * (n // 2),
    "lines": lambda n: "\n" * n,
    "quotes": lambda n: '"' * n,
    "quotes in a quote": lambda n: '["' + '\\"' * (n // 2) + '"]',
    "backslashes": lambda n: '["' + "\\\\" * (n // 2) + '"]',
    "a quote that does not end": lambda n: '["' + "a" * n,
    "open brackets": lambda n: "[" * n,
    "open braces": lambda n: '{"a":' * (n // 5),
    "brackets that close": lambda n: "[" * (n // 2) + "]" * (n // 2),
    "many strings": lambda n: "[" + '"/a",' * (n // 5) + "1]",
    "many members": lambda n: "{" + '"a":"/b",' * (n // 9) + '"a":1}',
    "strings with space after": lambda n: "[" + ('"a"' + " " * 500 + ",") * (n // 504) + "1]",
    "one string and space": lambda n: '["a"' + " " * n + "]",
    "digits": lambda n: "[" + "1" * n + "]",
    "digits after a point": lambda n: "[0." + "1" * n + "]",
    "exponents": lambda n: "[1e" + "1" * n + "]",
    "escapes": lambda n: '["' + "\\u002f" * (n // 6) + '"]',
    "surrogates": lambda n: "/" + "\ud800" * n,
    "NULs": lambda n: "/" + "\0" * n,
    "brackets in an address": lambda n: "file://[" + ":" * n,
}


def look(text: str) -> None:
    """All that is done to a string on its way, short of the file system."""

    def found(value: str) -> None:
        with suppress(UnicodeEncodeError):
            local_path(value)

    result = {"content": [{"type": "text", "text": text}, {"type": "resource_link", "uri": text}]}
    rewritten_result({**result, "structuredContent": {"a": [text]}}, found, prose=True)
    replaced_by_schema({"a": [text], "b_url": text}, None, lambda value, _: storage_uri(value) and None)
    found(text)
    storage_uri(text)


def taken(text: str, times: int) -> float:
    best = math.inf
    for _ in range(times):
        started = time.process_time()
        look(text)
        best = min(best, time.process_time() - started)
    return best


@pytest.mark.parametrize("what", ADVERSARIAL)
def test_no_string_takes_more_than_linear_time(what: str) -> None:
    """Eight times as much takes about eight times as long; were it squared, it would be sixty-four times."""
    make = ADVERSARIAL[what]
    short, long = taken(make(131_072), 5), taken(make(1_048_576), 2)
    assert long <= max(short, 0.0005) * 24, (short, long)


def test_what_is_squared_is_noticed() -> None:
    """The control."""

    def squared(text: str) -> None:
        for start in range(0, len(text), 128):
            text[start:].count("b")

    figures = []
    for size in (131_072, 1_048_576):
        started = time.process_time()
        squared("a" * size)
        figures.append(time.process_time() - started)
    assert figures[1] > max(figures[0], 0.0005) * 24


async def test_a_megabyte_of_path_is_answered_like_any_text(machine: Machine, activate: Activate) -> None:
    activate(defaults=ToolSettings(file_roots=(machine.out,), rewrite_text=True))
    for text in (f"{machine.out}/" + "x" * 1_000_000, f"{machine.out}/x " * 30_000):
        result = await given_out(text)
        assert result["content"][0]["text"] == text
        assert result["_meta"]["perdure/persisted"] is True
        assert len(json.dumps(result["_meta"])) < 10_000
