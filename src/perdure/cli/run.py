"""`perdure run`: start somebody's MCP server as it is, in an environment in which Python covers it.

The server takes this process's place (`exec`), so that its arguments, paths, `__main__`, signals, exit code and child
processes are as ever. All that is added is a folder in PYTHONPATH, whose `sitecustomize` Python runs at its start.
"""

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import NoReturn

from perdure.errors import PerdureError
from perdure.settings_loader import is_switched_on

__all__ = ["run"]

BOOTSTRAP = Path(__file__).resolve().parents[1] / "middleware" / "bootstrap"


def run(words: list[str], *, config: Path | None = None) -> NoReturn:
    """`words` as they stand behind `perdure run`. Does not return: this process is the server from here on.

    Raises:
        PerdureError: They name nothing that could be started.
    """
    match words:
        case ["--", command, *arguments]:
            program = _found(command)
            _say_if_it_cannot_be_covered(program, arguments)
            _become(program, [command, *arguments], config)
        case ["-m", _, *_]:
            _become(sys.executable, [sys.executable, *words], config)
        case [script, *_] if not script.startswith("-"):
            _refuse_what_is_no_file(script, words)
            _become(sys.executable, [sys.executable, *words], config)
        case _:
            raise PerdureError(
                f"perdure run {' '.join(words)} names no server.",
                remedy="write perdure run SERVER.PY, perdure run -m MODULE, or perdure run -- COMMAND.",
            )


def _found(command: str) -> str:
    program = shutil.which(command) or shutil.which(command, path=os.path.dirname(sys.executable))  # noqa: PTH120
    if program is None:
        raise PerdureError(
            f"There is no command {command} that could be run.",
            remedy="see whether it is installed and on the PATH; for a script: perdure run SERVER.PY.",
        )
    return program


def _refuse_what_is_no_file(script: str, words: list[str]) -> None:
    if script and Path(script).exists():
        return
    if shutil.which(script):
        raise PerdureError(
            f"There is no file {script}, but a command of that name.",
            remedy=f"if that is the server: perdure run -- {' '.join(words)}",
        )
    raise PerdureError(
        f"There is no file {script}.", remedy="name the server's script, or its module: perdure run -m MODULE."
    )


def _become(program: str, argv: list[str], config: Path | None) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    # Python ignores these; a program that takes its place would go on ignoring them.
    for name in ("SIGPIPE", "SIGXFSZ"):
        if (number := getattr(signal, name, None)) is not None:
            signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(program, argv, _environment(config))  # noqa: S606 - what the user named, and as it is
    except OSError as error:
        raise PerdureError(
            f"{program} could not be started: {error.strerror}.", remedy="see whether it can be run without perdure."
        ) from error


def _environment(config: Path | None) -> dict[str, str]:
    environment = dict(os.environ)
    environment.pop("_PERDURE_SERVER", None)  # Whoever is named here is covered, by whomever it is started.
    if config is not None:
        environment["PERDURE_CONFIG"] = str(config.absolute())
    if is_switched_on():
        others = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path != str(BOOTSTRAP)]
        environment["PYTHONPATH"] = os.pathsep.join([str(BOOTSTRAP), *filter(None, others)])
    return environment


def _say_if_it_cannot_be_covered(program: str, arguments: list[str]) -> None:
    """It is started all the same."""
    if not is_switched_on():
        return
    line = _first_line(program)
    name = Path(program).name
    if not name.startswith(("python", "pypy")) and "python" not in line and "pypy" not in line:
        what = f"{program} is no Python program. Python processes that it starts are covered, and nothing else."
        remedy = f"for a server in another language: perdure proxy -- {name} …"
    elif _ignores_environment(arguments if line == "" else line.split()[1:]):
        what = f"{program} is told to ignore PYTHONPATH (-I or -E), so it cannot be covered: nothing of it is kept."
        remedy = "start its module: perdure run -m MODULE."
    else:
        return
    sys.stderr.write(f"perdure: {what}\nRemedy: {remedy}\n")


def _first_line(program: str) -> str:
    """The line that names a script's interpreter, with the one after it, to which long paths are moved."""
    try:
        with Path(program).open("rb") as file:
            start = file.read(1024)
    except OSError:
        return ""
    return " ".join(start.decode("utf-8", "replace").split("\n")[:2]) if start.startswith(b"#!") else ""


def _ignores_environment(words: list[str]) -> bool:
    """Whether the options at the beginning of `words` tell Python to ignore the environment."""
    for word in words:
        if not word.startswith("-") or word.startswith("--"):
            break
        if {"I", "E"} & set(word):
            return True
        if word[1:2] in ("c", "m"):
            break
    return False
