"""What this kernel's nf_tables can do: tried without keeping anything."""

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import attrgetter

from nova_netagent.backend import RuleRefused
from nova_netagent.backend.nft import Batch, Netlink
from nova_netagent.backend.nft.objects import Chain
from nova_netagent.backend.nft.objects import TableId as NftTable
from nova_netagent.backend.nftables import keys
from nova_netagent.backend.nftables.names import BASE_CHAINS
from nova_netagent.netfilter.rule import DROP, Conntrack, Family, Physdev, Rule, TableId
from nova_netagent.netfilter.text import BUILTIN_CHAINS

LOG = logging.getLogger(__name__)


def able(kernel: Netlink, tables: Sequence[TableId], ours: Callable[[Family], NftTable]) -> set[TableId]:
    """The tables whose base chains the kernel takes, with what our rules there ask.

    All of them are tried at once, as to undo a trial takes the kernel 10 ms; each alone where that is refused.

    :param ours: our table of a family.
    :raises Unavailable: the kernel cannot be asked.
    """
    try:
        kernel.check(_trial(tables, ours))
    except RuleRefused as error:
        if len(tables) > 1:
            return set[TableId]().union(*(able(kernel, (table,), ours) for table in tables))
        LOG.info("this kernel cannot have %s in nf_tables: %s", *tables, error)
        return set()
    return set(tables)


def _trial(tables: Iterable[TableId], ours: Callable[[Family], NftTable]) -> Batch:
    batch = Batch()
    for family, some in groupby(sorted(tables), attrgetter("family")):
        trial = NftTable(ours(family).family, f"{ours(family).name}.trial")
        names = [table.name for table in some]
        batch.add_table(trial)
        for name in names:
            for chain in BUILTIN_CHAINS[name]:
                batch.add_chain(trial, BASE_CHAINS[f"{name}-{chain}"])
        if names != ["nat"]:
            batch.add_chain(trial, Chain("trial"))
            batch.add_encoded_rule(trial, "trial", _rule(family), what=lambda: "a rule about a bridge port")
    return batch


def _rule(family: Family) -> bytes:
    """A rule that asks what only some kernels can answer."""
    asked = (Physdev(incoming="trial"), Conntrack(frozenset({"NEW"})))
    return keys.key(Rule(DROP, matches=asked), family, str)
