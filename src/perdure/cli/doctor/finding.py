"""What one look found."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from perdure.errors import PerdureError

__all__ = ["Finding", "Verdict", "looked"]


class Verdict(StrEnum):
    OK = "ok"
    FIXED = "fixed"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    verdict: Verdict
    what: str
    remedy: str = ""


def looked(name: str, look: Callable[[], Finding]) -> Finding:
    """What `look` found; what it raised is a finding too."""
    try:
        return look()
    except PerdureError as error:
        return Finding(name, Verdict.FAILED, error.what, error.remedy)
