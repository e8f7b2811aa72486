"""What a key says, as a value and in words."""

from nova_netagent.backend.nftables import keys
from nova_netagent.backend.nftables.laid import STRAY
from nova_netagent.backend.nftables.names import Names
from nova_netagent.netfilter.rule import Family, Jump, Opaque, Rule


def described(key: bytes, family: Family) -> str:
    """A rule as iptables-save writes it, if it is ours."""
    return key.decode() if key == STRAY else keys.described(key, family)


def parsed(key: bytes, names: Names) -> Rule:
    """A rule as a value; of one that is not ours only where it leads is known, not what it asks for."""
    if isinstance(key, keys.Key):
        return key.rule
    if key == STRAY:
        return Rule(Opaque("", 0, b""), matches=(Opaque("strays", 0, b""),))
    chain = jumps_to(key, names)
    target = keys.verdict(key) if chain is None else Jump(chain)
    return Rule(target or Opaque("", 0, b""), matches=(Opaque("nft", 0, key),))


def jumps_to(key: bytes, names: Names) -> str | None:
    """The chain that a rule jumps or goes to."""
    if isinstance(key, keys.Key):
        target = key.rule.target
        return target.chain if isinstance(target, Jump) else None
    found = None if key == STRAY else keys.jumps_to(key)
    return None if found is None else names.logical(found)[1]
