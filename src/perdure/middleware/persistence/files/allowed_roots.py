"""Which files may be read, and the only place where a tool's path is opened.

A path is walked from its root component by component, each opened relative to the one before without following links:
between a check and the opening nothing can be swapped.
"""

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from perdure.errors import SettingsError

__all__ = ["AllowedRoots", "FileRefused", "OpenFile", "may_be_root"]

_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class FileRefused(Exception):
    """A path that stays as it is. `setting` names what would admit it, if something would."""

    def __init__(self, reason: str, *, setting: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.setting = setting


class OpenFile(NamedTuple):
    descriptor: int
    status: os.stat_result
    name: str


class _Root(NamedTuple):
    named: str
    """As it was configured, with links in it."""
    real: str
    own_files_only: bool


class AllowedRoots:
    """`shared` are directories like the temp directory, where others put files too: there only our own are read.

    `never` is what is never read, wherever it lies: perdure's own data.
    """

    def __init__(self, chosen: Iterable[Path], shared: Iterable[Path] = (), *, never: Iterable[Path] = ()) -> None:
        roots: list[_Root] = []
        self.refused: list[SettingsError] = []
        """What was chosen and is too wide."""
        for path in chosen:
            try:
                roots.append(_root(path, own_files_only=False))
            except SettingsError as error:
                self.refused.append(error)
        for path in shared:
            with contextlib.suppress(SettingsError):  # A temp directory as wide as the home directory admits nothing.
                roots.append(_root(path, own_files_only=True))
        self._never = [os.path.realpath(path) for path in never]
        # The longest first, so that a root inside another decides for what is in it.
        self._roots = sorted(roots, key=lambda root: len(root.named), reverse=True)

    def open(self, path: str) -> OpenFile:
        """Open the regular file at `path`, an absolute path. The descriptor is the caller's to close.

        Raises:
            FileRefused: It lies outside of every root, or is nothing that may be read.
        """
        root, components = self._place(path)
        directory = _open_root(root)
        try:
            for component in components[:-1]:
                inner = os.open(component, _DIRECTORY, dir_fd=directory)
                os.close(directory)
                directory = inner
            # Opening some devices does something: so look first, and again at what was opened.
            _refuse_unless_readable(os.stat(components[-1], dir_fd=directory, follow_symlinks=False), root)
            descriptor = os.open(components[-1], _FILE, dir_fd=directory)
        except OSError as error:
            raise FileRefused(f"it cannot be opened: {error.strerror}") from error
        except UnicodeEncodeError as error:
            raise FileRefused("its name is no file name") from error
        finally:
            os.close(directory)
        try:
            status = os.fstat(descriptor)
            _refuse_unless_readable(status, root)
        except BaseException:
            os.close(descriptor)
            raise
        return OpenFile(descriptor, status, components[-1])

    def _place(self, path: str) -> tuple[_Root, list[str]]:
        """The root that `path` lies under, and the way from there to it."""
        if "\0" in path:
            raise FileRefused("its name is no file name")
        if ".." in path.split("/"):
            raise FileRefused("it has '..' in it")
        for root in self._roots:
            for prefix in (root.named, root.real):
                if path.startswith(prefix + "/"):
                    components = [part for part in path[len(prefix) + 1 :].split("/") if part not in ("", ".")]
                    if not components:
                        break
                    if any(part.startswith(".") for part in components):
                        raise FileRefused("it is a dot file, or lies in a dot directory")
                    return self._decided("/".join([root.real, *components]))
        raise FileRefused("it lies outside of the allowed roots", setting="file_roots")

    def _decided(self, whole: str) -> tuple[_Root, list[str]]:
        """By the narrowest root that `whole`, a path without links in its root, lies in."""
        root = max((root for root in self._roots if whole.startswith(root.real + "/")), key=lambda root: len(root.real))
        if any(whole.startswith(own + "/") and not root.real.startswith(own + "/") for own in self._never):
            raise FileRefused("it is perdure's own")
        return root, whole[len(root.real) + 1 :].split("/")


def may_be_root(path: Path) -> bool:
    """Whether `path` is narrow enough to be an allowed root."""
    try:
        _root(path, own_files_only=False)
    except SettingsError:
        return False
    return True


def _root(path: Path, *, own_files_only: bool) -> _Root:
    named = os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 - keeps links, and takes '..' out
    if not os.path.isabs(os.path.expanduser(path)) or "\0" in named:  # noqa: PTH111, PTH117
        raise SettingsError(
            f"file_roots: {path} is no absolute path of this machine.", remedy="write the path in full, from / on."
        )
    real = os.path.realpath(named)
    home = os.path.realpath(os.path.expanduser("~"))  # noqa: PTH111 - does without, where nobody has a home
    if real in ("/", home) or home.startswith(real + "/"):
        raise SettingsError(
            f"file_roots: {path} is refused, since everything of yours lies under it.",
            remedy="name the directory that the tools write to.",
        )
    return _Root(named.rstrip("/"), real, own_files_only)


def _open_root(root: _Root) -> int:
    """A descriptor of the root as it was when it was chosen.

    Raises:
        FileRefused: It is not there, or it, or what is above it, has become a link since.
    """
    try:
        directory = os.open(root.real, _DIRECTORY)
    except OSError as error:
        raise FileRefused(f"{root.named} cannot be opened: {error.strerror}") from error
    try:
        leads_to = str(Path(f"/proc/self/fd/{directory}").readlink())
    except OSError:
        leads_to = os.path.realpath(root.real)  # A system without /proc.
    if leads_to != root.real:
        os.close(directory)
        raise FileRefused(f"{root.named} is no longer the directory that was chosen")
    return directory


def _refuse_unless_readable(status: os.stat_result, root: _Root) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise FileRefused("it is no regular file")
    if status.st_uid != os.geteuid() and (root.own_files_only or status.st_nlink > 1):
        raise FileRefused("it belongs to another user")
    if status.st_nlink > 1:
        raise FileRefused("it has further hard links, so that it may be a file from elsewhere")
