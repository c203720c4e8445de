"""Directories that may be read and that may not, and the means to put all that is hostile into them."""

import os
import socket
from contextlib import chdir
from pathlib import Path

__all__ = ["SECRET", "SOMEBODY", "Machine"]

SECRET = b"a secret that must not be read"

SOMEBODY = 12345
"""A user id that nobody has."""


class Machine:
    """`out` is an allowed root, `temp` the temp directory, `outside` and `home` are neither.

    The names matter: 'outside' begins with 'out'.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out, self.temp, self.outside, self.home = (folder / name for name in ("out", "temp", "outside", "home"))
        for made in (self.out / "sub", self.temp, self.outside / "sub", self.home / ".ssh"):
            made.mkdir(parents=True)
        self.good = self.put(self.out / "good.txt", b"public")
        self.secret = self.put(self.outside / "secret.txt")
        self.key = self.put(self.home / ".ssh" / "id_rsa")
        self.put(self.outside / "sub" / "good.txt")
        self.sockets: list[socket.socket] = []

    def put(self, path: Path, content: bytes = SECRET) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def link(self, path: Path, target: "Path | str") -> str:
        path.symlink_to(target)
        return str(path)

    def another_owners(self, path: Path) -> str:
        self.put(path)
        os.chown(path, SOMEBODY, SOMEBODY)
        return str(path)

    def hard_link(self, path: Path, owner: int | None = None) -> str:
        target = self.put(self.outside / f"linked-{path.name}")
        if owner is not None:
            os.chown(target, owner, owner)
        path.hardlink_to(target)
        return str(path)

    def node(self, path: Path, kind: int, device: int = 0) -> str:
        os.mknod(path, kind | 0o666, device)
        return str(path)

    def listening(self, path: Path) -> str:
        made = socket.socket(socket.AF_UNIX)
        with chdir(path.parent):  # the address of a socket must be short
            made.bind(path.name)
        made.listen()
        self.sockets.append(made)
        return str(path)

    def close(self) -> None:
        for made in self.sockets:
            made.close()
