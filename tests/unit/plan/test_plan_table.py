"""A table's plan: our chains, our jumps among foreign rules, and what is left of former times."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nova_netagent.netfilter.rule import IpSet
from nova_netagent.plan.sets import SetPlan, plan_sets
from nova_netagent.plan.tables import AddChain, Delete, EncodedHook, Fill, Insert, RemoveChain, TablePlan
from tests.unit.plan.kernel import (
    BARE,
    CHAINS,
    FILTER,
    OURS,
    OWNER,
    Chains,
    carry_out,
    desired,
    plan,
    removed,
    result,
)

OUR_JUMPS = (">nova-filter-top", ">W-FORWARD")


def forward(*keys: str, **chains: tuple[str, ...]) -> Chains:
    """Our table with other rules in FORWARD, and more chains (``_`` is ``-``)."""
    return {**OURS, "FORWARD": keys, **{name.replace("_", "-"): each for name, each in chains.items()}}


# --- from nothing, and from what is right


def test_on_a_bare_table_everything_is_made() -> None:
    assert result(BARE) == OURS


def test_what_is_right_needs_no_edit() -> None:
    assert plan(OURS).edits == ()
    assert plan(OURS, keep_position=True).edits == ()


def test_chains_are_made_before_anything_jumps_to_them() -> None:
    edits = plan(BARE).edits
    assert [type(edit) for edit in edits[:4]] == [AddChain] * 4
    carry_out(edits, BARE)


def test_a_flushed_table_is_filled_again() -> None:
    flushed = dict.fromkeys(OURS, ())
    assert result(flushed) == OURS


def test_a_chain_that_is_the_same_object_is_not_compared() -> None:
    class NeverCompared(tuple[str, ...]):
        __slots__ = ()

        def __getitem__(self, index: object) -> object:  # type: ignore[override]
            raise AssertionError("it is the same object")

    same = NeverCompared(("a", "b"))
    wanted = desired()
    chains = {**wanted.chains, "W-inst-00000001": same}
    assert plan({**OURS, "W-inst-00000001": same}, type(wanted)(FILTER, chains, wanted.hooks)).edits == ()


# --- our chains


def test_strangers_in_our_chains_go_and_what_is_missing_comes() -> None:
    drifted = {**OURS, "W-inst-00000001": ("x", "b", "b"), "W-local": ()}
    assert result(drifted) == OURS


def test_a_chain_that_nobody_asks_for_goes() -> None:
    assert result({**OURS, "W-inst-00000099": ("x",), "W-sgi-00000001": ()}) == OURS


@pytest.mark.parametrize(
    "name", ["W-inst-1", "W-inst-00000001x", "W-2-INPUT", "Wx-INPUT", "W-", "W", "nova-compute-local", "W-custom"]
)
def test_a_chain_that_is_not_of_our_grammar_stays(name: str) -> None:
    actual = {**OURS, name: ("x", "x")}
    assert result(actual) == actual
    assert removed(actual) == {**BARE, name: ("x", "x")}


def test_stale_chains_that_jump_to_each_other_all_go() -> None:
    stale = {"W-inst-00000007": (">W-vif-00000007",), "W-vif-00000007": (">W-inst-00000008",), "W-inst-00000008": ()}
    assert result({**OURS, **stale}) == OURS


@pytest.mark.parametrize("where", ["FORWARD", "INPUT", "operators"])
def test_a_stale_chain_that_a_foreign_rule_needs_is_emptied(where: str) -> None:
    foreign = {**OURS, "operators": ()}
    foreign[where] = (*foreign[where], ">W-inst-00000007")
    actual = {**foreign, "W-inst-00000007": ("a", ">W-vif-00000007"), "W-vif-00000007": ("b",)}
    assert result(actual) == {**foreign, "W-inst-00000007": ()}
    assert RemoveChain("W-inst-00000007", flush_only=True) in plan(actual).edits


def test_a_stale_chain_that_is_empty_already_needs_no_edit() -> None:
    """Law 2: a second reconcile makes no edit."""
    actual = {**OURS, "INPUT": (">W-inst-00000007",), "W-inst-00000007": ("a",)}
    after = carry_out(plan(actual).edits, actual)
    assert after["W-inst-00000007"] == ()
    assert plan(after).edits == ()


def test_a_jump_of_ours_does_not_keep_a_stale_chain() -> None:
    actual = {**OURS, "W-local": (">W-inst-00000007",), "W-inst-00000007": ("a",)}
    assert result(actual) == OURS


def test_a_foreign_jump_to_a_chain_of_ours_that_is_asked_for_is_left() -> None:
    actual = {**OURS, "INPUT": (">W-local", ">W-local")}
    assert result(actual) == actual


# --- our jumps in built-in chains


def test_our_jumps_stand_before_every_foreign_rule() -> None:
    assert result(forward("x", *OUR_JUMPS, "y"))["FORWARD"] == (*OUR_JUMPS, "x", "y")
    assert result({**BARE, "FORWARD": ("x", "y", "x")})["FORWARD"] == (*OUR_JUMPS, "x", "y", "x")


@pytest.mark.parametrize(
    "keys",
    [
        (),
        (">nova-filter-top",),
        (">W-FORWARD",),
        (">W-FORWARD", ">nova-filter-top"),
        (*OUR_JUMPS, *OUR_JUMPS),
        ("x", *OUR_JUMPS),
        (">nova-filter-top", "x", ">W-FORWARD"),
        ("x", ">W-FORWARD", "y", ">W-FORWARD", ">nova-filter-top"),
    ],
)
def test_whatever_became_of_our_jumps_is_put_right_and_foreign_rules_keep_their_order(keys: tuple[str, ...]) -> None:
    foreign = tuple(key for key in keys if key not in OUR_JUMPS)
    assert result(forward(*keys))["FORWARD"] == (*OUR_JUMPS, *foreign)


def test_a_foreign_rule_is_never_an_edit() -> None:
    for keys in (("x", *OUR_JUMPS, "y"), ("x", "y"), (">W-FORWARD", "x", ">nova-filter-top", "y")):
        edits = plan(forward(*keys), top="y").edits
        assert not [e for e in edits if isinstance(e, Insert | Delete) and e.key in ("x", "y")]


def test_a_rule_that_merely_looks_like_ours_is_foreign() -> None:
    """Only what is exactly ours is ours: not a jump to our chain with a match, or with a comment."""
    alike = (">W-FORWARD -s 192.0.2.1", "x comment W-FORWARD")
    assert result(forward(*alike, *OUR_JUMPS, **{">": ()}) | {"W-FORWARD -s 192.0.2.1": ()})["FORWARD"] == (
        *OUR_JUMPS,
        *alike,
    )


def test_position_is_kept_between_resyncs() -> None:
    """Another program that wants to be first is fought once a resync and not at every change."""
    for keys in (("x", *OUR_JUMPS), (">nova-filter-top", "x", ">W-FORWARD")):
        assert plan(forward(*keys), keep_position=True).edits == ()
        assert plan(forward(*keys)).edits != ()
    for moved in (("x",), ("x", ">W-FORWARD"), ("x", *OUR_JUMPS, ">W-FORWARD")):
        assert result(forward(*moved), keep_position=True)["FORWARD"] == (*OUR_JUMPS, "x")


# --- iptables_top_regex and iptables_bottom_regex


@pytest.mark.parametrize(
    ("keys", "top", "bottom", "expected"),
    [
        ("t x", "t", "", "t OURS x"),
        ("x t", "t", "", "x t OURS"),
        ("t x t y", "t", "", "t x t OURS y"),
        ("x y", "t", "", "OURS x y"),
        ("t b", "t", "b", "t OURS b"),
        ("b t", "t", "b", "OURS b t"),
        ("t b t", "t", "b", "t OURS b t"),
        ("x b", "", "b", "OURS x b"),
        ("t x b", "t", "b", "t OURS x b"),
        ("both x", "both", "both", "OURS both x"),
        ("tt x", "^t$", "", "OURS tt x"),
        ("x1 x2 y", "x[12]", "", "x1 x2 OURS y"),
    ],
)
def test_where_our_jumps_stand_among_rules_that_match(keys: str, top: str, bottom: str, expected: str) -> None:
    foreign = tuple(keys.split())
    wanted = tuple(key for word in expected.split() for key in (OUR_JUMPS if word == "OURS" else (word,)))
    assert result({**BARE, "FORWARD": foreign}, top=top, bottom=bottom)["FORWARD"] == wanted
    assert result(forward(*OUR_JUMPS, *foreign), top=top, bottom=bottom)["FORWARD"] == wanted
    assert plan(forward(*wanted), top=top, bottom=bottom).edits == ()


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.sampled_from(["x", "y", "t1", "t2", "b1", "b2", *OUR_JUMPS]), max_size=12),
    st.sampled_from(("", "t")),
    st.sampled_from(("", "b")),
    st.booleans(),
)
def test_foreign_rules_keep_order_and_number_whatever_we_find(
    keys: list[str], top: str, bottom: str, keep_position: bool
) -> None:
    foreign = [key for key in keys if key not in OUR_JUMPS]
    after = result(forward(*keys), top=top, bottom=bottom, keep_position=keep_position)["FORWARD"]
    assert [key for key in after if key not in OUR_JUMPS] == foreign
    assert Counter(after) - Counter(foreign) == Counter(OUR_JUMPS)
    if not keep_position:
        assert "".join(OUR_JUMPS) in "".join(after)
        place = after.index(OUR_JUMPS[0])
        if not bottom:
            assert not any("t" in key for key in after[place + 2 :] if top)
        assert not any("b" in key for key in after[:place] if bottom)


# --- chains that we share with other agents


def test_in_a_shared_chain_our_jump_is_there_once_wherever_it_stands() -> None:
    for keys in ((">W-local", ">theirs"), (">theirs", ">W-local")):
        actual = {**OURS, "nova-filter-top": keys, "theirs": ()}
        assert result(actual) == actual


def test_in_a_shared_chain_our_jump_comes_first_and_its_doubles_go() -> None:
    actual = {**OURS, "nova-filter-top": (">theirs",), "theirs": ()}
    assert result(actual)["nova-filter-top"] == (">W-local", ">theirs")
    actual["nova-filter-top"] = (">theirs", ">W-local", ">theirs", ">W-local")
    assert result(actual)["nova-filter-top"] == (">theirs", ">W-local", ">theirs")


def test_a_shared_chain_that_another_agent_made_is_used() -> None:
    actual = {**BARE, "FORWARD": (">nova-filter-top", "x"), "nova-filter-top": (">theirs",), "theirs": ()}
    assert result(actual) == {
        **OURS,
        "FORWARD": (*OUR_JUMPS, "x"),
        "nova-filter-top": (">W-local", ">theirs"),
        "theirs": (),
    }


BOTTOM_HOOKS = (
    EncodedHook("POSTROUTING", (">W-POSTROUTING", ">nova-postrouting-bottom"), shared=False),
    EncodedHook("nova-postrouting-bottom", (">W-snat",), shared=True),
)
NAT = desired({"W-POSTROUTING": (), "W-snat": ()}, BOTTOM_HOOKS)
OTHERS: Chains = {
    "INPUT": (), "OUTPUT": (), "W-POSTROUTING": (), "W-snat": (), "theirs-POSTROUTING": ("exempt",),
    "theirs-snat": ("b",), "nova-postrouting-bottom": (">theirs-snat", ">W-snat"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("theirs bottom x", "W theirs bottom x"),
        ("W bottom theirs x", "W theirs bottom x"),
        ("W theirs bottom x", "W theirs bottom x"),
        ("x theirs bottom W", "W bottom x theirs"),
        ("theirs theirs bottom", "W theirs theirs bottom"),
        ("x", "W bottom x"),
        ("", "W bottom"),
    ],
)
def test_the_shared_bottom_comes_after_the_exemptions_of_those_who_share_it(keys: str, expected: str) -> None:
    """nova-postrouting-bottom is the tail of every nova process' POSTROUTING."""

    def rules(words: str) -> tuple[str, ...]:
        full = {"W": ">W-POSTROUTING", "theirs": ">theirs-POSTROUTING", "bottom": ">nova-postrouting-bottom"}
        return tuple(full.get(word, word) for word in words.split())

    after = result({**OTHERS, "POSTROUTING": rules(keys)}, NAT)
    assert after["POSTROUTING"] == rules(expected)


