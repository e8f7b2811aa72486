"""The other programs: what they do in our tables of nf_tables, through netlink."""

from collections.abc import Sequence
from contextlib import suppress

from nova_netagent.backend import BackendError
from nova_netagent.backend.nft import Batch, Netlink
from nova_netagent.backend.nft.objects import Chain, Family, TableId
from nova_netagent.backend.nftables import NftablesBackend, keys
from nova_netagent.backend.nftables.names import BASE_CHAINS, Names
from nova_netagent.netfilter import rule as model
from nova_netagent.netfilter.rule import Rule

FAMILIES: dict[model.Family, Family] = {4: Family.IP, 6: Family.IP6}
OURS = "ours"
NAMES = Names(OURS)


def new_backend() -> NftablesBackend:
    """A backend that knows nothing yet."""
    return NftablesBackend(OURS, lambda name: name.startswith("ours-"))


def table(family: model.Family) -> TableId:
    """Our table of a family."""
    return TableId(FAMILIES[family], OURS)


def empty(netlink: Netlink) -> None:
    """Have none of our tables."""
    for family in FAMILIES.values():
        batch = Batch()
        batch.delete_table(TableId(family, OURS))
        with suppress(BackendError):
            netlink.commit(batch)


def put(netlink: Netlink, id_: model.TableId, chain: str, rules: Sequence[Rule]) -> None:
    """Make a chain of our table hold these rules."""
    where, name = table(id_.family), NAMES.physical(id_.name, chain)
    batch = Batch()
    batch.add_table(where)
    if name in {each.name for each in netlink.chains(where)}:
        batch.flush_rules(where, name)
    else:
        batch.add_chain(where, BASE_CHAINS.get(name) or Chain(name))
    for rule in rules:
        key = keys.key(rule, id_.family, lambda target: NAMES.physical(id_.name, target))
        batch.add_encoded_rule(where, name, key, what=lambda: "a foreign rule")
    netlink.commit(batch)


def rules(netlink: Netlink, id_: model.TableId, chain: str) -> list[bytes] | None:
    """The rules of a chain of our table, ``None`` when there is no such chain."""
    where, name = table(id_.family), NAMES.physical(id_.name, chain)
    if name not in {each.name for each in netlink.chains(where)}:
        return None
    return [keys.uncounted(each.expressions) for each in netlink.rules(where, name)]
