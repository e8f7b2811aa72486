"""A TCP connection that was cut is not picked up again mid-stream, from neither end.

Connection tracking takes a segment of a flow that it does not know for the first of a new one
(nf_conntrack_tcp_loose; that is how an instance that was migrated in keeps its connections), and
a rule for the other direction may let it pass. The ends of what was cut are in a set for that;
a segment that opens a connection is judged by the rules.
"""

from collections.abc import Iterator

from nova_netagent.compile.parts import Placed, Scope
from nova_netagent.model.protocols import TCP
from nova_netagent.netfilter.owner import Owner
from nova_netagent.netfilter.rule import DROP, Conntrack, Family, InSet, IpSet, Jump, Rule, TcpSyn

_MID_STREAM = (TcpSyn(inverted=True), Conntrack(frozenset({"NEW"})))


def set_name(family: Family, owner: Owner) -> str:
    """The set of the ends of flows that were cut: the client, its port, and the server."""
    return owner.set(f"cut{family}")


def place(scope: Scope, placed: Placed) -> Iterator[IpSet]:
    """W-cut, entered first of all in mangle: by what comes, and by what the host itself sends."""
    origin = ("connections", "", "cut")
    for family in scope.families:
        name = set_name(family, scope.owner)
        chain = scope.chain("cut")
        enter = Rule(Jump(chain), protocol=TCP, matches=_MID_STREAM, origin=origin)
        placed.add(family, "mangle", scope.chain("PREROUTING"), enter)
        placed.add(family, "mangle", scope.chain("POSTROUTING"), enter)
        by_client = Rule(DROP, matches=(InSet(name, "src,src,dst"),), origin=origin)
        by_server = Rule(DROP, matches=(InSet(name, "dst,dst,src"),), origin=origin)
        placed.add(family, "mangle", chain, by_client, by_server)
        yield IpSet(name, family, frozenset(), origin, type="hash:ip,port,ip")
