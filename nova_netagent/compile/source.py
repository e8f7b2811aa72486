"""As whom a vif may send: raw PREROUTING, before connection tracking sees the packet.

W-src-ID is entered by bridge port. RETURN leaves the whole tree and lets the packet on.
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
    """What is the same for every vif: no servers, and what a host says without an address."""
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
        yield Rule(RETURN, destination="255.255.255.255/32", protocol=UDP, matches=(DHCP_CLIENT[4],))
        return
    for type_ in SENT_UNSPECIFIED:
        yield Rule(RETURN, destination="ff02::/16", protocol=ICMPV6, matches=(Icmp(type_),))


def rules(port: Port, family: Family, scope: Scope) -> Iterator[Reasoned]:
    """W-src-ID: an instance can send only as itself, and never as a DHCP server or a router."""
    mac = port.vif.address
    yield scope.jump("no-server"), "no server"
    own = own_sources(port, family)
    for prefix, pair_mac in own:
        if pair_mac != mac:
            yield Rule(RETURN, source=network(prefix), matches=(MacSource(pair_mac),)), "own address"
    yield Rule(DROP, matches=(MacSource(mac, inverted=True),)), "own address"
    yield _nobody(family, scope.chain("unspecified")), "own address"
    if family == 6:
        yield _link_local(port, bool(own), scope), "own address"
    for prefix, pair_mac in own:
        if pair_mac == mac:
            yield Rule(RETURN, source=network(prefix)), "own address"
    yield _OTHERWISE, "own address"


_OTHERWISE = Rule(DROP)


@lru_cache(64)
def _nobody(family: Family, chain: str) -> Rule:
    return Rule(Jump(chain, goto=True), source="0.0.0.0/32" if family == 4 else "::/128")


def _link_local(port: Port, has_ipv6: bool, scope: Scope) -> Rule:
    """A vif without IPv6 still answers for the link-local address of its MAC, and says nothing else."""
    source = values.host(values.link_local(port.vif.address))
    return Rule(RETURN if has_ipv6 else Jump(scope.chain("discovery"), goto=True), source=source)


def own_sources(port: Port, family: Family) -> Sequence[tuple[str, str]]:
    """The prefixes that a vif may send from, each with the MAC that it must use."""
    own = [(values.host(address), port.vif.address) for address in port.addresses]
    pairs = [(pair.ip_address, pair.mac_address or port.vif.address) for pair in port.vif.pairs]
    return [each for each in dict.fromkeys((*own, *pairs)) if (":" in each[0]) == (family == 6)]
