"""Who else judges packets: base chains of nf_tables that are not ours, those of Debian's plain iptables among them."""

from msgspec import Struct

from nova_netagent.backend.nft.netlink import Netlink
from nova_netagent.backend.nft.objects import Family, TableId

HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_SEEN_BY = {4: ("inet", "ip", "iptables-legacy"), 6: ("inet", "ip6", "ip6tables-legacy")}
_FAMILIES = (Family.IP, Family.IP6, Family.INET)


class OtherChain(Struct, frozen=True):
    """A base chain of somebody else's."""

    family: str
    """``ip``, ``ip6`` or ``inet``, as nft(8) writes it, or the command that shows a legacy table."""
    table: str
    name: str
    hook: str
    drops: bool
    """Its policy drops what no rule of it accepts."""
    rules: int

    @property
    def text(self) -> str:
        """Where it is to be found."""
        return f"{self.family} {self.table} {self.name}"

    def sees(self, family: int) -> bool:
        """Whether packets of an address family meet it."""
        return self.family in _SEEN_BY[family]


def other_chains(own_table: str) -> list[OtherChain]:
    """The base chains of the namespace that are in no table of that name, if they do anything.

    :raises Unavailable: the kernel does not list them.
    """
    netlink = Netlink()
    try:
        found = []
        for family in _FAMILIES:
            for table, chain in netlink.hooked(family):
                if table == own_table or chain.hook is None or chain.hook >= len(HOOKS):
                    continue
                rules = len(netlink.rules(TableId(family, table), chain.name))
                drops = chain.policy == 0
                if rules or drops:
                    name = family.name.lower()
                    found.append(OtherChain(name, table, chain.name, HOOKS[chain.hook], drops, rules))
        return found
    finally:
        netlink.close()
