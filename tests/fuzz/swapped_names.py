"""Names that are swapped for links and worse without pause, while the path under them is opened over and over.

The kernel tells of what is opened (inotify), by whomever.
"""

import ctypes
import ctypes.util
import mmap
import os
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.machine import Machine

from perdure.middleware.persistence.files.allowed_roots import AllowedRoots, FileRefused

__all__ = [
    "ALL_SWAPS",
    "LINK_SWAPS",
    "Looked",
    "Opened",
    "Swap",
    "a_directory_and_a_link",
    "a_file_and_a_link",
    "look_amid_swaps",
    "swapping",
]

SWAPPER = """
import ctypes, mmap, os, struct, sys

one, two, counter = (os.fsencode(argument) for argument in sys.argv[1:4])
libc = ctypes.CDLL(None, use_errno=True)
with open(counter, "r+b") as file:
    shared = mmap.mmap(file.fileno(), 16)
AT_FDCWD, RENAME_EXCHANGE = -100, 2
swaps = 0
while not shared[8]:
    if libc.renameat2(AT_FDCWD, one, AT_FDCWD, two, RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    swaps += 1
    shared[:8] = struct.pack("q", swaps)
"""


class Swapping:
    """Another process that swaps two names without pause, each swap in one step."""

    def __init__(self, one: Path, two: Path, counter: Path) -> None:
        counter.write_bytes(bytes(16))
        self._file = counter.open("r+b")
        self._shared = mmap.mmap(self._file.fileno(), 16)
        self._process = subprocess.Popen([sys.executable, "-c", SWAPPER, str(one), str(two), str(counter)])

    @property
    def swaps(self) -> int:
        assert self._process.poll() is None, "the swapper died"
        return int(struct.unpack("q", self._shared[:8])[0])

    def stop(self) -> None:
        self._shared[8] = 1
        self._process.wait()
        self._shared.close()
        self._file.close()


@contextmanager
def swapping(machine: Machine, one: Path, two: Path) -> Iterator[Swapping]:
    made = Swapping(one, two, machine.folder / "counter")
    try:
        yield made
    finally:
        made.stop()


class Opened:
    """What the kernel says of the openings of some files, by whomever."""

    def __init__(self, *paths: Path) -> None:
        self._libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        in_access, in_open = 0x1, 0x20
        for path in paths:
            if self._libc.inotify_add_watch(self._descriptor, os.fsencode(path), in_access | in_open) < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch")

    def __bool__(self) -> bool:
        with suppress(BlockingIOError):
            return bool(os.read(self._descriptor, 1 << 16))
        return False

    def close(self) -> None:
        os.close(self._descriptor)


Swap = Callable[[Machine], tuple[Path, Path, Path]]
"""Makes two names to be swapped, and the path that is given out meanwhile."""


def a_file_and_a_link(machine: Machine) -> tuple[Path, Path, Path]:
    other = Path(machine.link(machine.out / "other", machine.secret))
    return machine.good, other, machine.good


def a_directory_and_a_link(machine: Machine) -> tuple[Path, Path, Path]:
    good = machine.put(machine.out / "sub" / "good.txt", b"public")
    return good.parent, Path(machine.link(machine.out / "other", machine.outside / "sub")), good


def a_directory_high_up_and_a_link(machine: Machine) -> tuple[Path, Path, Path]:
    good = machine.put(machine.out / "a" / "b" / "c" / "good.txt", b"public")
    machine.put(machine.outside / "b" / "c" / "good.txt")
    return machine.out / "a", Path(machine.link(machine.out / "other", machine.outside)), good


def a_file_and_a_hard_link(machine: Machine) -> tuple[Path, Path, Path]:
    other = machine.out / "other"
    other.hardlink_to(machine.secret)
    return machine.good, other, machine.good


def a_file_and_a_fifo(machine: Machine) -> tuple[Path, Path, Path]:
    return machine.good, Path(machine.node(machine.out / "other", stat.S_IFIFO)), machine.good


def the_root_itself_and_a_link(machine: Machine) -> tuple[Path, Path, Path]:
    machine.put(machine.outside / "good.txt")
    return machine.out, Path(machine.link(machine.folder / "other", machine.outside)), machine.good


LINK_SWAPS = [a_file_and_a_link, a_directory_and_a_link, a_directory_high_up_and_a_link, the_root_itself_and_a_link]

ALL_SWAPS = [*LINK_SWAPS, a_file_and_a_hard_link, a_file_and_a_fifo]


@dataclass
class Looked:
    swaps: int = 0
    tries: int = 0
    contents: set[bytes] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    secret_opened: bool = False


def look_amid_swaps(machine: Machine, swap: Swap, *, swaps: int, tries: int, patience: float) -> Looked:
    """Open the path through the roots until there were so many swaps and tries, and both ends were seen.

    Raises:
        TimeoutError: That took longer than `patience`, in seconds.
    """
    one, two, path = swap(machine)
    roots = AllowedRoots([machine.out])
    secrets = [found for found in machine.outside.rglob("*") if found.is_file()]
    # A hard link is the secret itself: it may be opened, to be looked at once more, but not be read.
    seen = Opened(*secrets) if swap is not a_file_and_a_hard_link else None
    looked = Looked()
    done = threading.Event()

    def look(swapped: Swapping) -> None:
        while looked.swaps < swaps or looked.tries < tries or not looked.contents or not looked.refused:
            looked.tries += 1
            looked.swaps = swapped.swaps
            try:
                file = roots.open(str(path))
            except FileRefused as error:
                looked.refused.add(error.reason)
                continue
            looked.contents.add(os.read(file.descriptor, 100))
            os.close(file.descriptor)
        done.set()

    with swapping(machine, one, two) as swapped:
        # In a thread that may be left behind: whoever opens a FIFO as a file waits for ever.
        threading.Thread(target=look, args=(swapped,), daemon=True).start()
        if not done.wait(patience):
            raise TimeoutError(f"{swap.__name__}: {looked} after {patience:g} s")
    if seen is not None:
        looked.secret_opened = bool(seen)
        seen.close()
    return looked
