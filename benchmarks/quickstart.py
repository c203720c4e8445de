"""`python -m benchmarks.quickstart`: how long docs/quickstart.md takes a machine, from nothing to a remembered turn.

An environment is made, this repository is installed into it with all that it needs, and the page is followed to the
letter. What a person takes to read and to type is not in it.
"""

import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from benchmarks.machine import Machine

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

from documentation.following import Stage, follow  # noqa: E402 - the path has to be there first


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="perdure-quickstart-") as folder:
        began = time.perf_counter()
        venv.create(Path(folder, "environment"), with_pip=True)
        programs = Path(folder, "environment", "bin")
        subprocess.run([programs / "python", "-m", "pip", "install", "--quiet", REPOSITORY], check=True)
        installed = time.perf_counter()
        follow(REPOSITORY / "docs" / "quickstart.md", Stage(Path(folder, "home"), programs=programs))
        done = time.perf_counter()
        print(Machine.here(Path(folder)))
    print(
        f"installed in {installed - began:.0f} s; then {done - installed:.1f} s until the second answer knew the first"
    )


if __name__ == "__main__":
    main()
