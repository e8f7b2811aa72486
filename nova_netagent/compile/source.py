"""As whom a vif may send: raw PREROUTING, before connection tracking sees the packet.

W-src-ID is entered by bridge port, by goto, and left by goto for what is the same for every
vif: RETURN there leaves the whole tree and lets the packet on.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

from nova_netagent.compile.discovery import CLIENT_PORT, DHCP_CLIENT, SENT, SENT_UNSPECIFIED
from nova_netagent.compile.parts import Reasoned, Scope, network
from nova_netagent.compile.resolve import Port
from nova_netagent.model import values
from nova_netagent.model.protocols import ICMPV6, UDP
from nova_netagent.netfilter.rule import (
    DROP,
    RETURN,
    Family,
    Icmp,
    Jump,
    MacSource,
    Ports,
    Rule,
)

ROUTER_MESSAGES = (134, 137)
"""Router advertisement and redirect: only a router sends them (RFC 4861)."""


def shared_chains(family: Family, scope: Scope) -> Iterator[tuple[str, tuple[Rule, ...]]]:
    """What is the same for every vif: who sends as itself is no server; who has no address yet asks for one."""
    yield "no-server", tuple(_no_server(family))
    yield "unspecified", (*_unspecified(family), Rule(DROP))
    if family == 6:
        yield "discovery", (*_discovery(), Rule(DROP))


def _discovery() -> Iterator[Rule]:
    """What a vif without IPv6 may say all the same: neighbour discovery, and asking for an address."""
    for type_ in SENT:
        yield Rule(RETURN, protocol=ICMPV6, matches=(Icmp(type_),))
    yield Rule(RETURN, protocol=UDP, matches=(DHCP_CLIENT[6],))


def _no_server(family: Family) -> Iterator[Rule]:
    # By destination port only: clients take an offer from any source port.
    yield Rule(DROP, protocol=UDP, matches=(Ports("udp", destination=CLIENT_PORT[family]),))
    if family == 6:
        for type_ in ROUTER_MESSAGES:
            yield Rule(DROP, protocol=ICMPV6, matches=(Icmp(type_),))


def _unspecified(family: Family) -> Iterator[Rule]:
    if family == 4:
        nobody, everybody = "0.0.0.0/32", "255.255.255.255/32"
        yield Rule(RETURN, source=nobody, destination=everybody, protocol=UDP, matches=(DHCP_CLIENT[4],))
        return
    for type_ in SENT_UNSPECIFIED:
        yield Rule(RETURN, source="::/128", destination="ff02::/16", protocol=ICMPV6, matches=(Icmp(type_),))


def rules(port: Port, family: Family, scope: Scope) -> Iterator[Reasoned]:
    """W-src-ID: an instance can send only as itself, and never as a DHCP server or a router."""
    mac = port.vif.address
    own = own_sources(port, family)
    itself = _to(scope.chain("no-server"))
    for prefix, pair_mac in own:
        if pair_mac != mac:
            yield Rule(itself, source=network(prefix), matches=(MacSource(pair_mac),)), "no server"
    yield Rule(DROP, matches=(MacSource(mac, inverted=True),)), "own address"
    if family == 6:
        # A vif without IPv6 still answers for the link-local address of its MAC, and says nothing else.
        link_local = values.host(values.link_local(mac))
        if own:
            yield Rule(itself, source=link_local), "no server"
        else:
            yield Rule(_to(scope.chain("discovery")), source=link_local), "own address"
    for prefix, pair_mac in own:
        if pair_mac == mac:
            yield Rule(itself, source=network(prefix)), "no server"
    yield _otherwise(scope.chain("unspecified")), "own address"


@lru_cache(64)
def _to(chain: str) -> Jump:
    return Jump(chain, goto=True)


@lru_cache(64)
def _otherwise(chain: str) -> Rule:
    return Rule(_to(chain))


def own_sources(port: Port, family: Family) -> Sequence[tuple[str, str]]:
    """The prefixes that a vif may send from, each with the MAC that it must use."""
    own = [(values.host(address), port.vif.address) for address in port.addresses]
    pairs = [(pair.ip_address, pair.mac_address or port.vif.address) for pair in port.vif.pairs]
    return [each for each in dict.fromkeys((*own, *pairs)) if (":" in each[0]) == (family == 6)]
