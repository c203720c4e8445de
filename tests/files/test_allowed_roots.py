"""Which files may be read, case by case: the reasons that are given, and the settings that are named."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from perdure.errors import SettingsError
from perdure.middleware.persistence.files.allowed_roots import AllowedRoots, FileRefused, may_be_root

Made = Callable[[Path], str]


@pytest.fixture
def land(tmp_path: Path) -> Path:
    """`out` is to be a root; `link` leads to it, `outside` lies beside it."""
    for path in ("out/sub/a.txt", "out/a.txt", "out/.env", "out/.git/config", "outside/a.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(path.encode())
    (tmp_path / "link").symlink_to("out")
    (tmp_path / "out" / "leads").symlink_to("a.txt")
    (tmp_path / "out" / "way").symlink_to("sub")
    (tmp_path / "out" / "hard").hardlink_to(tmp_path / "outside" / "a.txt")
    os.mkfifo(tmp_path / "out" / "fifo")
    return tmp_path


def content(roots: AllowedRoots, path: object) -> bytes:
    file = roots.open(str(path))
    try:
        assert os.fstat(file.descriptor) == file.status
        assert file.name == Path(str(path)).name
        assert not os.get_inheritable(file.descriptor)
        return os.read(file.descriptor, 100)
    finally:
        os.close(file.descriptor)


def refusal(roots: AllowedRoots, path: object) -> tuple[str, str | None]:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileRefused) as refused:
        roots.open(str(path))
    assert str(refused.value) == refused.value.reason
    assert len(os.listdir("/proc/self/fd")) == before
    return refused.value.reason, refused.value.setting


@pytest.mark.parametrize("path", ["out/a.txt", "out/sub/a.txt", "out//sub/./a.txt", "link/a.txt", "link/sub/a.txt"])
@pytest.mark.parametrize("root", ["out", "link", "out/sub/..", "out/"])
def test_a_file_under_a_root_is_opened_by_the_name_the_root_was_given_or_really_has(
    land: Path, root: str, path: str
) -> None:
    if path.startswith("link") and root != "link":
        assert refusal(AllowedRoots([land / root]), land / path)[1] == "file_roots"
        return
    wanted = "out/sub/a.txt" if "sub" in path else "out/a.txt"
    assert content(AllowedRoots([land / root]), f"{land}/{path}") == wanted.encode()


@pytest.mark.parametrize(
    ("path", "reason", "setting"),
    [
        ("outside/a.txt", "it lies outside of the allowed roots", "file_roots"),
        ("out", "it lies outside of the allowed roots", "file_roots"),
        ("out/", "it lies outside of the allowed roots", "file_roots"),
        ("out/.", "it lies outside of the allowed roots", "file_roots"),
        ("out/../outside/a.txt", "it has '..' in it", None),
        ("out/sub/../a.txt", "it has '..' in it", None),
        ("out/a\0.txt", "its name is no file name", None),
        ("out/\ud800", "its name is no file name", None),
        ("out/.env", "it is a dot file, or lies in a dot directory", None),
        ("out/.git/config", "it is a dot file, or lies in a dot directory", None),
        ("out/nothing", "it cannot be opened: No such file or directory", None),
        ("out/nothing/a.txt", "it cannot be opened: No such file or directory", None),
        ("out/a.txt/a.txt", "it cannot be opened: Not a directory", None),
        ("out/way/a.txt", "it cannot be opened: Not a directory", None),
        ("out/leads", "it is no regular file", None),
        ("out/sub", "it is no regular file", None),
        ("out/fifo", "it is no regular file", None),
        ("out/hard", "it has further hard links, so that it may be a file from elsewhere", None),
    ],
    ids=ascii,
)
def test_what_is_refused_is_said_with_the_setting_that_would_admit_it(
    land: Path, path: str, reason: str, setting: str | None
) -> None:
    assert refusal(AllowedRoots([land / "out"]), f"{land}/{path}") == (reason, setting)


def test_a_name_that_begins_like_a_root_lies_outside(land: Path) -> None:
    assert refusal(AllowedRoots([land / "out"]), land / "outside" / "a.txt")[1] == "file_roots"
    assert content(AllowedRoots([land / "outside"], never=[land / "out"]), _put(land / "outside" / "b.txt")) == b"put"


# ── roots within roots, and our own ──────────────────────────────────────────────────────────────────────────


def test_our_own_data_is_never_read_unless_a_root_lies_within_it(land: Path) -> None:
    own = land / "out" / "sub"
    assert refusal(AllowedRoots([land / "out"], never=[own]), own / "a.txt") == ("it is perdure's own", None)
    assert content(AllowedRoots([land / "out"], never=[own]), land / "out" / "a.txt") == b"out/a.txt"
    assert refusal(AllowedRoots([own], never=[own]), own / "a.txt")[0] == "it is perdure's own"
    through = land / "link" / "sub" / "a.txt"
    assert refusal(AllowedRoots([land / "link"], never=[own]), through)[0] == "it is perdure's own"
    assert content(AllowedRoots([own], never=[land / "out"]), own / "a.txt") == b"out/sub/a.txt"


def _put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"put")
    return path


def of_another(path: Path) -> Path:
    os.chown(_put(path), 12345, 12345)
    return path


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")


@as_root
def test_in_a_shared_directory_only_our_own_files_are_read(land: Path) -> None:
    theirs = of_another(land / "out" / "theirs.txt")
    assert refusal(AllowedRoots([], [land / "out"]), theirs) == ("it belongs to another user", None)
    assert content(AllowedRoots([land / "out"]), theirs) == b"put"
    assert content(AllowedRoots([], [land / "out"]), land / "out" / "a.txt") == b"out/a.txt"
    (land / "out" / "second").hardlink_to(theirs)
    assert refusal(AllowedRoots([land / "out"]), theirs) == ("it belongs to another user", None)


@as_root
def test_the_narrowest_root_decides(land: Path) -> None:
    theirs = of_another(land / "out" / "sub" / "theirs.txt")
    assert content(AllowedRoots([land / "out" / "sub"], [land / "out"]), theirs) == b"put"
    assert refusal(AllowedRoots([land / "out"], [land / "out" / "sub"]), theirs) == ("it belongs to another user", None)
    through = land / "link" / "sub" / "theirs.txt"
    assert refusal(AllowedRoots([land / "link"], [land / "out" / "sub"]), through)[0] == "it belongs to another user"


# ── what may be a root ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def home(land: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (land / "home" / "me" / "out").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(land / "home" / "me"))
    return land / "home" / "me"


@pytest.mark.parametrize(
    ("root", "may"),
    [
        (lambda home: Path("/"), False),
        (lambda home: home, False),
        (lambda home: home.parent, False),
        (lambda home: home / "out" / "..", False),
        (lambda home: Path("~"), False),
        (lambda home: Path("relative"), False),
        (lambda home: Path("/a\0b"), False),
        (lambda home: home / "out", True),
        (lambda home: Path("~/out"), True),
        (lambda home: home.parent / "m", True),
        (lambda home: home.parent / "me2", True),
    ],
)
def test_what_holds_all_of_a_user_is_no_root(home: Path, root: Callable[[Path], Path], may: bool) -> None:
    path = root(home)
    assert may_be_root(path) is may
    refused = AllowedRoots([path]).refused
    assert [type(error) for error in refused] == ([] if may else [SettingsError])
    assert AllowedRoots([], [path]).refused == []
    for error in refused:
        assert str(path) in error.what
        assert error.what.startswith("file_roots: ")
        assert error.remedy in (
            "write the path in full, from / on.",
            "name the directory that the tools write to.",
        )


def test_one_root_that_is_refused_costs_no_other(home: Path, land: Path) -> None:
    roots = AllowedRoots([home, land / "out"], [home])
    assert len(roots.refused) == 1
    assert content(roots, land / "out" / "a.txt") == b"out/a.txt"
    assert refusal(roots, _put(home / "a.txt"))[1] == "file_roots"


# ── roots that change ────────────────────────────────────────────────────────────────────────────────────────


def test_a_root_that_is_gone_or_has_become_a_link_is_named(land: Path) -> None:
    roots = AllowedRoots([land / "out"])
    (land / "out").rename(land / "away")
    assert refusal(roots, land / "out" / "a.txt") == (f"{land}/out cannot be opened: No such file or directory", None)
    (land / "out").symlink_to("away")
    assert refusal(roots, land / "out" / "a.txt") == (f"{land}/out cannot be opened: Not a directory", None)


def test_a_root_above_which_there_is_a_link_now_is_named(land: Path) -> None:
    roots = AllowedRoots([land / "out" / "sub"])
    (land / "out").rename(land / "away")
    (land / "out").symlink_to("away")
    reason = f"{land}/out/sub is no longer the directory that was chosen"
    assert refusal(roots, land / "out" / "sub" / "a.txt") == (reason, None)
