"""Values whose classes are made here are in all else what `dataclasses` makes."""

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from perdure.quick_values import copying, frozen, making, mutable


@frozen(kw_only=True)
class Quick:
    name: str
    size: int = 1
    tags: list[str] = field(default_factory=list)
    note: str = field(default="", repr=False, compare=False)

    def changed(self, **changes: object) -> "Quick":
        """As it says here."""
        raise NotImplementedError

    @copying
    def labelled(self, tags: list[str], note: str) -> "Quick":
        """As it says there."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    name: str
    size: int = 1
    tags: list[str] = field(default_factory=list)
    note: str = field(default="", repr=False, compare=False)


@frozen()
class Pair:
    left: int
    right: int = 2


@frozen()
class Single:
    only: float


@mutable()
class Open:
    name: str
    tags: list[str] = field(default_factory=list)


@pytest.mark.parametrize(
    "given", [{"name": "a"}, {"name": "a", "size": 2}, {"name": "a", "size": 2, "tags": ["b"], "note": "n"}]
)
def test_it_has_the_same_fields_and_defaults(given: dict[str, Any]) -> None:
    quick, usual = Quick(**given), Usual(**given)
    assert type(quick) is Quick
    assert dataclasses.asdict(quick) == dataclasses.asdict(usual)
    assert repr(quick) == repr(usual).replace("Usual", "Quick")


def test_each_has_a_default_of_its_own() -> None:
    assert Quick(name="a").tags is not Quick(name="b").tags


def test_nobody_changes_it() -> None:
    quick = Quick(name="a")
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'name'"):
        quick.name = "b"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'name'"):
        del quick.name
    with pytest.raises(dataclasses.FrozenInstanceError):
        quick.other = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("given", [{}, {"name": "a", "other": 1}])
def test_what_is_missing_and_what_is_not_known_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        Quick(**given)


def test_what_stands_without_a_name_is_taken_only_where_that_was_asked_for() -> None:
    assert Pair(1) == Pair(1, 2) == Pair(left=1, right=2)
    assert [*inspect.signature(Pair).parameters] == ["left", "right"]
    with pytest.raises(TypeError):
        Quick("a")  # type: ignore[call-arg]
    match Pair(1, 3):
        case Pair(left, right):
            assert (left, right) == (1, 3)


def test_what_is_written_when_it_is_first_used_is_there_for_whoever_asks() -> None:
    @frozen(kw_only=True)
    class Unused:
        name: str
        size: int = 1

        def changed(self, **changes: object) -> "Unused":
            """As it says here."""
            raise NotImplementedError

    assert Unused.changed.__doc__ == "As it says here."
    assert [*inspect.signature(Unused).parameters] == ["name", "size"]

    @mutable()
    class Unmade:
        name: str

    unmade = Unmade.__new__(Unmade)
    unmade.__init__("a")  # type: ignore[misc]
    assert unmade == Unmade("a")


def test_a_copy_with_other_values_leaves_the_first_as_it_was() -> None:
    first = Quick(name="a", tags=["t"])
    second = first.changed(name="b")
    assert (first, second) == (Quick(name="a", tags=["t"]), Quick(name="b", tags=["t"]))
    assert type(second) is Quick
    assert Quick.changed.__doc__ == "As it says here."
    with pytest.raises(TypeError, match="other"):
        first.changed(other=1)


def test_a_copy_that_is_written_for_some_fields_leaves_the_others_as_they_were() -> None:
    first = Quick(name="a", size=2)
    second = first.labelled(["t"], note="n")
    assert dataclasses.asdict(second) == {"name": "a", "size": 2, "tags": ["t"], "note": "n"}
    assert type(second) is Quick
    assert first == Quick(name="a", size=2)
    assert Quick.labelled.__doc__ == "As it says there."
    assert [*inspect.signature(Quick.labelled).parameters] == ["self", "tags", "note"]
    with pytest.raises(TypeError):
        first.labelled(["t"])  # type: ignore[call-arg]


def test_a_copy_with_a_value_for_a_field_that_there_is_not_is_refused() -> None:
    @frozen()
    class Wrong:
        name: str

        @copying
        def sized(self, size: int) -> "Wrong":
            raise NotImplementedError

    with pytest.raises(TypeError, match="copies a Wrong, which has no field 'size'"):
        Wrong("a").sized(1)


@pytest.mark.parametrize("cls", [Quick, Open])
def test_a_function_that_makes_values_makes_what_their_class_makes(cls: Callable[..., Any]) -> None:
    made = making(cls)
    assert made(name="a", tags=["b"]) == cls(name="a", tags=["b"])
    assert type(made(name="a")) is cls
    assert made(name="a").tags is not made(name="a").tags
    for wrong in ({}, {"name": "a", "other": 1}):
        with pytest.raises(TypeError):
            made(**wrong)


def test_it_takes_without_a_name_what_the_class_takes() -> None:
    assert making(Pair)(1, 3) == Pair(1, 3)
    with pytest.raises(TypeError):
        making(Quick)("a")  # type: ignore[call-arg]
    with pytest.raises(dataclasses.FrozenInstanceError):
        making(Pair)(1).left = 2  # type: ignore[misc]


def test_a_derived_class_that_builds_on_its_constructor_gets_that_the_first_time_too() -> None:
    @mutable(kw_only=True)
    class Base:
        name: str

    class Derived(Base):
        def __init__(self, first: str, last: str) -> None:
            super().__init__(name=f"{first} {last}")

    assert Derived("Ada", "King").name == "Ada King"


def test_before_it_was_ever_made_it_has_the_signature_that_it_has_later() -> None:
    @frozen()
    class Point:
        left: int
        right: int = 2

    before = inspect.signature(Point)
    assert list(before.parameters) == ["left", "right"]
    Point(1)
    assert inspect.signature(Point) == before


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, dataclasses.replace, lambda it: pickle.loads(pickle.dumps(it))]
)
def test_it_is_copied_and_pickled(copied: Callable[[Any], Any]) -> None:
    for value in (Quick(name="a", size=3), Pair(1), Single(1.5), Open("a", ["b"])):
        assert copied(value) == value
        assert type(copied(value)) is type(value)


def test_it_is_compared_and_hashed_by_its_fields() -> None:
    assert Quick(name="a") == Quick(name="a", note="which does not count")
    assert Quick(name="a") != Quick(name="b")
    assert Quick(name="a") != object()
    assert len({Pair(1), Pair(1, 2), Pair(1, 3), Single(1), Single(1)}) == 3
    not_a_number = float("nan")
    assert Single(not_a_number) == Single(not_a_number), "as in a tuple: what is the same is equal"
    with pytest.raises(TypeError, match="unhashable"):
        hash(Quick(name="a"))  # it has a list


def test_one_that_is_not_frozen_is_changed_and_not_hashed() -> None:
    value = Open("a")
    value.name = "b"
    assert value == Open("b")
    assert repr(value) == "Open(name='b', tags=[])"
    with pytest.raises(AttributeError):
        value.other = 1  # type: ignore[attr-defined]
    value.tags = ()  # type: ignore[assignment]  # so that no field keeps it from being hashed
    with pytest.raises(TypeError, match="unhashable"):
        hash(value)