def test_who_does_not_share_the_bottom_comes_after_it() -> None:
    """A chain that is merely named alike, whose owner has no jump there."""
    actual = {**OTHERS, "nova-postrouting-bottom": (">W-snat",), "POSTROUTING": (">theirs-POSTROUTING",)}
    after = result(actual, NAT)
    assert after["POSTROUTING"] == (">W-POSTROUTING", ">nova-postrouting-bottom", ">theirs-POSTROUTING")


def test_a_pattern_may_name_the_chain() -> None:
    """A rule is matched as iptables-save writes it."""
    for top, expected in (("-A FORWARD t", ("t", *OUR_JUMPS)), ("-A INPUT t", (*OUR_JUMPS, "t"))):
        assert result({**BARE, "FORWARD": ("t",)}, top=top)["FORWARD"] == expected


# --- taking everything out


def test_a_removal_leaves_what_was_there_before() -> None:
    assert removed(OURS) == BARE
    foreign = {"INPUT": ("x",), "FORWARD": ("x", "x", "y"), "OUTPUT": (), "mine": ("z",)}
    assert removed(result(foreign)) == foreign


def test_a_removal_of_nothing_is_nothing() -> None:
    foreign = {**BARE, "FORWARD": ("x",), "nova-compute-inst-1": ("y",)}
    assert removed(foreign) == foreign


