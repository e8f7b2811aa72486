"""What this kernel's nf_tables can do: tried without keeping anything."""

import logging

from nova_netagent.backend import RuleRefused
from nova_netagent.backend.nft import Batch, Netlink
from nova_netagent.backend.nft.objects import Chain
from nova_netagent.backend.nft.objects import TableId as NftTable
from nova_netagent.backend.nftables import keys
from nova_netagent.backend.nftables.names import BASE_CHAINS
from nova_netagent.netfilter.rule import DROP, Conntrack, Family, Physdev, Rule, TableId
from nova_netagent.netfilter.text import BUILTIN_CHAINS

LOG = logging.getLogger(__name__)


def takes(kernel: Netlink, table: TableId, ours: NftTable) -> bool:
    """Whether the kernel takes a table's base chains, and what our rules there ask.

    :param ours: our table of this family.
    :raises Unavailable: the kernel cannot be asked.
    """
    batch = Batch()
    trial = NftTable(ours.family, f"{ours.name}.trial")
    batch.add_table(trial)
    for chain in BUILTIN_CHAINS[table.name]:
        batch.add_chain(trial, BASE_CHAINS[f"{table.name}-{chain}"])
    if table.name != "nat":
        batch.add_chain(trial, Chain("trial"))
        batch.add_encoded_rule(trial, "trial", _rule(table.family), what=lambda: "a rule about a bridge port")
    try:
        kernel.check(batch)
    except RuleRefused as error:
        LOG.info("this kernel cannot have %s in nf_tables: %s", table, error)
        return False
    return True


def _rule(family: Family) -> bytes:
    """A rule that asks what only some kernels can answer."""
    asked = (Physdev(incoming="trial"), Conntrack(frozenset({"NEW"})))
    return keys.key(Rule(DROP, matches=asked), family, str)
