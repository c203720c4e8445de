"""Names that are swapped for links, hard links and FIFOs while the paths under them are opened: none leads outside.

    python tests/soak/link_swaps.py --swaps 100000

Goes on where it was interrupted. Prints one line. The exit code is 1 if anything else than the good file was read, or a
secret opened.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.machine import Machine
from fuzz.swapped_names import ALL_SWAPS, Looked, Swap, look_amid_swaps
from soak.progress import Progress

SLICE = 10_000
PATIENCE = 120.0
"""Seconds after which a look that has not come back counts as hung."""


def run_slice(swap: Swap, swaps: int) -> tuple[Looked, list[str]]:
    """So many swaps of one kind; what was seen, and the violations."""
    with tempfile.TemporaryDirectory(prefix="perdure-swaps-") as folder:
        machine = Machine(Path(folder).resolve())
        looked = look_amid_swaps(machine, swap, swaps=swaps, tries=swaps // 2, patience=PATIENCE)
    violations = [f"{swap.__name__}: read {content!r}" for content in looked.contents - {b"public"}]
    if looked.secret_opened:
        violations.append(f"{swap.__name__}: a secret was opened")
    return looked, violations


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=100_000)
    given = parser.parse_args()
    progress = Progress("link_swaps", vars(given))
    # Not less than one slice of each kind.
    while progress.counts["swaps"] < given.swaps or progress.counts["slices"] < len(ALL_SWAPS):
        began = time.monotonic()
        looked, violations = run_slice(ALL_SWAPS[progress.counts["slices"] % len(ALL_SWAPS)], SLICE)
        spent = {"slices": 1, "seconds": time.monotonic() - began}
        progress.add(spent | {"swaps": looked.swaps, "tries": looked.tries}, violations)
    counts, violations = progress.counts, progress.violations
    print(
        f"{counts['swaps']:,} swaps in {counts['seconds']:.0f} s, {counts['tries']:,} openings tried meanwhile, "
        f"{len(violations)} violations"
    )
    for violation in violations[:20]:
        print(violation, file=sys.stderr)
    progress.end()
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
