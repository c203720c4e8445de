"""For all commands."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cli.kept_data import Data

from perdure.cli import main, terminal


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path / "data")


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def perdure(
    data: Data, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Ran]]:
    """The command line over `data`, in this process: a tenth of the time that one of its own would take."""
    monkeypatch.setenv("PERDURE_DATA_DIR", str(data.folder))
    monkeypatch.setenv("PERDURE_CONFIG", os.devnull)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115 - nobody answers

    def run(*arguments: str) -> Ran:
        terminal.console.cache_clear()  # it remembers which terminal it had
        monkeypatch.setattr(sys, "argv", ["perdure", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Ran(int(ended.value.code or 0), out, err)

    yield run
    terminal.console.cache_clear()
