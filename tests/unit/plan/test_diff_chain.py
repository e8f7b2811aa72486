"""The edits of one chain: they lead to what is desired, and leave alone what stays."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nova_netagent.plan.tables import Delete, Edit, Insert, diff_chain
from tests.unit.plan.kernel import carry_out

CHAINS = st.lists(st.sampled_from("abcde"), max_size=14).map(tuple)
thorough = settings(deadline=None, max_examples=300)


def edits(actual: tuple[str, ...], desired: tuple[str, ...]) -> list[Edit[str]]:
    return list(diff_chain("W-local", actual, desired))


@thorough
@given(CHAINS, CHAINS)
def test_the_edits_lead_to_what_is_desired(actual: tuple[str, ...], desired: tuple[str, ...]) -> None:
    assert carry_out(edits(actual, desired), {"W-local": actual})["W-local"] == desired


@thorough
@given(st.lists(st.integers(), unique=True, max_size=12), st.data())
def test_a_rule_that_stays_in_its_place_is_never_touched(kept: list[int], data: st.DataObject) -> None:
    """What is common to both, in order, keeps its counters."""
    words = tuple(f"kept{n}" for n in kept)

    def mixed(prefix: str) -> tuple[str, ...]:
        rules = list(words)
        for n in range(data.draw(st.integers(0, 5))):
            rules.insert(data.draw(st.integers(0, len(rules))), f"{prefix}{n}")
        return tuple(rules)

    actual, desired = mixed("old"), mixed("new")
    found = edits(actual, desired)
    assert {edit.key for edit in found if isinstance(edit, Delete)} == {key for key in actual if key.startswith("old")}
    assert {edit.key for edit in found if isinstance(edit, Insert)} == {key for key in desired if key.startswith("new")}
    assert len(found) == len([key for key in (*actual, *desired) if not key.startswith("kept")])


@thorough
@given(CHAINS, CHAINS)
def test_no_more_edits_than_all_of_it_anew(actual: tuple[str, ...], desired: tuple[str, ...]) -> None:
    found = edits(actual, desired)
    assert len(found) <= len(actual) + len(desired)
    # What is in both as often need not go and come at the same place.
    going = Counter(edit.key for edit in found if isinstance(edit, Delete))
    coming = Counter(edit.key for edit in found if isinstance(edit, Insert))
    assert going - coming == Counter(actual) - Counter(desired)
    assert coming - going == Counter(desired) - Counter(actual)


@given(CHAINS)
def test_nothing_to_do_is_no_edit(chain: tuple[str, ...]) -> None:
    assert edits(chain, chain) == []


@pytest.mark.parametrize(
    ("actual", "desired", "expected"),
    [
        ("", "ab", [Insert("W-local", 0, "a"), Insert("W-local", 1, "b")]),
        ("ab", "", [Delete("W-local", 1, "b"), Delete("W-local", 0, "a")]),
        ("abc", "ac", [Delete("W-local", 1, "b")]),
        ("ac", "abc", [Insert("W-local", 1, "b")]),
        ("abc", "axc", [Delete("W-local", 1, "b"), Insert("W-local", 1, "x")]),
        ("aa", "aaa", [Insert("W-local", 2, "a")]),
        ("aaa", "aa", [Delete("W-local", 2, "a")]),
        ("ba", "ab", [Delete("W-local", 1, "a"), Insert("W-local", 0, "a")]),
        ("abcd", "xbcy", [
            Delete("W-local", 3, "d"), Insert("W-local", 3, "y"), Delete("W-local", 0, "a"), Insert("W-local", 0, "x")
        ]),
    ],
)  # fmt: skip
def test_by_example(actual: str, desired: str, expected: list[Edit[str]]) -> None:
    found = edits(tuple(actual), tuple(desired))
    assert carry_out(found, {"W-local": tuple(actual)})["W-local"] == tuple(desired)
    assert len(found) == len(expected)
    if actual != "ba":  # which of two that change places is moved is not important
        assert found == expected


def test_it_does_not_matter_what_kind_of_sequence_it_is() -> None:
    """The signature takes any; backends give tuples at present."""
    found = list(diff_chain("W-local", ["a", "b", "c"], ("x", "b", "y")))
    assert "b" not in [edit.key for edit in found if isinstance(edit, Delete)]


def test_many_rules_that_repeat_are_compared_fast() -> None:
    """difflib is quadratic there; the edges are cut off first."""
    many = ("a", "b") * 2000
    assert edits(many, (*many[:1500], "x", *many[1500:])) == [Insert("W-local", 1500, "x")]
