"""What others have in nf_tables: their tables with everything in them, those of Debian's plain iptables among them."""

from collections.abc import Callable, Mapping
from itertools import chain

from msgspec import Struct

from nova_netagent.backend.nft.netlink import ListedChain, ListedRule, ListedSet, Netlink
from nova_netagent.backend.nft.objects import Element, Family, TableId
from nova_netagent.netfilter.hooks import HOOKS

_FAMILIES = (Family.IP, Family.IP6, Family.INET, Family.BRIDGE, Family.NETDEV)
_SEEN_BY = {4: (Family.INET, Family.IP), 6: (Family.INET, Family.IP6)}
_OF_LINKS = {(Family.INET, 5): "ingress", (Family.NETDEV, 0): "ingress", (Family.NETDEV, 1): "egress"}
"""The hooks of single links (linux/netfilter.h: ``NF_INET_INGRESS``, ``enum nf_dev_hooks``)."""
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
        """The chains that packets enter by at a hook, if they do anything.

        :param hook: of packets, as iptables has it: ``FORWARD``; of frames, as nft(8) has it: ``forward``, ``ingress``.
        """
        return [
            each
            for each in self.chains.values()
            if self._hook(each) == hook and (self.rules.get(each.name) or each.policy == _DROP)
        ]

    def _hook(self, chain: ListedChain) -> str | None:
        if chain.hook is None:
            return None
        found = _OF_LINKS.get((self.id.family, chain.hook))
        if found is not None or self.id.family == Family.NETDEV or chain.hook >= len(HOOKS):
            return found
        name = HOOKS[chain.hook]
        return name.lower() if self.id.family == Family.BRIDGE else name


def other_tables(is_ours: Callable[[TableId, str], bool]) -> list[OtherTable]:
    """The tables of the namespace that judge packets by others' rules.

    :param is_ours: tells of a chain or set by its table and name that it is left out.
    :raises Unavailable: the kernel does not list them.
    """
    netlink = Netlink()
    try:
        hooked = dict.fromkeys(table for table, base in netlink.hooked(_FAMILIES) if not is_ours(table, base.name))
        return [_read(netlink, table, is_ours) for table in hooked]
    finally:
        netlink.close()


def _read(netlink: Netlink, table: TableId, is_ours: Callable[[TableId, str], bool]) -> OtherTable:
    listed = netlink.chains(table)
    chains = {each.name: each for each in listed if not is_ours(table, each.name)}
    asked = [None] if len(chains) == len(listed) else list(chains)  # ours may be thousands
    rules: dict[str, list[ListedRule]] = {}
    for each in chain.from_iterable(netlink.rules(table, name) for name in asked):
        rules.setdefault(each.chain, []).append(each)
    sets = [each for each in netlink.sets(table) if not is_ours(table, each.name)]
    return OtherTable(
        table,
        chains,
        {name: tuple(found) for name, found in rules.items()},
        {each.name: (each, tuple(netlink.elements(table, each.name))) for each in sets},
    )
