"""What changed between two versions of a mapping is what a search would find, however they came to be."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from nova_netagent.model import lineage
from nova_netagent.model.lineage import beside, changed, follow, ordered, same_order

KEYS = "abcdef"
STEPS = st.lists(
    st.tuples(
        st.integers(0, 20),  # which of the versions so far comes before
        st.sets(st.sampled_from(KEYS)),  # put anew
        st.sets(st.sampled_from(KEYS)),  # put as it was before the last change
        st.sets(st.sampled_from(KEYS)),  # gone
        st.booleans(),  # in another order
    ),
    max_size=12,
)


class Value:
    """One of many that are equal: only who it is counts."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value)

    __hash__ = None  # type: ignore[assignment]


def searched(before: Mapping[str, Value], after: Mapping[str, Value]) -> set[str]:
    return {key for key in before.keys() | after.keys() if before.get(key) is not after.get(key)}


@given(STEPS)
def test_whatever_was_made_of_whatever(steps: list[tuple[int, set[str], set[str], set[str], bool]]) -> None:
    versions: list[Mapping[str, Value]] = [{key: Value() for key in "abc"}]
    for at, new, old, gone, reorder in steps:
        before = versions[at % len(versions)]
        first = versions[0]
        put = {key: Value() for key in new} | {key: first[key] for key in old if key in first}
        expected = {key: value for key, value in before.items() if key not in gone} | put
        after = follow(before, put, [key for key in gone if key in before and key not in put])
        assert after == expected
        if reorder:
            after = ordered(after, dict(sorted(after.items(), reverse=True)))
            assert list(after) == sorted(expected, reverse=True)
        versions.append(after)
        versions.append(beside(after, {key: Value() for key in "xyz"[: at % 4]}))
    for one in versions:
        for other in versions:
            found = list(changed(one, other))
            assert set(found) == searched(one, other)
            assert len(found) == len(set(found))
            assert list(one) == list(other) or not same_order(one, other)


def test_what_does_not_change_is_the_same_object() -> None:
    mapping = follow({}, {"a": 1, "b": 2})
    assert follow(mapping, {}) is mapping
    assert ordered(mapping, {"a": 1, "b": 2}) is mapping
    assert list(ordered(mapping, {"b": 2, "a": 1})) == ["b", "a"]


def test_it_is_known_of_another_value_that_it_is_in_the_same_place() -> None:
    mapping = follow({}, {"a": 1, "b": 2})
    other = follow(follow(mapping, {"a": 7}), {"b": 8})
    assert same_order(mapping, mapping)
    assert same_order(mapping, other)
    assert not same_order(mapping, follow(other, {"c": 3}))
    assert not same_order(mapping, follow(follow(other, {}, ["a"]), {"a": 7}))
    assert not same_order({"a": 1}, {"a": 1}), "it is not looked"


def test_along_a_line_only_the_log_is_looked_at() -> None:
    before = follow({}, {str(number): number for number in range(5000)})
    after = follow(follow(before, {"7": -7}), {"new": 0}, ["9"])

    class Blind(type(after)):  # type: ignore[misc]
        """One that nobody may go through."""

        __slots__ = ()

        def items(self) -> None:
            raise AssertionError("went through all of it")

        __iter__ = items

    blind = Blind({}, [])
    dict.update(blind, dict(after))
    blind.log, blind.at = after.log, after.at  # type: ignore[attr-defined]
    assert set(changed(before, blind)) == {"7", "new", "9"}


def test_a_log_does_not_grow_for_ever() -> None:
    mapping: Mapping[str, int] = {}
    longest = 0
    for number in range(5 * lineage._SHORTEST):
        mapping = follow(mapping, {"a": number})
        longest = max(longest, len(mapping.log))  # type: ignore[attr-defined]
    assert longest < 2 * lineage._SHORTEST
