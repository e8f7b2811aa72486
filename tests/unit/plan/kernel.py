"""A table in memory, of rules that are words: carries plans out as a backend must.

A rule ``>name`` jumps to a chain.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from nova_netagent.netfilter.owner import Owner
from nova_netagent.netfilter.rule import TableId
from nova_netagent.plan.tables import (
    AddChain,
    Delete,
    Edit,
    EncodedHook,
    EncodedTable,
    Fill,
    Insert,
    Placement,
    RemoveChain,
    TablePlan,
    plan_removal,
    plan_table,
)

OWNER = Owner("W")
FILTER = TableId(4, "filter")
HOOKS = (
    EncodedHook("FORWARD", (">nova-filter-top", ">W-FORWARD"), shared=False),
    EncodedHook("nova-filter-top", (">W-local",), shared=True),
)
CHAINS: Mapping[str, tuple[str, ...]] = {
    "W-FORWARD": (),
    "W-local": (">W-inst-00000001",),
    "W-inst-00000001": ("a", "b"),
}

Chains = dict[str, tuple[str, ...]]


def jumps_to(key: str) -> str | None:
    """The chain that a rule jumps to."""
    return key[1:] if key.startswith(">") else None


def desired(
    chains: Mapping[str, Sequence[str]] = CHAINS, hooks: Sequence[EncodedHook[str]] = HOOKS
) -> EncodedTable[str]:
    """What the table must hold."""
    return EncodedTable(FILTER, {name: tuple(keys) for name, keys in chains.items()}, tuple(hooks))


def carry_out(edits: Iterable[Edit[str]], actual: Mapping[str, Sequence[str]]) -> Chains:
    """The table after a plan. An edit that does not fit is a failed assertion."""
    chains = {name: list(keys) for name, keys in actual.items()}
    going = []
    for edit in edits:
        match edit:
            case AddChain(name):
                assert name not in chains, f"{name} is there already"
                chains[name] = []
            case RemoveChain(name, flush_only):
                chains[name].clear()
                going += [] if flush_only else [name]
            case Fill(name, keys):
                assert not chains[name], f"{name} is not empty"
                assert keys, f"nothing is put into {name}"
                for target in map(jumps_to, keys):
                    assert target is None or target in chains, f"there is no {target} to jump to yet"
                chains[name] = list(keys)
            case Insert(name, index, key):
                assert index <= len(chains[name])
                target = jumps_to(key)
                assert target is None or target in chains, f"there is no {target} to jump to yet"
                chains[name].insert(index, key)
            case Delete(name, index, key):
                assert chains[name][index] == key, f"another rule stands at {index} of {name}"
                del chains[name][index]
    for name in going:
        del chains[name]
    for left in chains.values():
        for key in left:
            assert jumps_to(key) is None or jumps_to(key) in chains, f"{key} leads nowhere"
    return {name: tuple(keys) for name, keys in chains.items()}


def plan(
    actual: Mapping[str, Sequence[str]],
    wanted: EncodedTable[str] | None = None,
    *,
    top: str = "",
    bottom: str = "",
    keep_position: bool = False,
) -> TablePlan[str]:
    """The plan that leads to what is wanted."""
    return plan_table(
        wanted or desired(),
        actual,
        owns=OWNER.owns_chain,
        jumps_to=jumps_to,
        placement=Placement(lambda key: key, re.compile(top) if top else None, re.compile(bottom) if bottom else None),
        keep_position=keep_position,
    )


def result(
    actual: Mapping[str, Sequence[str]], wanted: EncodedTable[str] | None = None, **options: str | bool
) -> Chains:
    """The table after the plan; the plan of the result must be empty."""
    after = carry_out(plan(actual, wanted, **options).edits, actual)  # type: ignore[arg-type]
    again = {name: value for name, value in options.items() if name != "keep_position"}
    if not options.get("keep_position"):
        assert plan(after, wanted, **again).edits == ()  # type: ignore[arg-type]
    return after


def removed(actual: Mapping[str, Sequence[str]]) -> Chains:
    """The table without anything of ours; the plan of the result must be empty."""
    skeleton = desired({"W-FORWARD": (), "W-local": ()})

    def edits(chains: Mapping[str, Sequence[str]]) -> tuple[Edit[str], ...]:
        return plan_removal(skeleton, chains, owns=OWNER.owns_chain, jumps_to=jumps_to).edits

    after = carry_out(edits(actual), actual)
    assert edits(after) == ()
    return after


BARE: Chains = {"INPUT": (), "FORWARD": (), "OUTPUT": ()}
OURS: Chains = {
    "INPUT": (),
    "FORWARD": (">nova-filter-top", ">W-FORWARD"),
    "OUTPUT": (),
    "nova-filter-top": (">W-local",),
    **CHAINS,
}
