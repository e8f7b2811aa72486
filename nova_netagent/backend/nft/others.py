"""What others have in nf_tables: their tables with everything in them, those of Debian's plain iptables among them."""

from collections.abc import Collection, Mapping

from msgspec import Struct

from nova_netagent.backend.nft.netlink import ListedChain, ListedRule, ListedSet, Netlink
from nova_netagent.backend.nft.objects import Element, Family, TableId
from nova_netagent.netfilter.hooks import HOOKS

_FAMILIES = (Family.IP, Family.IP6, Family.INET)
_SEEN_BY = {4: (Family.INET, Family.IP), 6: (Family.INET, Family.IP6)}
_DROP = 0


class OtherTable(Struct, frozen=True):
    """A table of somebody else's."""

    id: TableId
    chains: Mapping[str, ListedChain]
    rules: Mapping[str, tuple[ListedRule, ...]]
    """By chain, in order."""
    sets: Mapping[str, tuple[ListedSet, tuple[Element, ...]]]

    @property
    def text(self) -> str:
        """As nft(8) names it: ``inet firewalld``."""
        return f"{self.id.family.name.lower()} {self.id.name}"

    def sees(self, family: int) -> bool:
        """Whether packets of an address family meet it."""
        return self.id.family in _SEEN_BY[family]

    def base_chains(self, hook: str) -> list[ListedChain]:
        """The chains that packets enter by at a hook, if they do anything."""
        found = (each for each in self.chains.values() if each.hook is not None and each.hook < len(HOOKS))
        return [
            each
            for each in found
            if HOOKS[each.hook or 0] == hook and (self.rules.get(each.name) or each.policy == _DROP)
        ]


def other_tables(own: Collection[str]) -> list[OtherTable]:
    """The tables of the namespace that judge packets, but for those of these names.

    :raises Unavailable: the kernel does not list them.
    """
    netlink = Netlink()
    try:
        return [
            _read(netlink, table)
            for table in dict.fromkeys(
                TableId(family, name) for family in _FAMILIES for name, _ in netlink.hooked(family) if name not in own
            )
        ]
    finally:
        netlink.close()


def _read(netlink: Netlink, table: TableId) -> OtherTable:
    rules: dict[str, list[ListedRule]] = {}
    for each in netlink.rules(table):
        rules.setdefault(each.chain, []).append(each)
    return OtherTable(
        table,
        {each.name: each for each in netlink.chains(table)},
        {name: tuple(found) for name, found in rules.items()},
        {each.name: (each, tuple(netlink.elements(table, each.name))) for each in netlink.sets(table)},
    )
