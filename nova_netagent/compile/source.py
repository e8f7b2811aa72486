"""As whom a vif may send: raw PREROUTING, before connection tracking sees the packet.

Who sends from an address of its own is found by that address, in W-senders, and proved by its
port and its MAC. What no address proves is judged by its port, in W-ports: it may ask for an
address, as its MAC. All ways are gotos: RETURN at the end of one leaves the whole tree and lets
the packet on.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

from nova_netagent.compile.discovery import CLIENT_PORT, DHCP_CLIENT, SENT, SENT_UNSPECIFIED
from nova_netagent.compile.dispatch import AddressEntry
from nova_netagent.compile.parts import Reasoned, Scope, network
from nova_netagent.compile.resolve import Port
from nova_netagent.model import values
from nova_netagent.model.protocols import ICMPV6, UDP
from nova_netagent.model.values import Prefix
from nova_netagent.netfilter.rule import (
    DROP,
    RETURN,
    Family,
    Icmp,
    Jump,
    MacSource,
    Origin,
    Physdev,
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


def proofs(port: Port, family: Family, bridge: str | None, scope: Scope) -> Iterator[AddressEntry]:
    """For each address that a vif may send from: by its port, with the MAC of that address."""
    own = _prefixes(port, family)
    itself = _to(scope.chain("no-server"))
    for prefix, mac in own:
        if prefix.is_host:
            yield _proof(itself, prefix, values.prefix_text(prefix), mac, port, bridge, "no server")
    if family == 6:
        mac = port.vif.address
        link_local = values.link_local_prefix(mac)
        text = values.host(values.address_text(6, link_local.value))
        if not own:
            # A vif without IPv6 still answers for the link-local address of its MAC, and says nothing else.
            yield _proof(_to(scope.chain("discovery")), link_local, text, mac, port, bridge, "own address")
        elif (link_local, mac) not in own:
            yield _proof(itself, link_local, text, mac, port, bridge, "no server")


def _proof(
    target: Jump, prefix: Prefix, text: str, mac: str, port: Port, bridge: str | None, part: str
) -> AddressEntry:
    rule = Rule(
        target,
        source=text,
        in_interface=bridge,
        matches=(Physdev(incoming=port.vif.device), MacSource(mac)),
        origin=("instances", port.instance_id, part),
    )
    return AddressEntry(prefix, rule)


def by_port(port: Port, bridge: str | None, chain: str | None, scope: Scope) -> tuple[Rule, ...]:
    """By its port and MAC, what no address proved.

    Where ports are ours, another MAC meets the last rule of the tree, as a port that is nobody's does.

    :param chain: the vif's own, if it ``has_chain``.
    """
    origin: Origin = ("instances", port.instance_id, "own address")
    match = Physdev(incoming=port.vif.device)
    if chain is not None:
        return (Rule(_to(chain), in_interface=bridge, matches=(match,), origin=origin),)
    nobody = _to(scope.chain("unspecified"))
    asks = Rule(nobody, in_interface=bridge, matches=(match, MacSource(port.vif.address)), origin=origin)
    if scope.settings.network.manage_links:
        return (asks,)
    return asks, Rule(DROP, in_interface=bridge, matches=(match,), origin=origin)


UNPROVED_PART = "unknown port or MAC"
UNPROVED = Rule(DROP, origin=("networks", "", UNPROVED_PART))
"""Ends every node of the tree of senders' ports, where ports are ours."""


def has_chain(port: Port) -> bool:
    """Whether an allowed pair of a vif is a prefix, whose addresses may be others' too: then it has W-src-ID."""
    return bool(port.vif.pairs) and not all(values.prefix(pair.ip_address).is_host for pair in port.vif.pairs)


def rules(port: Port, family: Family, scope: Scope) -> Iterator[Reasoned]:
    """W-src-ID: the prefixes that a vif may send from; otherwise as without such a chain."""
    mac = port.vif.address
    pairs = [(values.prefix_text(prefix), mac) for prefix, mac in _prefixes(port, family) if not prefix.is_host]
    itself = _to(scope.chain("no-server"))
    for prefix, pair_mac in pairs:
        if pair_mac != mac:
            yield Rule(itself, source=network(prefix), matches=(MacSource(pair_mac),)), "no server"
    yield Rule(DROP, matches=(MacSource(mac, inverted=True),)), "own address"
    for prefix, pair_mac in pairs:
        if pair_mac == mac:
            yield Rule(itself, source=network(prefix)), "no server"
    yield everything_to(scope.chain("unspecified")), "own address"


def _prefixes(port: Port, family: Family) -> list[tuple[Prefix, str]]:
    own = [(values.prefix(address), port.vif.address) for address in port.addresses]
    own += [(values.prefix(pair.ip_address), pair.mac_address or port.vif.address) for pair in port.vif.pairs]
    return [each for each in dict.fromkeys(own) if each[0].family == family]


@lru_cache(64)
def _to(chain: str) -> Jump:
    return Jump(chain, goto=True)


@lru_cache(64)
def everything_to(chain: str) -> Rule:
    """The rule that sends everything on to a chain: one object for all chains that end with it."""
    return Rule(_to(chain))


def own_sources(port: Port) -> Sequence[tuple[str, str]]:
    """The prefixes that a vif may send from, each with the MAC that it must use; IPv4's first."""
    own = [(values.host(address), port.vif.address) for address in port.addresses]
    own += [(pair.ip_address, pair.mac_address or port.vif.address) for pair in port.vif.pairs]
    return sorted(dict.fromkeys(own), key=lambda each: ":" in each[0])
