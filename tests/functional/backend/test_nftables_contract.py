"""The nftables backend does what every backend does."""

from collections.abc import Iterator, Sequence
from ipaddress import ip_address

import pytest

from nova_netagent.backend.nft import Netlink
from nova_netagent.backend.nftables import NftablesBackend, keys
from nova_netagent.netfilter.rule import CUT_FLOWS, IpSet, Rule, Table, TableId
from nova_netagent.netfilter.text import BUILTIN_CHAINS, rule_text
from nova_netagent.plan.sets import SetPlan, plan_sets
from nova_netagent.plan.tables import EncodedTable
from tests.functional.backend import nft
from tests.lab import isolation

pytest.register_assert_rewrite("tests.unit.backend.contract")

from tests.unit.backend.contract import BackendContract  # noqa: E402


class Remembering(NftablesBackend):
    """One that remembers every rule by its bytes: nobody else can tell what they say."""

    def __init__(self) -> None:
        super().__init__(nft.OURS, lambda name: name.startswith("ours-"))
        self.texts: dict[tuple[int, bytes], str] = {}

    def encode(self, table: Table) -> EncodedTable[bytes]:
        encoded = super().encode(table)
        for each in (*encoded.chains.values(), *(hook.keys for hook in encoded.hooks)):
            self.texts |= {(table.id.family, bytes(key)): self.describe(table.id, key) for key in each}
        return encoded


class NftWorld:
    """The kernel, and what another program does to our tables."""

    notices = True
    permits = frozenset(
        {"reject in mangle", "checksum in filter", "a source mac going out", "a bridge port out of the host"}
    )

    def __init__(self, backend: Remembering, netlink: Netlink) -> None:
        self.backend = backend
        self._netlink = netlink

    def put(self, table: TableId, chain: str, rules: Sequence[Rule]) -> None:
        for rule in rules:
            self.backend.texts[table.family, bytes(keys.key(rule, table.family, lambda name: name))] = rule_text(
                rule, table.family
            )
        nft.put(self._netlink, table, chain, rules)

    def rules(self, table: TableId, chain: str) -> list[str] | None:
        found = nft.rules(self._netlink, table, chain)
        if found is None:
            return [] if chain in BUILTIN_CHAINS[table.name] else None
        return [self.backend.texts[table.family, each] for each in found]

    def noted(self, name: str) -> set[str]:
        found = set()
        for family, size in ((4, 4), (6, 16)):
            for each in self._netlink.elements(nft.table(family), name):  # type: ignore[arg-type]
                here, peer = (str(ip_address(each.key[at : at + size])) for at in (0, size + 4))
                found.add(f"{here},tcp:{int.from_bytes(each.key[size : size + 2], 'big')},{peer}")
        return found


@pytest.fixture
def world() -> Iterator[NftWorld]:
    isolation.require()
    netlink, backend = Netlink(), Remembering()
    nft.empty(netlink)
    yield NftWorld(backend, netlink)
    backend.close()
    nft.empty(netlink)
    netlink.close()


class TestNftablesBackend(BackendContract):
    """All of it."""


def test_who_comes_after_us_finds_members_in_the_range_of_others_as_they_are_wanted(world: NftWorld) -> None:
    wanted = {"ours-set": IpSet("ours-set", 4, frozenset({"10.0.0.0/28", "10.0.0.4/32", "10.0.0.16/32"}))}
    others = {"ours-set": IpSet("ours-set", 4, frozenset({"10.0.0.0/28"}))}
    world.backend.prepare_sets(SetPlan(create=tuple(wanted.values())))
    another = nft.new_backend()
    assert not plan_sets(wanted, another.read_sets(wanted), lambda name: True)
    assert another.read_sets() == wanted, "it is remembered"
    another.close()
    another = nft.new_backend()
    assert list(plan_sets(others, another.read_sets(others), lambda name: True).lines()) == [
        "set: - ours-set 10.0.0.16/32"
    ]
    another.close()


def test_as_many_ends_of_flows_as_there_can_be_are_told_and_noted_again(
    world: NftWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """A full set has room for those that it has."""
    world.backend.prepare_sets(SetPlan(create=(IpSet("ours-cut6", 6, frozenset(), type="hash:ip,port,ip"),)))
    numbers = range(int(ip_address("fd00::")), int(ip_address("fd00::")) + CUT_FLOWS)
    ends = {"ours-cut6": frozenset(f"{ip_address(each)},tcp:40000,2001:db8::1" for each in numbers)}
    for _ in range(2):
        world.backend.note_cut(ends)
        assert world.backend.cut_ends() == ends
    assert not caplog.records
