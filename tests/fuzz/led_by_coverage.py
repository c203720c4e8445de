"""The path finder's fuzzing, led by what an input reaches: `python -m tests.fuzz.led_by_coverage --inputs 100000`.

Atheris makes bytes, which choose in place of chance when `path_finder.Maker` makes an input; what reaches new code is
kept in `--corpus` and varied further. Prints one line, a JSON object: the fields of `Figures`.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import zlib
from dataclasses import asdict
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

LED_BY = [
    "perdure.middleware.argument_schema",
    "perdure.middleware.path_rewriting",
    "perdure.middleware.persistence.files.allowed_roots",
]
with atheris.instrument_imports(include=LED_BY):
    from fuzz.path_finder import Figures, Maker, watched

__all__ = ["Drawn"]


class Drawn(random.Random):
    """Chance that is read off bytes; when they are used up it goes on by itself, the same for the same bytes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(zlib.crc32(data))
        self._data = data
        self._at = 0

    def getrandbits(self, k: int, /) -> int:
        size = (k + 7) // 8
        piece = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(piece, "little") & (1 << k) - 1 if len(piece) == size else super().getrandbits(k)

    def random(self) -> float:
        return self.getrandbits(16) / (1 << 16)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.led_by_coverage", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="a folder; none: begin with nothing, keep nothing")
    given = parser.parse_args()
    figures = Figures()
    temporary = tempfile.TemporaryDirectory(prefix="perdure-fuzz-")
    corpus = (given.corpus or Path(temporary.name) / "corpus").absolute()
    corpus.mkdir(parents=True, exist_ok=True)
    land = Path(temporary.name) / "land"
    land.mkdir()
    watching = watched(land, figures)
    made, run = watching.__enter__()

    def look(data: bytes) -> None:
        if run.look_at_next(Maker(made, Drawn(data))) and not figures.outside and figures.inputs < given.inputs:
            return
        watching.__exit__(None, None, None)
        temporary.cleanup()
        print(json.dumps(asdict(figures)), flush=True)
        os._exit(0)  # libFuzzer would end this process without another word from Python

    atheris.Setup([sys.argv[0], f"-seed={given.seed}", "-max_len=400", "-verbosity=0", str(corpus)], look)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
