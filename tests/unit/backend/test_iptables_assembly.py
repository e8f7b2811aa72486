"""Tables that are put together, taken apart again, without a kernel."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nova_netagent.backend import RuleRefused
from nova_netagent.backend.iptables import entry
from nova_netagent.backend.iptables.assembly import Assembler
from nova_netagent.backend.iptables.image import Image, image_of
from nova_netagent.backend.iptables.layout import (
    ERROR_NAME,
    ERROR_TARGET_SIZE,
    EXTENSION,
    LAYOUTS,
    OFFSETS,
    ROOM,
    Layout,
    standard_target,
)
from nova_netagent.backend.iptables.targets import VERDICTS
from nova_netagent.netfilter.rule import ACCEPT, DROP, Family, Jump, Log, Ports, Rule, TableId
from nova_netagent.plan.tables import AddChain, Fill, TablePlan

CHAINS = ("a", "b", "c", "d", "e")
HOOKS = (1, 2, 3)
ONLY_COUNTS = b""
"""For a rule without a target."""

rules = st.sampled_from(
    [Rule(ACCEPT), Rule(DROP, protocol=6, matches=(Ports("tcp", None, (1, 9)),)), Rule(Log(1, "x")), ONLY_COUNTS]
)
jumps = st.sampled_from([Rule(Jump(name, goto)) for name in CHAINS for goto in (False, True)])
bodies = st.lists(st.lists(rules, max_size=12) | st.lists(rules | jumps, max_size=12), min_size=1, max_size=3)


def entry_of(layout: Layout, target: bytes) -> bytes:
    """An entry that matches everything."""
    offsets = OFFSETS.pack(0, layout.size, layout.size + len(target))
    return bytes(layout.nfcache_at) + offsets + bytes(layout.size - layout.comefrom_at) + target


def empty_table(family: Family) -> Image:
    """A filter table as a kernel has it that nobody used."""
    layout = LAYOUTS[family]
    policy = entry_of(layout, standard_target(b"", VERDICTS["ACCEPT"]))
    mark = EXTENSION.pack(ERROR_TARGET_SIZE, ERROR_NAME, 0) + b"ERROR".ljust(ERROR_TARGET_SIZE - EXTENSION.size, b"\0")
    blob = bytearray(bytes(ROOM) + len(HOOKS) * policy + entry_of(layout, mark))
    return image_of(blob, {hook: place * len(policy) for place, hook in enumerate(HOOKS)}, layout)


def keys_of(body: Sequence[Rule | bytes], family: Family) -> tuple[bytes, ...]:
    only_counts = entry_of(LAYOUTS[family], standard_target(b""))
    return tuple(entry.encode(each, family, int) if isinstance(each, Rule) else only_counts for each in body)


def assembled(desired: Mapping[str, tuple[bytes, ...]], family: Family) -> Image:
    """An empty table after these chains were added."""
    table = TableId(family, "filter")
    edits = [AddChain(name) for name in desired]
    fills = [Fill(name, keys) for name, keys in desired.items() if keys]
    return Assembler(table, dict).replacement(TablePlan(table, (*edits, *fills)), empty_table(family)).image


@settings(deadline=None)
@given(st.sampled_from((4, 6)), bodies, st.lists(st.integers(0, 2), min_size=len(CHAINS), max_size=len(CHAINS)))
def test_what_is_put_together_is_read_again(family: Family, some: list[list[Rule | bytes]], which: list[int]) -> None:
    """Chains with the same rules are in it as often as they are asked for, and each jump leads where it should."""
    desired = {name: keys_of(some[each % len(some)], family) for name, each in zip(CHAINS, which, strict=True)}
    image = assembled(desired, family)
    hooks = {hook: image.starts[place] for place, hook in enumerate(image.hooks)}
    again = image_of(image.blob, hooks, LAYOUTS[family])
    assert {name: again.chains[name] for name in CHAINS} == desired
    assert (again.names, again.starts, again.entries) == (image.names, image.starts, image.entries)


def test_a_jump_to_nowhere_is_refused_in_each_of_some_chains_alike() -> None:
    keys = keys_of([Rule(DROP)] * 9 + [Rule(Jump("nowhere"))], 4)
    with pytest.raises(RuleRefused, match="no chain nowhere"):
        assembled(dict.fromkeys(CHAINS, keys), 4)
