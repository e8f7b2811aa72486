"""A change costs what it touches: what did not change is the same object."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pytest
from hypothesis import given, target
from hypothesis import strategies as st

from nova_netagent.compile import Compiled, Compiler
from nova_netagent.compile.memo import Memo
from nova_netagent.events import Delete, Event, Put, fold
from nova_netagent.model import DesiredState
from nova_netagent.netfilter.rule import Chain, TableId
from nova_netagent.testing import (
    group_id,
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
    make_vif,
)
from tests.unit.compile.world import make_settings

FILTER = TableId(4, "filter")


class Told:
    """A compiler that is told one event after another."""

    def __init__(self) -> None:
        self.compiler = Compiler(make_settings())
        self.state = DesiredState()
        self.tell(Put(make_network(1)), Put(make_group(1, make_rule(1))))
        self.tell(Put(make_group(2, make_rule(2, remote_group_id=group_id(1)))))
        self.tell(*(Put(make_instance(n, (1 + n % 2,))) for n in range(1, 30)))

    def tell(self, *events: Event) -> None:
        for event in events:
            self.state = fold(self.state, event, 0.0)
        self.compiled = self.compiler.compile(self.state)
        self.wanted = everything(self.compiled)

    def chains(self) -> dict[tuple[TableId, str], Chain]:
        tables = self.compiled.ruleset.tables.values()
        return {(table.id, name): chain for table in tables for name, chain in table.chains.items()}


def everything(compiled: Compiled) -> tuple[object, ...]:
    """Also what is compiled only when somebody asks."""
    return compiled.ruleset, compiled.links, compiled.problems, compiled.scope, compiled.frames, compiled.servers


def changed_by(told: Told, *events: Event, by_value: bool = False) -> set[str]:
    """The chains that are other objects (or other ones ``by_value``) after some events, by table and name."""
    before = told.chains()
    told.tell(*events)
    after = told.chains()
    # A remembered result must be what a compiler without memory makes of the state.
    assert everything(Compiler(make_settings()).compile(told.state)) == told.wanted

    def same(key: tuple[TableId, str]) -> bool:
        one, other = before.get(key), after.get(key)
        return one == other if by_value else one is other

    return {
        f"{key[0].name}:{key[1].removeprefix('nova-netagent-')}"
        for key in before.keys() | after.keys()
        if not same(key)
    }


def test_compiling_the_same_state_again_gives_the_same_objects() -> None:
    told = Told()
    assert changed_by(told) == set()


def test_a_rule_change_changes_the_groups_one_chain() -> None:
    told = Told()
    event = Put(make_group(1, make_rule(1, protocol="tcp")))
    assert changed_by(told, event, by_value=True) == {"filter:sgi-b0000001"}


def test_a_rule_change_costs_its_one_chain() -> None:
    """DESIGN: a change costs what it touches, not what the host holds; a rule change edits one chain."""
    told = Told()
    assert changed_by(told, Put(make_group(1, make_rule(1, protocol="tcp")))) == {"filter:sgi-b0000001"}


def test_a_first_rule_of_a_direction_changes_the_members() -> None:
    told = Told()
    touched = changed_by(told, Put(make_group(1, make_rule(1), make_rule(3, ethertype="IPv6"))), by_value=True)
    members = {f"filter:inst-a{n:07x}" for n in range(2, 30, 2)}
    assert touched == {"filter:sgi-b0000001", *members}


def test_a_new_member_touches_its_own_chains_the_trees_and_one_set() -> None:
    told = Told()
    before = told.compiled.ruleset.sets
    touched = changed_by(told, Put(make_instance(30, (1,))))
    assert {name for name in touched if "to-" not in name} <= {
        "filter:inst-a000001e",
        "filter:local",
        "filter:ports",
        "raw:senders",
        "raw:ports",
    }
    assert len(touched) <= 12
    after = told.compiled.ruleset.sets
    (name,) = (each for each in after if after[each].type == "hash:net")
    assert after[name].members - before[name].members == {"10.1.0.31/32"}


def test_a_member_elsewhere_changes_its_set_and_nothing_else() -> None:
    told = Told()
    tables, sets = told.compiled.ruleset.tables, told.compiled.ruleset.sets
    assert changed_by(told, Put(make_group(1, make_rule(1), members=("192.0.2.1/32",)))) == set()
    assert told.compiled.ruleset.tables is tables, "nobody looked at the chains"
    (name,) = (each for each in sets if sets[each] != told.compiled.ruleset.sets[each])
    assert told.compiled.ruleset.sets[name].members - sets[name].members == {"192.0.2.1/32"}


def test_what_was_not_looked_at_for_a_while_is_remembered_and_right() -> None:
    """Chains after members came and went: first those of the group, then those of others, then names."""
    told = Told()
    remote = make_rule(2, remote_group_id=group_id(1))
    for last in range(1, 4):
        members = tuple(f"192.0.2.{number}/32" for number in range(last))
        assert changed_by(told, Put(make_group(1, make_rule(1), members=members))) == set()
    for rules in (make_rule(1, protocol="tcp"),), (make_rule(1, protocol="tcp"), make_rule(4, protocol="udp")):
        assert changed_by(told, Put(make_group(1, *rules))) == {"filter:sgi-b0000001"}
    assert changed_by(told, Put(make_group(2, remote, make_rule(3)))) == {"filter:sgi-b0000002"}
    assert changed_by(told, Delete("security_groups", group_id(1)), by_value=True) >= {"filter:sgi-b0000001"}
    twin = group_id(2)[:-4] + "ffff"
    assert "filter:sgi-b0000002" in changed_by(told, Put(make_group(9, make_rule(9), id=twin)))


def test_a_floating_ip_has_nobody_go_through_the_vifs_for_frames_ports_and_servers() -> None:
    told = Told()
    before = told.compiled
    changed_by(told, Put(make_floating_ip(1)))
    after = told.compiled
    assert after.links.addresses != before.links.addresses
    assert after.links.ports is before.links.ports
    assert after.frames.frames.secured is before.frames.frames.secured
    assert after.frames.bridges is before.frames.bridges
    assert after.servers is before.servers
    changed_by(told, Put(make_instance(31, (1,))), Delete("instances", make_instance(3).id))
    changed_by(told, Put(make_network(1, gateway="10.1.0.254", dhcp_server="10.1.0.1")), Put(make_floating_ip(2, 2)))
    changed_by(told, Delete("floating_ips", make_floating_ip(1).id))


def test_a_network_that_changes_changes_its_instances() -> None:
    told = Told()
    changed = changed_by(told, Put(make_network(1, cidr="10.1.0.0/23")))
    assert {f"filter:inst-a{number:07x}" for number in range(1, 30)} <= changed


def test_a_network_more_leaves_the_others_chains_also_where_an_instance_came_before() -> None:
    told = Told()
    told.tell(Put(make_instance(30, (1,))))
    changed = changed_by(told, Put(make_network(2)))
    assert "filter:net-e0000002" in changed
    assert not {"filter:net-e0000001", "filter:provider", "mangle:cut", "raw:no-server"} & changed


def test_what_all_vifs_of_a_network_hear_is_changed_in_one_place() -> None:
    told = Told()
    changed = changed_by(told, Put(make_network(1, dhcp_server="10.1.0.250")))
    assert "filter:net-e0000001" in changed
    assert not [name for name in changed if "inst-" in name]


def test_an_instance_that_goes_touches_nobody_else() -> None:
    told = Told()
    touched = changed_by(told, Delete("instances", make_instance(29).id))
    assert not [name for name in touched if "inst-" in name and name != "filter:inst-a000001d"]


def test_an_instance_whose_short_id_clashes_renames_both() -> None:
    """Names depend on which instances exist, so the one that was there is renamed too, and back."""
    told = Told()
    twin = make_instance(1).id[:-4] + "ffff"
    touched = changed_by(told, Put(make_instance(99, (1,), id=twin)))
    assert "filter:inst-a0000001" in touched
    names = {name for name in told.compiled.ruleset.tables[FILTER].chains if "-inst-" in name}
    assert "nova-netagent-inst-a0000001" not in names
    assert len(names) == 30
    changed_by(told, Delete("instances", twin))
    assert "nova-netagent-inst-a0000001" in told.compiled.ruleset.tables[FILTER].chains


# --- the memo itself


def test_a_result_is_kept_while_its_dependencies_are_the_same_objects() -> None:
    memo, made = Memo(), []

    def make() -> object:
        made.append(1)
        return object()

    one, equal = ("a", ["x"]), ("a", ["x"])
    first = memo.get("key", (one,), make)
    assert memo.get("key", (one,), make) is first
    assert memo.get("key", (equal,), make) is not first
    assert len(made) == 2


def test_words_and_numbers_are_compared_by_value() -> None:
    memo = Memo()
    first = memo.get("key", ("".join(("a", "b")), 10**20), object)
    assert memo.get("key", ("".join(("a", "b")), 10**20), object) is first
    assert memo.get("key", ("ab", 5), object) is not first
    second = memo.get("key", ("ab",), object)
    assert memo.get("key", ("ab", "c"), object) is not second


def test_what_a_compilation_did_not_ask_for_is_forgotten() -> None:
    memo = Memo()
    first = memo.get("key", (), object)
    memo.forget_unused()
    assert memo.get("key", (), object) is first
    memo.forget_unused()
    memo.forget_unused()
    assert memo.get("key", (), object) is not first


def test_an_equal_value_is_interned() -> None:
    memo = Memo()
    first, equal, other = ["a"], ["a"], ["b"]
    assert memo.intern("key", first) is first
    memo.forget_unused()
    assert memo.intern("key", equal) is first
    memo.forget_unused()
    assert memo.intern("key", other) is other


# --- many results under one key


class Sources:
    """What many results are made from, and a count of how often they are."""

    def __init__(self) -> None:
        self.memo = Memo()
        self.made: list[str] = []

    def results(self, sources: Mapping[str, object], *depends_on: object) -> Mapping[str, object]:
        def make(id_: str, source: object, _last: object) -> object:
            self.made.append(id_)
            return [source]

        found = self.memo.each("key", sources, depends_on, make)
        self.memo.forget_unused()
        return found


def test_of_many_results_those_are_made_whose_source_is_another_object() -> None:
    many, common = Sources(), object()
    first = many.results({"a": "A", "b": "B", "c": "C"}, common)
    second = many.results({"a": "A", "b": "other", "d": "D"}, common)
    assert many.made == ["a", "b", "c", "b", "d"]
    assert second == {"a": ["A"], "b": ["other"], "d": ["D"]}
    assert second["a"] is first["a"]


def test_many_results_that_are_the_same_are_the_same_mapping() -> None:
    many, common = Sources(), object()
    first = many.results({"a": "A", "b": "B"}, common)
    assert many.results({"a": "A", "b": "B"}, common) is first
    assert many.results({"a": "A", "b": "B"}, object()) is first, "made anew, and equal"
    assert list(many.results({"b": "B", "a": "A"}, common)) == ["b", "a"]
    assert many.made == ["a", "b", "a", "b", "b", "a"]


def test_of_what_all_depend_on_each_is_asked_what_it_needs() -> None:
    memo, made = Memo(), []
    sources = {"a": "x", "b": "y"}

    def results(common: Mapping[str, int]) -> Mapping[str, int]:
        def make(id_: str, source: str, _last: int | None) -> int:
            made.append(id_)
            return common[source]

        found = memo.each("key", sources, (common,), make, lambda _, source: (common[source],))
        memo.forget_unused()
        return found

    assert results({"x": 1, "y": 2}) == {"a": 1, "b": 2}
    assert results({"x": 1, "y": 3}) == {"a": 1, "b": 3}
    assert made == ["a", "b", "b"]


def test_who_cannot_be_concerned_is_not_asked() -> None:
    memo, asked = Memo(), []
    sources = {"a": "x", "b": "y", "c": "x"}

    def results(common: Mapping[str, int]) -> Mapping[str, int]:
        def narrowed(id_: str, source: str) -> tuple[object, ...]:
            asked.append(id_)
            return (common[source],)

        def concerned(before: tuple[object, ...]) -> Iterable[str] | None:
            (known,) = before
            assert isinstance(known, dict)
            if len(known) != len(common):
                return None
            return [id_ for id_, source in sources.items() if known[source] != common[source]] + ["gone"]

        make = lambda _id, source, _last: common[source]  # noqa: E731
        found = memo.each("key", sources, (common,), make, narrowed, concerned)
        memo.forget_unused()
        return found

    assert results({"x": 1, "y": 2}) == {"a": 1, "b": 2, "c": 1}
    asked.clear()
    assert results({"x": 3, "y": 2}) == {"a": 3, "b": 2, "c": 3}
    assert asked == ["a", "c"]
    asked.clear()
    assert results({"x": 3, "y": 4, "z": 5}) == {"a": 3, "b": 4, "c": 3}
    assert asked == ["a", "b", "c"], "who is concerned was not known"


def test_a_part_that_was_not_asked_for_keeps_everything() -> None:
    memo = Memo()
    first = memo.part("trees").get("key", (), object)
    for _ in range(3):
        memo.forget_unused()
    assert memo.part("trees").get("key", (), object) is first
    memo.forget_unused()
    memo.part("trees")
    memo.forget_unused()
    assert memo.part("trees").get("key", (), object) is not first


def test_a_network_whose_short_id_clashes_renames_both() -> None:
    """Also one that no vif is in yet: each has a chain of its own."""
    told = Told()
    twin = make_network(1).id[:-4] + "ffff"
    touched = changed_by(told, Put(make_network(9, id=twin)))
    names = {name for name in told.compiled.ruleset.tables[FILTER].chains if "-net-" in name}
    assert "nova-netagent-net-e0000001" not in names
    assert len(names) == 2
    assert "filter:inst-a0000001" in touched
    changed_by(told, Delete("networks", twin))
    assert {name for name in told.compiled.ruleset.tables[FILTER].chains if "-net-" in name} == {
        "nova-netagent-net-e0000001"
    }


def test_equal_rules_of_many_chains_are_one_object_and_each_says_whose_it_is() -> None:
    told = Told()
    one, other = (told.compiled.ruleset.tables[FILTER].chains[f"nova-netagent-inst-a000000{n}"] for n in (1, 3))
    assert all(a is b for a, b in zip(one.rules, other.rules, strict=True))
    assert one.explained[0].origin == ("instances", make_instance(1).id, "replies and its network's services")
    assert [rule.origin for rule in other.explained] == list(other.origins())
    assert ("security_groups", group_id(2), "") in other.origins()


# --- what is put together from parts


class Named(NamedTuple):
    """Something with a name of its own, equal to others."""

    name: str
    what: int


MAPPINGS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2), max_size=5)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.lists(st.sampled_from("xyz"), max_size=4)), max_size=6))
def test_an_index_is_the_same_however_often_a_name_is_said(steps: list[dict[str, list[str]]]) -> None:
    memo = Memo()
    for source in steps:
        index = memo.index("index", source, lambda _, names: names)
        expected = {
            name: {key for key, names in source.items() if name in names} for names in source.values() for name in names
        }
        assert {name: set(keys) for name, keys in index.items()} == expected
        memo.forget_unused()


@given(st.lists(st.tuples(MAPPINGS, MAPPINGS), max_size=6))
def test_what_is_put_together_from_last_time_is_what_is_put_together_anew(
    steps: list[tuple[dict[str, int], dict[str, int]]],
) -> None:
    memo = Memo()
    for left, right in steps:
        ids = frozenset(key for key in left if key in right)
        assert memo.picked("picked", left, ids) == {key: left[key] for key in ids}
        assert memo.paired("paired", left, right) == {key: (left[key], right.get(key)) for key in left}
        assert list(memo.paired("paired", left, right)) == list(left)
        assert memo.keys("keys", left) == left.keys()
        # Each has its value as often as that is.
        ordered = memo.in_order("in order", left, lambda value: [value] * value, lambda value: -value)
        rows = sorted((-value, key, at) for key, value in left.items() for at in range(value))
        assert ordered.places == rows
        assert ordered.items == [-row[0] for row in rows]
        assert ordered.by_key() == [left[key] for key in sorted(left) for _ in range(left[key])]
        assert ordered.distinct() == sorted({value for value in left.values() if value}, reverse=True)
        index = memo.index("index", left, lambda _, value: [str(name) for name in range(value)])
        assert {name: set(keys) for name, keys in index.items()} == {
            str(name): {key for key, value in left.items() if name < value} for name in range(max([0, *left.values()]))
        }
        parts = [{key: Named(f"{side}{key}", value) for key, value in its.items()} for side, its in enumerate(steps[0])]
        parts.append({key: Named(f"2{value}{key}", value) for key, value in right.items()})
        expected = {each.name: each for part in parts for each in part.values()}
        assert memo.merged("merged", parts, lambda each: each.name) == expected
        memo.forget_unused()


MANY = st.dictionaries(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), st.integers(0, 3), min_size=20)
FEW = st.dictionaries(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), st.integers(0, 3), max_size=2)


@given(st.lists(st.tuples(MANY, MANY), max_size=3), FEW, FEW)
def test_what_is_in_order_is_in_order_whatever_came_and_went(
    steps: list[tuple[dict[str, int], dict[str, int]]], put: dict[str, int], others: dict[str, int]
) -> None:
    """Some of it changes, by which the order of last time is followed by the next one, or much of it."""
    memo = Memo()
    followed = 0
    for left, right in [
        each
        for one, two in steps
        for each in (
            (one, two),
            (one | put, two),
            (one | put, two | others),
            (_without(one, others), _without(two, put)),
        )
    ]:
        first = memo.in_order("first", left, lambda value: [value] * value, lambda value: -value)
        second = memo.in_order("second", right, lambda value: [value] * value, lambda value: -value)
        joined = memo.joined("joined", [first, second])
        rows = sorted(
            (-value, turn, key, at)
            for turn, its in enumerate((left, right))
            for key, value in its.items()
            for at in range(value)
        )
        assert first.places == [(order, key, at) for order, turn, key, at in rows if turn == 0]
        assert joined.places == [(order, f"{turn}{key}", at) for order, turn, key, at in rows]
        for found in (first, second, joined):
            assert found.items == [-place[0] for place in found.places]
            assert found.distinct() == sorted(set(found.items), reverse=True)
            assert found.twins == len(found.items) - len(found.distinct())
            followed += found.since is not None
        memo.forget_unused()
    target(followed)


def _without(mapping: dict[str, int], others: dict[str, int]) -> dict[str, int]:
    return {key: value for key, value in mapping.items() if key not in others}


def test_what_is_other_in_what_is_in_order_is_told() -> None:
    memo = Memo()
    hosts = {str(n): n for n in range(20)}
    first = memo.in_order("in order", hosts, lambda value: (value,), lambda value: value)
    memo.forget_unused()
    after = memo.in_order(
        "in order", _without(hosts, {"7": 0}) | {"8": 80}, lambda value: (value,), lambda value: value
    )
    assert first.since is None
    assert after.since is not None
    assert after.since.before is first.items
    assert sorted(after.since.others) == [7, 8, 80]


def test_what_is_put_together_of_the_same_is_the_same_object() -> None:
    memo = Memo()
    left, right = {"a": object(), "b": object()}, {"a": object()}
    part = {"a": Named("one", 1)}
    made = []
    for _ in range(2):
        picked = memo.picked("picked", left, frozenset("a"))
        merged = memo.merged("merged", [part], lambda each: each.name)
        made.append((picked, memo.paired("paired", left, right), memo.keys("keys", left), merged))
        memo.forget_unused()
    assert all(one is other for one, other in zip(*made, strict=True))


def test_a_name_that_passes_from_one_to_another_stays() -> None:
    memo = Memo()
    first, second = Named("x", 1), Named("x", 2)
    memo.merged("merged", [{"a": first}, {}], lambda each: each.name)
    assert memo.merged("merged", [{}, {"b": second}], lambda each: each.name) == {"x": second}


ITS_MACS = make_instance(40, vifs=(make_vif(40, 2, fixed_ips=("10.2.0.41", "fd00:2::f816:3eff:fe00:28")),))
NOT_ITS_MACS = make_instance(41, network=2)
WITH_A_MAC_OF_ANOTHER = make_instance(8, vifs=(make_vif(8, address=make_vif(5).address),))


@pytest.mark.parametrize(
    "events",
    [
        pytest.param(
            [Put(make_provider_rule(1)), Delete("provider_rules", make_provider_rule(1).id)], id="provider rule"
        ),
        pytest.param(
            [
                Put(make_floating_ip(1, fixed_ip_address=make_instance(1).vifs[0].fixed_ips[0])),
                Delete("floating_ips", make_floating_ip(1).id),
            ],
            id="floating IP",
        ),
        pytest.param([Put(make_network(1, bridge_interface="eth1")), Put(make_network(1))], id="uplink"),
        pytest.param([Put(make_network(2)), Delete("networks", make_network(2).id)], id="network"),
        pytest.param([Put(make_group(1, make_rule(1), members=("192.0.2.7",)))], id="member elsewhere"),
        pytest.param([Delete("security_groups", group_id(1)), Put(make_group(1, make_rule(1)))], id="group"),
        pytest.param([Put(make_group(1, id=f"{group_id(2)[:-4]}ffff"))], id="group whose name clashes"),
        pytest.param([Put(make_instance(5, (1,))), Delete("instances", make_instance(6).id)], id="instances"),
        pytest.param([Put(make_instance(5, hostname="www")), Put(make_instance(5, hostname=None))], id="host name"),
        pytest.param(
            [Put(make_network(2)), Put(ITS_MACS), Put(NOT_ITS_MACS), Delete("instances", NOT_ITS_MACS.id)],
            id="address that no MAC makes",
        ),
        pytest.param([Put(WITH_A_MAC_OF_ANOTHER), Delete("instances", make_instance(5).id)], id="one MAC twice"),
        pytest.param([Put(make_network(1, enable_dhcp=False)), Put(make_network(1))], id="DHCP"),
        pytest.param(
            [Put(make_network(2, bridge=make_network(1).bridge)), Put(make_instance(31, network=2))],
            id="two networks on a bridge",
        ),
    ],
)
def test_whatever_happens_what_is_remembered_is_what_would_be_made(events: list[Event]) -> None:
    told = Told()
    for event in events:
        state = told.state
        changed_by(told, event)  # compares with a compiler without memory
        assert told.state is not state
