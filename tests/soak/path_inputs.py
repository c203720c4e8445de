"""Inputs to the path finder, led by what they reach: nothing is raised, nothing outside of the roots is opened.

    python tests/soak/path_inputs.py --inputs 10000000

Runs `tests/fuzz/led_by_coverage.py` in slices, each a process with a seed of its own; what reached new code is kept in
`.soak/` and varied further by the next. Goes on where it was interrupted. Prints one line. The exit code is 1 if an
input made the finder fail.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from soak.progress import FOLDER, Progress

TESTS = Path(__file__).parents[1]
CORPUS = FOLDER / "path_inputs"
SLICE = 50_000
COUNTED = ("inputs", "replaced", "paths", "opened", "opens_seen", "seconds")


def run_slice(inputs: int, *, seed: int, corpus: Path) -> tuple[dict[str, Any], list[str]]:
    """Figures and violations of so many inputs."""
    command = [sys.executable, "-m", "fuzz.led_by_coverage", f"--inputs={inputs}", f"--seed={seed}"]
    done = subprocess.run(
        [*command, f"--corpus={corpus}"],
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not done.stdout:
        return {"slices": 1}, [f"seed {seed}: ended with {done.returncode}: {done.stderr[-2000:]}"]
    figures = json.loads(done.stdout.splitlines()[-1])
    found = [f"seed {seed}: {said}" for said in (*figures["outside"], *figures["failures"])]
    return {"slices": 1} | {name: figures[name] for name in COUNTED}, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1, help="of the first slice; each has the next")
    given = parser.parse_args()
    progress = Progress("path_inputs", vars(given))
    while progress.counts["inputs"] < given.inputs and len(progress.violations) < 5:
        inputs = min(SLICE, given.inputs - progress.counts["inputs"])
        progress.add(*run_slice(inputs, seed=given.seed + progress.counts["slices"], corpus=CORPUS))
    counts, violations = progress.counts, progress.violations
    print(
        f"{counts['inputs']:,} inputs in {counts['seconds']:.0f} s: {counts['replaced']:,} rewritten; "
        f"{counts['paths']:,} paths taken to the roots, {counts['opened']:,} opened and all of them good; "
        f"{counts['opens_seen']:,} openings seen, {len(violations)} violations"
    )
    for violation in violations:
        print(violation[:2000], file=sys.stderr)
    progress.end()
    shutil.rmtree(CORPUS, ignore_errors=True)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
