"""Who else judges packets in the legacy tables, where our own rules are in nf_tables."""

from nova_netagent.backend.iptables.backend import IptablesBackend
from nova_netagent.backend.nft.others import OtherChain

_COMMANDS = {4: "iptables-legacy", 6: "ip6tables-legacy"}


def legacy_chains() -> list[OtherChain]:
    """The built-in chains of the namespace's legacy tables that do anything. Loads no table.

    :raises Unavailable: the kernel does not give a table.
    """
    legacy = IptablesBackend(lock_timeout=0.0, owns_set=lambda name: False)
    try:
        return [
            OtherChain(_COMMANDS[table.family], table.name, chain, chain, policy == "DROP", len(rules))
            for table in legacy.loaded_tables()
            for chain, (policy, rules) in legacy.counters(table).items()
            if policy is not None and (rules or policy == "DROP")
        ]
    finally:
        legacy.close()
