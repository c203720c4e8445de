"""kill -9 of processes that upload to Supabase Storage, at random, amid their uploads; then others go on.

    python tests/soak/upload_kills.py --kills 100 --size 50MB

Prints one line with what it found. The exit code is 1 if an object is not what was sent, or if a kill cost more than
one chunk sent again. Uploads go by turns to a server that counts what arrived of a chunk and to one that does not.
"""

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers.gateway import GatewayOptions
from servers.gateway_tus import CHUNK, TusRules
from servers.postgres_cluster import PostgresCluster
from servers.supabase_stack import SupabaseStack

from perdure.middleware.persistence.file_stores.supabase import SupabaseFileStore
from perdure.middleware.persistence.supabase_api.client import SupabaseApi

BUCKET = "mcp-files"
MOST_OF_ONE = 10
"""Kills of one upload, after which it may come to its end."""

FIRST_GUESS = 100e6
"""Bytes a second: how long an upload takes, by which moments for kills are chosen. It is mended on the way."""

PATIENCE = 120.0
"""Seconds after which an upload that nobody kills counts as hung."""


@dataclass(frozen=True, kw_only=True)
class Found:
    violations: Sequence[str]
    kills: int
    amid: int
    """Kills after the first byte had arrived, and before the object was there."""
    objects: int
    size: int
    again: int
    """Bytes that were sent more than once."""
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.kills} uploads killed ({self.amid} between first and last byte) in {self.seconds:.1f} s; "
            f"{self.objects} objects of {self.size:,} bytes whole, {self.again / 1e6:.1f} MB sent again "
            f"({self.again / CHUNK / max(self.kills, 1):.2f} chunks a kill), {len(self.violations)} violations"
        )


def kill_uploads(cluster: PostgresCluster, *, kills: int, size: int, seed: int) -> Found:
    """Upload one file after the other, each by processes that are killed until it has had its share."""
    dice = random.Random(seed)
    violations: list[str] = []
    killed = amid = objects = again = 0
    began = time.monotonic()
    rules = [TusRules(keeps_partial=keeps) for keeps in (True, False)]
    with tempfile.TemporaryDirectory() as folder:
        stacks = [SupabaseStack(cluster, process=True, options=GatewayOptions(tus=each)) for each in rules]
        try:
            for stack in stacks:
                stack.start()
            longest = size / FIRST_GUESS
            while killed < kills:
                stack = stacks[objects % 2]
                upload = Upload(stack, Path(folder), size, dice)
                here = 0
                share = min(kills - killed, dice.randint(1, MOST_OF_ONE))
                while here < share:
                    with Child(upload) as child:
                        if not child.is_killed_after(dice.uniform(0.0, longest)):
                            longest *= 0.8  # it was faster
                            break
                    here += 1
                    amid += upload.is_amid()
                with Child(upload) as child:
                    if said := child.failed():
                        violations.append(f"{upload.key}: the upload that nobody killed failed: {said}")
                killed += here
                objects += 1
                again += max(upload.sent() - size, 0)
                violations += upload.violations(here)
                stack.empty()
        finally:
            for stack in stacks:
                stack.close()
    return Found(
        violations=violations,
        kills=killed,
        amid=amid,
        objects=objects,
        size=size,
        again=again,
        seconds=time.monotonic() - began,
    )


class Upload:
    """One file, and what the server has of it."""

    def __init__(self, stack: SupabaseStack, folder: Path, size: int, dice: random.Random) -> None:
        content = dice.randbytes(size)
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.key = f"alice/{self.sha256}/large.bin"
        self.stack = stack
        self.folder = folder
        self.snapshot = folder / "snapshot"
        self.snapshot.write_bytes(content)
        self._size = size

    def sent(self) -> int:
        return sum(chunk.received for chunk in self.stack.chunks(f"{BUCKET}/{self.key}"))

    def is_amid(self) -> bool:
        return self.sent() > 0 and self.stack.object_bytes(BUCKET, self.key) is None

    def violations(self, kills: int) -> list[str]:
        found = []
        stored = self.stack.object_bytes(BUCKET, self.key)
        if stored is None:
            found.append(f"{self.key}: there is no object")
        elif hashlib.sha256(stored).hexdigest() != self.sha256:
            found.append(f"{self.key}: {len(stored)} bytes that are not what was sent")
        if self.sent() > self._size + kills * CHUNK:
            found.append(f"{self.key}: {self.sent()} bytes were sent in {kills} kills")
        if notes := [path.name for path in (self.folder / "data").rglob("*") if path.is_file()]:
            found.append(f"{self.key}: {notes} stayed behind")
        return found


class Child:
    """A process that uploads."""

    def __init__(self, upload: Upload) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--upload", upload.key, "--folder", upload.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._tell(f"{upload.stack.url} {upload.stack.secret_key}")
        assert self._process.stdout
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError(self._process.communicate()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def is_killed_after(self, seconds: float) -> bool:
        """Let it begin, and kill it; False if it had ended before."""
        self._tell("go")
        time.sleep(seconds)
        self._process.kill()
        return self._process.wait() == -9

    def failed(self) -> str:
        """Let it begin and come to its end; what it said if that was a bad one."""
        self._tell("go")
        _, said = self._process.communicate(timeout=PATIENCE)
        return said if self._process.returncode else ""

    def _tell(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()


def _upload(key: str, folder: Path) -> None:
    api = SupabaseApi(*sys.stdin.readline().split())
    assert api.client  # so that all there is to import is there
    print("ready", flush=True)
    sys.stdin.readline()
    store = SupabaseFileStore(api, BUCKET, folder / "data", timeout=PATIENCE)
    store.put(key, folder / "snapshot", media_type="application/octet-stream")
    os._exit(0)


def _bytes(text: str) -> int:
    return int(float(text.upper().removesuffix("MB")) * 1_000_000)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--size", type=_bytes, default=50_000_000, help="of each file, such as 50MB")
    parser.add_argument("--seed", type=int, default=20261125)
    parser.add_argument("--upload", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.upload is not None:
        _upload(given.upload, given.folder)
        return 0
    with PostgresCluster(fsync=False) as cluster:
        found = kill_uploads(cluster, kills=given.kills, size=given.size, seed=given.seed)
    print(found)
    for violation in found.violations[:20]:
        print(violation, file=sys.stderr)
    return 1 if found.violations else 0


if __name__ == "__main__":
    sys.exit(main())