def test_a_shared_chain_goes_with_whoever_takes_the_last_jump_out() -> None:
    shared = {**OURS, "nova-filter-top": (">theirs", ">W-local"), "theirs": ("x",)}
    assert removed(shared) == {
        **BARE,
        "FORWARD": (">nova-filter-top",),
        "nova-filter-top": (">theirs",),
        "theirs": ("x",),
    }
    assert "nova-filter-top" not in removed({**OURS, "nova-filter-top": (">W-local", ">W-local")})
    assert "nova-filter-top" not in removed({**OURS, "nova-filter-top": ()})


def test_a_shared_chain_that_a_foreign_rule_needs_is_emptied() -> None:
    actual = {**OURS, "FORWARD": (*OUR_JUMPS, "x"), "INPUT": (">nova-filter-top",)}
    assert removed(actual) == {**BARE, "FORWARD": ("x",), "INPUT": (">nova-filter-top",), "nova-filter-top": ()}


def test_a_removal_takes_doubled_jumps_and_stale_chains_too() -> None:
    actual = forward("x", *OUR_JUMPS, "y", *OUR_JUMPS, W_inst_00000099=("a",))
    assert removed(actual) == {**BARE, "FORWARD": ("x", "y")}


def test_a_chain_of_ours_that_a_foreign_rule_needs_stays_empty() -> None:
    actual = {**OURS, "INPUT": (">W-inst-00000001",)}
    assert removed(actual) == {**BARE, "INPUT": (">W-inst-00000001",), "W-inst-00000001": ()}


