"""Looks for a result that makes the path finder fail: `python -m tests.fuzz.path_finder --inputs 1000000 [--seed S]`.

Each input is a tool's result or a call's arguments, made of what the finder looks for, whole, broken and nested. It is
searched with the real roots over a real directory, in which there are good files and everything that must not be
opened. Of each is held: nothing is raised, nothing outside of the roots is opened, what is replaced is exactly the
good files, and where nothing is replaced the result is equal.
"""

import argparse
import contextlib
import json
import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `python tests/fuzz/path_finder.py` and `-m`

from fuzz.watched_opens import WatchedOpens

from perdure.middleware.argument_schema import replaced_by_schema
from perdure.middleware.path_rewriting import local_path, rewritten_result, storage_uri
from perdure.middleware.persistence.files.allowed_roots import AllowedRoots, FileRefused

__all__ = ["Figures", "Land", "Maker", "Run", "fuzz", "watched"]

GOOD = "storage://mcp-files/local/" + "0" * 64 + "/good"
"""What a good path is replaced with."""

CONTENT = b"public"


@dataclass
class Figures:
    inputs: int = 0
    replaced: int = 0
    """Inputs in which something was."""
    paths: int = 0
    """Distinct and not: whatever was taken to the roots."""
    opened: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    opens_seen: int = 0
    outside: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Land:
    """A directory with a root in it, good files, and what must not be opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.out, self.outside = self.folder / "out", self.folder / "outside"
        (self.out / "sub dir").mkdir(parents=True)
        self.outside.mkdir()
        good = ["a.txt", "b c.txt", "ü.txt", "100%.txt", "%2e%2e", "sub dir/d.txt", "q?x#y;z.txt", "a..b", "x'y\"z"]
        self.good = [str(self.out / name) for name in good]
        self.good.append(os.fsdecode(os.fsencode(self.out) + b"/caf\xe9"))
        for path in self.good:
            self._put(path, CONTENT)
        secrets = [self.outside / "secret.txt", self.out / ".env", self.out / ".git" / "config"]
        for secret in secrets:
            secret.parent.mkdir(exist_ok=True)
            self._put(str(secret), b"secret")
        (self.out / "link").symlink_to(self.outside / "secret.txt")
        (self.out / "way").symlink_to(self.outside)
        (self.out / "top").symlink_to("/")
        (self.out / "loop").symlink_to(self.out / "loop")
        (self.out / "hard").hardlink_to(self.outside / "secret.txt")
        os.link(self.outside / "secret.txt", self.outside / "second")
        os.mkfifo(self.out / "fifo")
        self._socket = socket.socket(socket.AF_UNIX)
        with contextlib.chdir(self.out):  # the address of a socket must be short
            self._socket.bind("socket")
        inside = ["link", "way/secret.txt", "top/etc/passwd", "loop", "hard", "fifo", "socket", "sub dir", "nothing"]
        inside += [".env", ".git/config", "../outside/secret.txt", "sub dir/../a.txt", "a.txt/x", "way/../a.txt", ""]
        self.bad = [f"{self.out}/{name}" for name in inside]
        self.bad += [*map(str, secrets), f"{self.out}side/secret.txt", str(self.out), "/etc/passwd", "/proc/self/mem"]
        self.bad += [
            "/",
            "/dev/zero",
            f"/{self.good[0]}",
            "//host/share",
            "/home/nobody/.ssh/id_rsa",
            "/proc/self/fd/0",
        ]

    @staticmethod
    def _put(path: str, content: bytes) -> None:
        Path(path).write_bytes(content)

    def close(self) -> None:
        self._socket.close()


class Maker:
    """Makes inputs: the same for the same choices of `pick`."""

    def __init__(self, land: Land, pick: random.Random) -> None:
        self._land = land
        self._random = pick
        self._within = 0
        """How many JSON texts what is being made lies in."""
        self._alphabet = "aZ09 /\\.%:?#&=+~-_\"'`<>()[]{},;\n\r\t\0é日\u2028\u202e\ud800\udcff🦜"
        self._pieces = [
            "file://", "file:///", "FILE://localhost", "file://host", "file:", "storage://", "//", "/../", "/./", "..",
            "%2e%2e", "%252e", "%2f", "%5c", "%00", "%ff", "%c0%ae", "%", "\\", "\\u002f", "\\/", "\0", "~", "null",
            '"', '\\"', "{", "}", "[", "]", ":", ",", " ", "\n", "1e999", "-0", "9" * 40, "\ud800", "x" * 300,
            "/" * 40, "storage://mcp-files/local/" + "0" * 64 + "/a", "mcp-files", "http://a/b", str(land.out), "/etc",
        ]  # fmt: skip

    def result(self) -> dict[str, Any]:
        pick = self._random
        result: dict[str, Any] = {"content": [self._block() for _ in range(pick.choice((0, 1, 1, 1, 2, 3)))]}
        if pick.random() < 0.5:
            result["structuredContent"] = self._value(pick.randint(0, 5))
        if pick.random() < 0.02:
            result["content"] = self._value(2)
        if pick.random() < 0.1:
            result["_meta"] = {"x": self.text()}
        return result

    def arguments(self) -> dict[str, Any]:
        return {self._name(): self._value(self._random.randint(0, 4)) for _ in range(self._random.randint(0, 3))}

    def text(self) -> str:
        pick = self._random
        match pick.randrange(10):
            case 0 | 1 | 2:
                return self._path()
            case 3:
                return self._around(self._path())
            case 4 | 5:
                return self._json()
            case 6:
                return self._prose()
            case 7:
                return "".join(pick.choice(self._pieces) for _ in range(pick.randint(1, 8)))
            case 8:
                return "".join(pick.choices(self._alphabet, k=pick.randint(0, 30)))
            case _:
                return self._broken(pick.choice((self._path, self._json, self._prose))())

    def _path(self) -> str:
        pick = self._random
        path = pick.choice(self._land.good if pick.random() < 0.5 else self._land.bad)
        if pick.random() < 0.15:
            path = path.replace("/", pick.choice(("//", "/./", "///", "\\", "/sub dir/../")), pick.randint(1, 3))
        match pick.randrange(8):
            case 0 | 1:
                return pick.choice(("file://", "FILE://localhost", "file://host")) + quote(os.fsencode(path))
            case 2:
                return "file://" + path
            case 3:
                return self._encoded(path)
            case _:
                return path

    def _encoded(self, path: str) -> str:
        """More than must be, and some of it twice."""
        pick = self._random
        encoded = "".join(
            f"%{byte:02x}" if pick.random() < 0.3 or byte > 126 else chr(byte) for byte in os.fsencode(path)
        )
        return "file://" + (encoded.replace("%", "%25", 1) if pick.random() < 0.2 else encoded)

    def _around(self, text: str) -> str:
        pick = self._random
        before, after = pick.choice((" ", "\n", "'", '"', "`", "(", "[", "", "x", "\t")), pick.choice(" \n'\"`)]. ")
        return before + text + after

    def _prose(self) -> str:
        pick = self._random
        words = [self._path() if pick.random() < 0.4 else pick.choice(self._pieces) for _ in range(pick.randint(1, 6))]
        return pick.choice((" ", " ", ", ", ". ", "\n", "")).join(words)

    def _json(self) -> str:
        pick = self._random
        if self._within == 4:
            return (
                self._path()
            )  # Each text within a text doubles its escapes: bytes that ask for ever more fill the memory.
        self._within += 1
        text = json.dumps(
            self._value(pick.randint(0, 3)),
            ensure_ascii=pick.random() < 0.5,
            indent=pick.choice((None, None, 1, "\t")),
            separators=pick.choice((None, (",", ":"), (" , ", " : "))),
        )
        self._within -= 1
        if pick.random() < 0.2:
            text = text.replace("/", pick.choice(("\\/", "\\u002f", "\\u002F")))
        return pick.choice(("", "", " ", "\n")) + text

    def _broken(self, text: str) -> str:
        pick = self._random
        characters = list(text)
        for _ in range(pick.randint(1, 4)):
            where = pick.randint(0, len(characters))
            match pick.randrange(4):
                case 0:
                    characters.insert(where, pick.choice(self._alphabet))
                case 1:
                    characters.insert(where, pick.choice(self._pieces))
                case 2:
                    del characters[where : where + pick.randint(1, 3)]
                case _:
                    characters[where : where + 1] = [pick.choice(self._alphabet)]
        return "".join(characters)

    def _value(self, depth: int) -> Any:
        pick = self._random
        if depth <= 0 or pick.random() < 0.4:
            return self.text() if pick.random() < 0.7 else pick.choice((None, True, 0, -0.0, 10**30, 1.5, "", [], {}))
        if pick.random() < 0.5:
            return [self._value(depth - 1) for _ in range(pick.randint(0, 3))]
        return {self._name(): self._value(depth - 1) for _ in range(pick.randint(0, 3))}

    def _name(self) -> str:
        pick = self._random
        return pick.choice(("path", "url", "imageUri", "x", "")) if pick.random() < 0.7 else self.text()

    def _block(self) -> Any:
        pick = self._random
        match pick.randrange(10):
            case 0:
                return {"type": "resource_link", "uri": self.text(), "name": self.text()}
            case 1:
                return {"type": "resource", "resource": {"uri": self.text(), "text": self.text()}}
            case 2:
                return pick.choice((None, 1, "text", [], {}, {"type": "text"}, {"type": "text", "text": 1}))
            case 3:
                return {
                    "type": pick.choice(("resource", "resource_link", "image")),
                    "uri": 1,
                    "resource": self._value(1),
                }
            case _:
                return {"type": "text", "text": self.text()}


class Run:
    def __init__(self, land: Land, figures: Figures) -> None:
        self.figures = figures
        self._land = land
        self._good = {os.path.normpath(path) for path in land.good}
        self._roots = AllowedRoots([land.out])

    def look_at_next(self, maker: Maker) -> bool:
        """Make an input and look at it. Returns whether all is well; if not, it is among the failures."""
        number = self.figures.inputs
        made = maker.arguments() if number % 5 == 4 else maker.result()
        try:
            if number % 5 == 4:
                self.look_at_arguments(made)
            else:
                self.look(made, prose=number % 2 == 0)
        except Exception as error:  # whatever it is, it is what was looked for
            self.figures.failures.append(f"input {number}: {error!r}: {made!r}")
        self.figures.inputs += 1
        return not self.figures.failures

    def look(self, result: dict[str, Any], prose: bool) -> None:
        """
        Raises:
            AssertionError: What is held of every input does not hold of this.
        """
        before = self.figures.opened
        found = rewritten_result(result, self._kept, prose=prose)
        if self.figures.opened == before:
            assert _same(found, result), "nothing was replaced, and it is not equal"
        else:
            self.figures.replaced += 1
            text = _written(found)
            assert GOOD in text, "a good path was found, and stayed"
            assert list(found) == list(result)
            again = rewritten_result(found, self._kept, prose=prose)
            assert _same(again, found) or prose, "what was rewritten is rewritten again"
        for block, was in zip(_texts(found), _texts(result), strict=True):
            if block != was and _loaded(was) is not _NONE:
                assert _loaded(block) is not _NONE, "what was JSON is no longer"

    def look_at_arguments(self, arguments: dict[str, Any]) -> None:
        replaced: list[str] = []

        def back(text: str, wants_uri: bool) -> str | None:
            uri = storage_uri(text)
            if uri is None:
                return None
            assert uri.startswith("storage://")
            assert not any(character.isspace() for character in uri)
            replaced.append(uri)
            return "file:///local" if wants_uri else "/local"

        found = replaced_by_schema(arguments, {"properties": {"x": {"format": "uri"}}}, back)
        assert list(found) == list(arguments)
        assert replaced or _same(found, arguments)

    def _kept(self, text: str) -> str | None:
        path = local_path(text)
        if path is None:
            return None
        self.figures.paths += 1
        try:
            file = self._roots.open(path)
        except FileRefused as refused:
            reason = refused.reason.partition(":")[0]
            self.figures.refused[reason] = self.figures.refused.get(reason, 0) + 1
            return None
        try:
            assert os.read(file.descriptor, 100) == CONTENT, f"{path!r} was read"
            assert os.path.normpath(path) in self._good, f"{path!r} was opened"
        finally:
            os.close(file.descriptor)
        self.figures.opened += 1
        return GOOD


@contextlib.contextmanager
def watched(folder: Path, figures: Figures) -> Iterator[tuple[Land, Run]]:
    """Watches this process from then on, for good: run it in one of its own."""
    land = Land(folder)
    watch = WatchedOpens([land.out])
    started = time.monotonic()
    # What is opened relative to a directory, the watch takes to be relative to this one too.
    with contextlib.closing(land), contextlib.chdir(land.out):
        figures.outside = watch.outside
        try:
            yield land, Run(land, figures)
        finally:
            figures.seconds = time.monotonic() - started
            figures.opens_seen, figures.outside = watch.seen, list(watch.outside)


def fuzz(
    inputs: int,
    seed: int,
    folder: Path,
    tell: Callable[[Figures], None] = lambda figures: None,
    *,
    most_failures: int = 5,
) -> Figures:
    """Look at so many inputs, by a generator of our own: see `watched`."""
    figures = Figures()
    started = time.monotonic()
    with watched(folder, figures) as (land, run):
        maker = Maker(land, random.Random(seed))
        for _ in range(inputs):
            run.look_at_next(maker)
            if figures.outside or len(figures.failures) >= most_failures:
                break
            if figures.inputs % 50_000 == 0:
                figures.seconds = time.monotonic() - started
                tell(figures)
    return figures


_NONE = object()


def _loaded(text: str) -> Any:
    try:
        return json.loads(text, parse_int=len)
    except (ValueError, RecursionError):
        return _NONE


def _written(value: Any) -> str:
    return json.dumps(value)


def _same(one: Any, two: Any) -> bool:
    return _written(one) == _written(two)


def _texts(result: dict[str, Any]) -> list[str]:
    content = result["content"] if isinstance(result.get("content"), list) else []
    return [block["text"] for block in content if isinstance(block, dict) and isinstance(block.get("text"), str)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.path_finder", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)

    def tell(figures: Figures) -> None:
        print(f"{figures.inputs:,} inputs, {figures.seconds:.0f} s", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="perdure-fuzz-") as folder:
        figures = fuzz(arguments.inputs, arguments.seed, Path(folder), tell)
    print(
        f"{figures.inputs:,} inputs in {figures.seconds:.1f} s: {figures.replaced:,} rewritten;"
        f" {figures.paths:,} paths taken to the roots, {figures.opened:,} opened and all of them good;"
        f" {figures.opens_seen:,} openings seen, {len(figures.outside)} outside of the roots;"
        f" {len(figures.failures)} failures."
    )
    for reason, count in sorted(figures.refused.items(), key=lambda item: -item[1]):
        print(f"  {count:>10,}  {reason}")
    for line in [*figures.outside[:5], *figures.failures]:
        print(line[:2000])
    return 1 if figures.outside or figures.failures else 0


if __name__ == "__main__":
    sys.exit(main())
