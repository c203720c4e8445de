"""A short run of the fuzz campaign; `python -m tests.fuzz.path_finder` does a long one."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

BLIND = """
import os, sys
sys.path.insert(0, "tests")
from fuzz import path_finder
from perdure.middleware.persistence.files import allowed_roots

def without_guard(self, path):
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise allowed_roots.FileRefused("it cannot be opened") from error
    return allowed_roots.OpenFile(descriptor, os.fstat(descriptor), path)

path_finder.AllowedRoots.open = without_guard
sys.argv[1:] = ["--inputs", "1000", "--seed", "1"]
sys.exit(path_finder.main())
"""


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)


def test_20_000_inputs_find_nothing() -> None:
    done = run("-m", "tests.fuzz.path_finder", "--inputs", "20000", "--seed", "7")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20,000 inputs" in done.stdout
    assert "0 outside of the roots; 0 failures" in done.stdout
    opened = re.search(r"([\d,]+) opened and all of them good", done.stdout)
    assert opened is not None
    assert int(opened[1].replace(",", "")) > 1000  # else it looked past what it is there to look at


def test_without_the_guard_the_same_inputs_are_caught() -> None:
    """The control."""
    done = run("-c", BLIND)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "failures" in done.stdout
    assert "0 outside of the roots" not in done.stdout
