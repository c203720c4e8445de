"""Under `perdure run` a program is what it is under plain `python`: its paths, its end, its children."""

import json
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
from run.starting import PYTHON, RUN, ended

PROBE = """
import os, sys, json, atexit
import __main__ as main
spec = main.__spec__
print(json.dumps({
    "argv": sys.argv, "path": sys.path, "cwd": os.getcwd(), "name": __name__, "flags": repr(sys.flags),
    "file": main.__dict__.get("__file__"), "package": main.__package__, "loader": type(main.__loader__).__name__,
    "spec": spec and [spec.name, spec.origin], "orig": sys.orig_argv,
    "is_main": sys.modules["__main__"].__dict__ is globals(),
    "meta_path": len(sys.meta_path), "hooks": [repr(sys.excepthook), repr(sys.displayhook)],
    "modules": sorted(set(sys.modules) - {"sitecustomize"}), "executable": sys.executable, "doc": main.__doc__,
    "environment": {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "_")},
}))
"""
"""Prints all by which a program could know how it was started."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Programs in every form that Python starts."""
    folder = tmp_path / "theirs"
    (folder / "sub").mkdir(parents=True)
    (folder / "probe.py").write_text(PROBE)
    (folder / "sub" / "probe.py").write_text(PROBE)
    package = folder / "package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "inner" / "__init__.py").touch()
    (package / "words.py").write_text("word = 1")
    (package / "__main__.py").write_text("from .words import word\nfrom . import inner\n" + PROBE)
    (package / "inner" / "deep.py").write_text("from ..words import word\n" + PROBE)
    with zipfile.ZipFile(folder / "zipped.pyz", "w") as zipped:
        zipped.writestr("__main__.py", PROBE)
    (folder / "directory").mkdir()
    (folder / "directory" / "__main__.py").write_text(PROBE)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["probe.py"],
        ["./sub/probe.py", "--config", "x", "--help", "-m", "--", "-"],
        ["-m", "package"],
        ["-m", "package.inner.deep", "-x", "--version"],
        ["zipped.pyz", "a"],
        ["directory"],
    ],
    ids=" ".join,
)
def test_a_program_cannot_tell_how_it_was_started(words: list[str], folder: Path) -> None:
    plain = ended([PYTHON, *words], cwd=folder)
    under = ended([*RUN, *words], cwd=folder)
    assert plain.code == under.code == 0
    expected, told = json.loads(plain.stdout), json.loads(under.stdout)
    assert told.pop("meta_path") == expected.pop("meta_path") + 1  # it waits for mcp
    assert told == expected
    assert under.stderr == plain.stderr


@pytest.mark.parametrize(
    "program",
    [
        "import sys; sys.exit(3)",
        "import sys; sys.exit('words for stderr')",
        "import sys; sys.exit()",
        "def inner():\n    raise ValueError('broken')\ninner()",
        "import nothing_of_that_name",
        "this is no Python",
        "import os; os._exit(7)",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "raise KeyboardInterrupt",
        "import atexit, sys; atexit.register(print, 'at the end'); sys.exit(4)",
        "import threading, time; threading.Thread(target=lambda: (time.sleep(0.2), print('later'))).start()",
        "print(input() + input())",
    ],
    ids=lambda program: program.split(";")[-1].split("\n")[0].strip()[:40],
)
def test_a_program_ends_as_it_does_under_python(program: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(program)
    plain, under = (ended([*start, "program.py"], cwd=tmp_path, stdin="a\nb\n") for start in ([PYTHON], RUN))
    assert under == plain


@pytest.mark.parametrize("words", [["-m", "no_such_module"], ["-m", "json.nothing"]], ids=" ".join)
def test_what_is_not_there_is_missing_in_pythons_own_words(words: list[str], tmp_path: Path) -> None:
    plain, under = (ended([*start, *words], cwd=tmp_path) for start in ([PYTHON], RUN))
    assert under == plain
    assert under.code != 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_program_itself_and_end_it_as_ever(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import os, time\nprint(os.getpid(), flush=True)\ntry:\n    time.sleep(60)\nfinally:\n    print('cleaned up')"
    )
    ends = []
    for start in ([PYTHON], RUN):
        process = subprocess.Popen(
            [*start, "program.py"], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            assert int(process.stdout.readline()) == process.pid
            time.sleep(0.5)  # until it is past that line
            process.send_signal(number)
            ends.append((*process.communicate(timeout=60), process.returncode))
        finally:
            process.kill()
            process.wait()
    assert ends[0] == ends[1]


def test_processes_of_its_own_find_what_they_need(tmp_path: Path) -> None:
    """`spawn` imports `__main__` anew in the child, and pickles functions by their place in it."""
    (tmp_path / "program.py").write_text(
        """
import multiprocessing, pickle, sys
from concurrent.futures import ProcessPoolExecutor

class Thing:
    def __init__(self, number): self.number = number

def work(thing):
    return Thing(thing.number + 1), __name__, sys.argv

if __name__ == "__main__":
    for method in ("spawn", "forkserver", "fork"):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
            thing, name, argv = pool.submit(work, Thing(1)).result()
            print(method, thing.number, type(thing) is Thing, name, argv)
    print(pickle.loads(pickle.dumps(Thing(5))).number)
"""
    )
    plain, under = (ended([*start, "program.py", "a"], cwd=tmp_path) for start in ([PYTHON], RUN))
    assert under == plain
    assert under.code == 0
    assert under.stdout.endswith("5\n")


def test_a_command_is_started_with_the_signals_that_it_would_have(tmp_path: Path) -> None:
    """Python ignores SIGPIPE; what takes its place must not."""
    look = ["grep", "SigIgn", "/proc/self/status"]
    assert ended([*RUN, "--", *look]).stdout == ended(["sh", "-c", " ".join(look)]).stdout


# ── sitecustomize ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "theirs",
    ["import sys; sys.theirs = __file__", "raise RuntimeError('theirs is broken')", "import nothing_of_that_name", ""],
)
def test_a_sitecustomize_that_is_there_already_is_run_as_ever(theirs: str, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(theirs)
    (tmp_path / "program.py").write_text(
        "import sys\nprint(getattr(sys, 'theirs', None))\nprint([path for path in sys.path if 'bootstrap' in path])"
    )
    plain, under = (ended([*start, "program.py"], cwd=tmp_path, PYTHONPATH=str(site)) for start in ([PYTHON], RUN))
    assert under.stdout == plain.stdout
    # The command line is a Python program too, and meets theirs for itself.
    assert under.stderr == plain.stderr * 2


def test_the_servers_folder_stays_the_first_of_its_path(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import sys; print(sys.path[0]); import json; print(json.mine)")
    (tmp_path / "json.py").write_text("mine = 'theirs'")
    assert ended([*RUN, "program.py"], cwd=tmp_path).stdout == f"{tmp_path}\ntheirs\n"


# ── what cannot be started ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--", "no-such-command"], "There is no command no-such-command"),
        (["--"], "perdure run -- COMMAND"),
        (["-m"], "perdure run -m MODULE"),
        (["--unknown", "server.py"], "perdure run SERVER.PY"),
        (["sh", "-c", "true"], "perdure run -- sh -c true"),
    ],
    ids=str,
)
def test_words_that_name_no_server_are_refused_with_those_that_would(
    words: list[str], said: str, tmp_path: Path
) -> None:
    refused = ended([*RUN, *words], cwd=tmp_path)
    assert refused.code == 1
    assert refused.stdout == ""
    assert refused.stderr.startswith("perdure: ")
    assert "Remedy: " in refused.stderr
    assert said in refused.stderr
