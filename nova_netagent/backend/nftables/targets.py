"""What a rule does with a packet, as expressions."""

import ipaddress
import sys
from functools import lru_cache

from nova_netagent.backend import RuleRefused
from nova_netagent.backend.nft import expressions
from nova_netagent.backend.nft.expressions import Ct, Expression, Meta, Nat, Verdict
from nova_netagent.backend.nftables.matches import SOCKET_FAMILY
from nova_netagent.netfilter.rule import (
    ChecksumFill,
    Dnat,
    Family,
    Jump,
    Log,
    Opaque,
    Redirect,
    Reject,
    SetMark,
    Snat,
    Target,
    Zone,
)
from nova_netagent.netfilter.rule import Verdict as VerdictTarget

_PORT_UNREACHABLE: dict[Family, int] = {4: 3, 6: 4}
_ALL = 0xFFFFFFFF


@lru_cache(1 << 14)
def jump(chain: str, goto: bool) -> bytes:
    """To a chain, by its name in nf_tables."""
    return expressions.encoded_jump(Verdict.GOTO if goto else Verdict.JUMP, chain)


@lru_cache(1 << 14)
def target(each: Target, family: Family) -> bytes:
    """Any target but a jump.

    :raises RuleRefused: it cannot be said.
    """
    return expressions.encode(_target(each, family))


def _target(each: Target, family: Family) -> tuple[Expression, ...]:
    match each:
        case VerdictTarget(name):
            return (expressions.verdict(Verdict[name]),)
        case Dnat(address, port):
            return _translation(Nat.DESTINATION, address, port, family)
        case Snat(address):
            return _translation(Nat.SOURCE, address, None, family)
        case Redirect(port):
            return expressions.load(port.to_bytes(2, "big")), expressions.redirect()
        case SetMark(value, mask):
            kept = expressions.mask(_native(~mask & _ALL), flip=_native(value))
            return expressions.meta(Meta.MARK), kept, expressions.set_meta(Meta.MARK)
        case Zone(number):
            return expressions.load(number.to_bytes(2, sys.byteorder)), expressions.set_ct(Ct.ZONE)
        case Log(group, prefix):
            return (expressions.log(group, prefix),)
        case ChecksumFill():
            # iptables' CHECKSUM is refused outside of a table called mangle, which is not ours, and
            # nf_tables cannot tell a checksum that the card shall fill in from a right one: it is only counted.
            return ()
        case Reject():
            return (expressions.reject(_PORT_UNREACHABLE[family]),)
        case Jump() | Opaque():
            raise RuleRefused(f"the target {each} is not ours")


def _translation(kind: Nat, address: str, port: int | None, family: Family) -> tuple[Expression, ...]:
    packed = ipaddress.ip_address(address).packed
    loads = (expressions.load(packed),)
    register = len(packed) // 4
    if port is None:
        return (*loads, expressions.translate(kind, SOCKET_FAMILY[family]))
    port_load = expressions.load(port.to_bytes(2, "big"), register)
    return (*loads, port_load, expressions.translate(kind, SOCKET_FAMILY[family], port=register))


def _native(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)
