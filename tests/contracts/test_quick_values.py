"""Frozen dataclasses with a constructor of our own are in all else what `dataclasses` makes."""

import copy
import dataclasses
import pickle
from dataclasses import dataclass, field

import pytest

from perdure.middleware.persistence.quick_values import quickly_made


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Quick:
    name: str
    size: int = 1
    tags: list[str] = field(default_factory=list)

    def changed(self, **changes: object) -> "Quick":
        """As it says here."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    name: str
    size: int = 1
    tags: list[str] = field(default_factory=list)


@pytest.mark.parametrize("given", [{"name": "a"}, {"name": "a", "size": 2}, {"name": "a", "size": 2, "tags": ["b"]}])
def test_it_has_the_same_fields_and_defaults(given: dict[str, object]) -> None:
    quick, usual = Quick(**given), Usual(**given)  # type: ignore[arg-type]
    assert type(quick) is Quick
    assert dataclasses.asdict(quick) == dataclasses.asdict(usual)
    assert repr(quick) == repr(usual).replace("Usual", "Quick")


def test_each_has_a_default_of_its_own() -> None:
    assert Quick(name="a").tags is not Quick(name="b").tags


def test_nobody_changes_it() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Quick(name="a").name = "b"  # type: ignore[misc]


@pytest.mark.parametrize("given", [{}, {"name": "a", "other": 1}])
def test_what_is_missing_and_what_is_not_known_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        Quick(**given)  # type: ignore[arg-type]


def test_a_copy_with_other_values_leaves_the_first_as_it_was() -> None:
    first = Quick(name="a", tags=["t"])
    second = first.changed(name="b")
    assert (first, second) == (Quick(name="a", tags=["t"]), Quick(name="b", tags=["t"]))
    assert type(second) is Quick
    assert Quick.changed.__doc__ == "As it says here."
    with pytest.raises(AttributeError):
        first.changed(other=1)


def test_it_is_copied_pickled_and_compared() -> None:
    quick = Quick(name="a", size=3)
    for same in (copy.copy(quick), copy.deepcopy(quick), pickle.loads(pickle.dumps(quick)), dataclasses.replace(quick)):
        assert same == quick
    assert quick != Quick(name="a")