NAMES = ["W-FORWARD", "W-local", "W-inst-00000001", "W-inst-00000002", "foreign", "nova-filter-top"]


@st.composite
def tables(draw: st.DrawFn) -> Chains:
    """Any table: ours in any condition, foreign rules and jumps everywhere."""
    names = [name for name in NAMES if draw(st.booleans())]
    keys = st.lists(st.sampled_from(["a", "b", "x", *(f">{name}" for name in names)]), max_size=4).map(tuple)
    # A jump leads further down the list, so that there is no loop.
    order = ["INPUT", "FORWARD", "OUTPUT", *names]
    return {
        name: tuple(k for k in draw(keys) if not k.startswith(">") or order.index(k[1:]) > order.index(name))
        for name in order
    }


@settings(deadline=None, max_examples=300)
@given(tables())
def test_whatever_was_there_ours_is_right_afterwards_and_the_rest_untouched(actual: Chains) -> None:
    after = result(actual)
    for name, keys in CHAINS.items():
        assert after[name] == keys
    for name in ("INPUT", "OUTPUT", "foreign"):
        assert after.get(name) == actual.get(name)
    foreign = [key for key in actual["FORWARD"] if key not in OUR_JUMPS]
    assert list(after["FORWARD"]) == [*OUR_JUMPS, *foreign]
    top = [key for key in after["nova-filter-top"] if key != ">W-local"]
    assert top == [key for key in actual.get("nova-filter-top", ()) if key != ">W-local"]


