"""How far a campaign has come, kept in a file after each of its parts, so that an interrupted one goes on there."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Progress"]

FOLDER = Path(__file__).parents[2] / ".soak"


class Progress:
    """`counts` and `violations` of all parts so far. A file of another plan is begun anew."""

    def __init__(self, campaign: str, plan: Mapping[str, Any], folder: Path = FOLDER) -> None:
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self._plan = json.loads(json.dumps(plan))
        self._path = folder / f"{campaign}.json"
        if self._path.exists() and (kept := json.loads(self._path.read_text()))["plan"] == self._plan:
            self.counts.update(kept["counts"])
            self.violations += kept["violations"]

    def add(self, counts: Mapping[str, float], violations: Iterable[str] = ()) -> None:
        """A part is done."""
        self.counts.update(counts)  # type: ignore[arg-type]  # seconds are no whole numbers
        self.violations += violations
        self._path.parent.mkdir(exist_ok=True)
        whole = {"plan": self._plan, "counts": self.counts, "violations": self.violations}
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(whole))
        os.replace(new, self._path)

    def end(self) -> None:
        """All is done: the next campaign begins anew."""
        self._path.unlink(missing_ok=True)
