"""The transaction with which a ruleset comes to be where nothing is: without a kernel."""

from functools import partial
from typing import NoReturn

from nova_netagent.backend.nft import Batch
from nova_netagent.backend.nft.objects import TableId as NftTable
from nova_netagent.backend.nftables import sets, telling
from nova_netagent.backend.nftables.chains import Chains
from nova_netagent.backend.nftables.encoder import Encoder
from nova_netagent.backend.nftables.image import Image, Keys
from nova_netagent.backend.nftables.mirror import NFT_FAMILIES
from nova_netagent.backend.nftables.names import Names
from nova_netagent.backend.nftables.transaction import Held, Transaction
from nova_netagent.netfilter.owner import Owner
from nova_netagent.netfilter.rule import Family, Ruleset
from nova_netagent.plan.sets import plan_sets
from nova_netagent.plan.tables import in_order, plan_table


def first_transaction(ruleset: Ruleset, wrap_name: str) -> Batch:
    """All of a ruleset, laid out and planned as on a host that holds nothing of it.

    :raises RuleRefused: a rule that cannot be said.
    """
    names, owner = Names(wrap_name), Owner(wrap_name)
    encoder = Encoder(names)
    chains = Chains(names, encoder)
    images = {family: Image(NftTable(nft, wrap_name)) for family, nft in NFT_FAMILIES.items()}
    opened = Transaction(Held(images), _nothing_there)
    sets.prepare(plan_sets(ruleset.sets, {}, owner.owns_set), opened)
    for table in in_order(ruleset.tables.values()):
        plan = plan_table(
            encoder.encode(table),
            chains.of(table.id, opened.held),
            owns=owner.owns_chain,
            jumps_to=partial(telling.jumps_to, names=names),
            placement=None,
        )
        chains.edit(plan, opened)
    return opened.batch(destroy=True)


def _nothing_there(family: Family, chain: str, rules: Keys) -> NoReturn:
    raise AssertionError(f"IPv{family} {chain}: there is nothing to ask about")
