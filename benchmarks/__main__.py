"""`python -m benchmarks [--quick] [--only NAME] [--rounds N] [--json FILE] [--plots FOLDER]`, from the root."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from benchmarks import calls, files, history, peer_turns, postgres, proxy, startup, supabase, throughput
from benchmarks.harness import Result
from benchmarks.machine import Machine, folder_on_disk
from benchmarks.plots import write_plots
from benchmarks.report import show, write_json


class Benchmark(NamedTuple):
    run: Callable[[int, Path], list[Result]]
    """Takes a number of rounds and an empty folder on a real disk."""
    rounds: int
    """Unless `--rounds` says otherwise."""


BENCHMARKS = {
    "calls": Benchmark(calls.run, rounds=15),
    "proxy": Benchmark(proxy.run, rounds=15),
    "history": Benchmark(history.run, rounds=15),
    "throughput": Benchmark(throughput.run, rounds=9),
    "peers": Benchmark(peer_turns.run, rounds=5),
    "postgres": Benchmark(postgres.run, rounds=9),
    "supabase": Benchmark(supabase.run, rounds=7),
    "files": Benchmark(files.run, rounds=7),
    "startup": Benchmark(startup.run, rounds=11),
}


def main() -> None:
    arguments = _arguments()
    _forget_settings()
    console = Console(width=None if sys.stdout.isatty() else 120)
    folder = folder_on_disk()
    machine = Machine.here(folder)
    console.print(str(machine), highlight=False)
    console.print(
        "Medians of interleaved rounds. A ratio is the median of the rounds' own ratios: on a busy machine, trust it"
        " before any absolute figure.\n",
        style="dim",
        soft_wrap=True,
    )
    started = time.monotonic()
    results: list[Result] = []
    for name in arguments.only or BENCHMARKS:
        benchmark = BENCHMARKS[name]
        with (
            tempfile.TemporaryDirectory(prefix="perdure-benchmark-", dir=folder) as temporary,
            console.status(f"{name} …"),
        ):
            try:
                found = benchmark.run(arguments.rounds or (1 if arguments.quick else benchmark.rounds), Path(temporary))
            except BaseExceptionGroup as group:
                raise _cause(group) from None
        for result in found:
            show(console, result)
        results += found
    console.print(f"{time.monotonic() - started:.0f} s in all.", style="dim", highlight=False)
    if arguments.json:
        write_json(arguments.json, machine, results)
    if arguments.plots:
        source = f"{machine.date[:10]}, {machine.cores} cores, {machine.memory_gib:g} GiB, Python {machine.python}"
        for path in write_plots(arguments.plots, results, f"{source}. Medians; make bench"):
            console.print(f"Drawn: {path}", style="dim", highlight=False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(BENCHMARKS), help="this one; may be given again")
    parser.add_argument("--quick", action="store_true", help="one round of each, for a look: figures mean little")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw there what there is to draw, as SVG")
    parser.add_argument("--rounds", type=_positive, help="rounds of each, in place of its own number")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1, not {number}")
    return number


def _cause(error: BaseException) -> BaseException:
    """What went wrong: each MCP client that is closed on the way out wraps it in a group of its own."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _forget_settings() -> None:
    """A benchmark says itself what is set: the environment stands above what is given in code."""
    for name in [name for name in os.environ if name.startswith("PERDURE_")]:
        del os.environ[name]


if __name__ == "__main__":
    main()
