"""Breaks modules in every small way, and asks whether a test notices: for paths, principals, the spool and redaction.

    python tests/soak/mutants.py [MODULE ...] [--seconds 600]

By mutmut (BSD-3, maintained): it keeps each verdict in a file, so that a run goes on where it was interrupted, and
forks where others start an interpreter for each mutant. Each module has the tests that are there for it, and a folder
in `.soak/mutants`; `mutmut show NAME` and `mutmut browse` work there. Prints one line for each module, and the names of
what nobody noticed. The exit code is 1 while a module is under 90 % or not wholly judged.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mutmut.stats import status_by_exit_code

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".soak" / "mutants"
PACKAGE = Path("src/perdure/middleware")
LEAST = 0.9
"""The share that tests must notice."""

NOTICED = {"killed", "timeout", "segfault", "suspicious", "caught by type check"}
"""What mutmut says of a mutant. Not noticed: "survived", "no tests"; open: "not checked"."""

# Left out: what measures depth, time or races, which the detours of a mutant change; what starts a server; and names of
# tests that pytest does not find again by their ids.
LEFT_OUT = (
    "great_depth",
    "linear",
    "squared",
    "swap",
    "same_race",
    "written_to_all_the_time",
    "500_mb",
    "postgres",
    "supabase",
    "ever_opened",
    "in_meta_that_cannot",
    "any_name_is_kept",
)


@dataclass(frozen=True)
class Module:
    path: str
    tests: Sequence[str]


MODULES: Mapping[str, Module] = {
    "redaction": Module("persistence/redaction.py", ["tests/properties/test_redaction.py"]),
    "call_reader": Module("call_reader.py", ["tests/seams/test_call_reader.py"]),
    "allowed_roots": Module("persistence/files/allowed_roots.py", ["tests/files/test_allowed_roots.py"]),
    "path_rewriting": Module("path_rewriting.py", ["tests/files/test_path_rewriting.py"]),
    "snapshot": Module("persistence/files/snapshot.py", ["tests/files/test_snapshot.py"]),
    "keeper": Module(
        "persistence/files/keeper.py",
        [f"tests/files/test_{name}.py" for name in ("keeper", "bringing_back", "copies")],
    ),
    **{
        name: Module(f"persistence/spool/{name}.py", [f"tests/spool/test_{about}.py" for about in tests])
        for name, tests in {
            "turn_record": ["turn_record", "what_waits"],
            "spooled_turns": ["what_waits", "letting_go"],
            "spooled_files": ["what_waits", "letting_go"],
            "leases": ["what_waits"],
            "database": ["what_waits", "data_directory", "turns_that_wait"],
            "spool": ["spool_at_rest", "letting_go", "turns_that_wait", "files_that_wait"],
            "delivery": ["delivery", "breaker"],
            "drainer": ["drainer", "drainer_threads"],
        }.items()
    },
}


def judge(module: Module, folder: Path, *, root: Path = ROOT, seconds: float | None, children: int) -> None:
    """Judge the mutants of one module, those that are not judged yet, for so long."""
    _lay(folder, module, root)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mutmut", "run", f"--max-children={children}"],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()


def verdicts(module: Module, folder: Path) -> dict[str, str]:
    """What mutmut says so far of each mutant of one module."""
    path = folder / "mutants" / PACKAGE / f"{module.path}.meta"
    codes = json.loads(path.read_text())["exit_code_by_key"] if path.exists() else {}
    return {mutant: status_by_exit_code[code] for mutant, code in codes.items()}


def tell(name: str, found: Mapping[str, str], seconds: float) -> bool:
    """Print the figures of one module. Returns whether enough was noticed of all there is."""
    said = Counter(found.values())
    noticed = sum(said[status] for status in NOTICED)
    judged = noticed + said["survived"] + said["no tests"]
    share = noticed / judged if judged else 0.0
    print(
        f"{name}: {noticed}/{judged} mutants noticed ({share:.1%}), {said.total() - judged} not judged, "
        f"{seconds:.0f} s",
        flush=True,
    )
    for mutant, status in found.items():
        if status in ("survived", "no tests"):
            print(f"  {status}: {mutant}", file=sys.stderr)
    return share >= LEAST and judged == said.total()


def _lay(folder: Path, module: Module, root: Path) -> None:
    """A project as mutmut wants it: sources, tests and settings are here, its copies go to `mutants`."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "source_paths": ["src"],
        "only_mutate": [str(PACKAGE / module.path)],
        "also_copy": ["sql"],
        "timeout_constant": 20.0,  # seconds: on a busy machine a mutant that only waits its turn must not count
        "pytest_add_cli_args": ["-k", " and ".join(f"not {word}" for word in LEFT_OUT)],
        "pytest_add_cli_args_test_selection": list(module.tests),
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    whole = (root / "pyproject.toml").read_text() + "\n[tool.mutmut]\n" + "\n".join(lines) + "\n"
    if not (folder / "pyproject.toml").exists() or (folder / "pyproject.toml").read_text() != whole:
        (folder / "pyproject.toml").write_text(whole)
    for part in ("src", "tests", "sql"):
        if not (folder / part).is_symlink():
            (folder / part).symlink_to(root / part)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(MODULES)}; none: all")
    parser.add_argument("--seconds", type=float, help="for each module, after which it is left as it is by then")
    parser.add_argument("--children", type=int, default=2, help="tests at the same time")
    parser.add_argument("--anew", action="store_true", help="forget what was judged before")
    given = parser.parse_args()
    if given.anew:
        shutil.rmtree(FOLDER, ignore_errors=True)
    good = True
    for name in given.modules or MODULES:
        began = time.monotonic()
        judge(MODULES[name], FOLDER / name, seconds=given.seconds, children=given.children)
        good &= tell(name, verdicts(MODULES[name], FOLDER / name), time.monotonic() - began)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