@settings(deadline=None, max_examples=300)
@given(tables())
def test_whatever_was_there_a_removal_leaves_what_is_foreign(actual: Chains) -> None:
    after = removed(actual)
    for name in ("INPUT", "OUTPUT", "foreign"):
        assert after.get(name) == actual.get(name)
    others = [key for key in actual.get("nova-filter-top", ()) if key != ">W-local"]
    assert list(after.get("nova-filter-top", ())) == others
    kept = [">nova-filter-top"] if others else []
    foreign = [key for key in actual["FORWARD"] if key not in OUR_JUMPS or key in kept]
    assert list(after["FORWARD"]) == foreign
    for name in after:
        if OWNER.owns_chain(name):
            assert after[name] == ()


# --- for people


def test_a_plan_reads_an_edit_a_line_with_places_as_iptables_counts_them() -> None:
    table = TablePlan(
        FILTER,
        (
            AddChain("W-local"),
            Fill("W-local", ("a", "b")),
            Insert("W-local", 2, "c"),
            Delete("FORWARD", 2, "b"),
            RemoveChain("W-inst-00000001"),
            RemoveChain("W-inst-00000002", flush_only=True),
        ),
    )
    assert list(table.lines(str.upper)) == [
        "IPv4 filter: + chain W-local",
        "IPv4 filter: + W-local[1] A",
        "IPv4 filter: + W-local[2] B",
        "IPv4 filter: + W-local[3] C",
        "IPv4 filter: - FORWARD[3] B",
        "IPv4 filter: - chain W-inst-00000001",
        "IPv4 filter: - rules of chain W-inst-00000002",
    ]
    assert table.counts() == {"addchain": 1, "insert": 3, "delete": 1, "removechain": 2}
    assert list(table.coming()) == [("W-local", "a"), ("W-local", "b"), ("W-local", "c")]


# --- sets


def set_of(name: str, *members: str) -> IpSet:
    return IpSet(name, 4, frozenset(members))


def test_sets_are_made_changed_and_destroyed_by_name() -> None:
    wanted = {"W-g4-00000001": set_of("W-g4-00000001", "a", "b"), "W-g4-00000002": set_of("W-g4-00000002", "c")}
    actual = {
        "W-g4-00000001": set_of("W-g4-00000001", "b", "x"),
        "W-g4-00000003": set_of("W-g4-00000003"),
        "W-g4-00000004x": set_of("W-g4-00000004x"),
        "foreign": set_of("foreign", "y"),
    }
    plan_ = plan_sets(wanted, actual, OWNER.owns_set)
    assert plan_ == SetPlan(
        create=(wanted["W-g4-00000002"],),
        add={"W-g4-00000001": frozenset("a")},
        remove={"W-g4-00000001": frozenset("x")},
        destroy=("W-g4-00000003",),
        keep={"W-g4-00000001": frozenset("ab")},
    )
    assert list(plan_.lines()) == [
        "set: + W-g4-00000002 (1 members)",
        "set: + W-g4-00000001 a",
        "set: - W-g4-00000001 x",
        "set: - W-g4-00000003",
    ]
    assert plan_


def test_sets_that_are_right_need_no_edit() -> None:
    same = {"W-g4-00000001": set_of("W-g4-00000001", "a")}
    for actual in (same, {"W-g4-00000001": IpSet("W-g4-00000001", 4, frozenset("a"), ("x", "y", "z"))}):
        plan_ = plan_sets(same, actual, OWNER.owns_set)
        assert not plan_
        assert list(plan_.lines()) == []
    assert not plan_sets({}, {"foreign": set_of("foreign")}, OWNER.owns_set)


def test_a_hook_may_have_a_rule_twice_in_two_chains() -> None:
    """INPUT and OUTPUT have the same jump in nat: each is put right by itself."""
    hooks = (EncodedHook("INPUT", (">W-local",), False), EncodedHook("OUTPUT", (">W-local",), False))
    after = result({**BARE, "OUTPUT": ("x", ">W-local")}, desired({"W-local": ()}, hooks))
    assert (after["INPUT"], after["OUTPUT"]) == ((">W-local",), (">W-local", "x"))
