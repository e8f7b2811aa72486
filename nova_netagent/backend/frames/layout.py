"""The table that holds ``Frames``: its chains never change, its sets say whom they are about.

::

    prerouting ── @ports ──▶ from-port ── @secured ──▶ from-vif ──▶ from-vif-arp, -rarp, -ipv6, -nd
    postrouting ─ @ports ──▶ to-port ──── @secured ──▶ to-vif
    input: frames for the bridge itself that no bridge forwards, seen by no other hook
    forward ──▶ dhcp: DHCP across the uplink of a shared address

A port that nothing is said about costs its frames one look into ``ports``.

Hooked in at -350, before ebtables and before br_netfilter (0), which hands IP packets to
iptables: who is refused here is not tracked, and the bridge learns no MAC from him.
"""

import socket
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace

from nova_netagent.backend.nft import objects
from nova_netagent.backend.nft.expressions import Base, Meta, Verdict
from nova_netagent.backend.nft.objects import (
    ETHER_ADDRESS,
    ETHER_DESTINATION,
    ETHER_SOURCE,
    ETHER_TYPE,
    ETHERNET_TYPE,
    IIFNAME,
    INTERFACE_NAME,
    IPV4_ADDRESS,
    IPV6_ADDRESS,
    OIFNAME,
    BaseHook,
    Chain,
    Element,
    Set,
    interface_name,
    key,
    raw,
)
from nova_netagent.backend.nft.statements import (
    COUNTED,
    Field,
    Rule,
    Statement,
    between,
    equals,
    goes,
    masked,
    rule,
    set_from_map,
    set_known,
    unsaid,
    within,
)
from nova_netagent.model import values
from nova_netagent.model.lineage import follow
from nova_netagent.netfilter.frames import Box, Closed, Frames, Secured, boxes, without_contained
from nova_netagent.netfilter.rule import Family, Origin

Elements = Mapping[str, Mapping[bytes, Element]]
"""By set, the elements by key."""

COMMENT = "what may pass our bridges; IP packets meet the rules of ip and ip6 besides"

_PRIORITY = -350
_PREROUTING, _INPUT, _FORWARD, _POSTROUTING = 0, 1, 2, 4

CHAINS = {
    chain.name: chain
    for chain in (
        Chain("prerouting", BaseHook(_PREROUTING, _PRIORITY)),
        Chain("input", BaseHook(_INPUT, _PRIORITY)),
        Chain("forward", BaseHook(_FORWARD, _PRIORITY)),
        Chain("postrouting", BaseHook(_POSTROUTING, _PRIORITY)),
        Chain("from-port"),
        Chain("from-vif"),
        Chain("from-vif-arp"),
        Chain("from-vif-rarp"),
        Chain("from-vif-ipv6"),
        Chain("from-vif-nd"),
        Chain("to-port"),
        Chain("to-vif"),
        Chain("dhcp"),
    )
}

_ETHERTYPES: Mapping[Family, bytes] = {4: objects.ETHERNET_TYPES["ip"], 6: objects.ETHERNET_TYPES["ip6"]}
_NETWORK, _TRANSPORT = Base.NETWORK, Base.TRANSPORT
_ARP_SENDER_MAC = Field("arp saddr ether", 6, base=_NETWORK, offset=8)
_ARP_SENDER = Field("arp saddr ip", 4, base=_NETWORK, offset=14)
_ARP_TARGET = Field("arp daddr ip", 4, base=_NETWORK, offset=24)
_RARP_SENDER_MAC = Field("@nh,64,48", 6, base=_NETWORK, offset=8)
_RARP_SENDER = Field("@nh,112,32", 4, base=_NETWORK, offset=14)
_ND_TARGET = Field("@th,64,128", 16, base=_TRANSPORT, offset=8)
_SOURCE = Field("ip saddr", 4, base=_NETWORK, offset=12)
_DESTINATION = Field("ip daddr", 4, base=_NETWORK, offset=16)

SETS = {
    each.name: each
    for each in (
        Set("ports", (INTERFACE_NAME,), comment="every port that anything is said about"),
        Set("secured", (INTERFACE_NAME,), comment="vifs with port security"),
        Set("closed", (INTERFACE_NAME,), comment="ports of our bridges that are nobody's"),
        Set("macs", (INTERFACE_NAME, ETHER_ADDRESS), comment="from which a vif may send"),
        Set("arp-hosts", (INTERFACE_NAME, ETHER_ADDRESS, IPV4_ADDRESS), comment="as whom a vif may speak ARP"),
        Set(
            "arp-prefixes",
            (INTERFACE_NAME, ETHER_ADDRESS, IPV4_ADDRESS),
            interval=True,
            comment="as whom besides, by its allowed pairs",
        ),
        Set(
            "rarp-hosts",
            (raw(IIFNAME, INTERFACE_NAME), raw(_RARP_SENDER_MAC, ETHER_ADDRESS)),
            comment="as whom QEMU announces a vif after a migration",
        ),
        Set(
            "nd-hosts",
            (raw(IIFNAME, INTERFACE_NAME), raw(_ND_TARGET, IPV6_ADDRESS)),
            comment="as whom a vif may send neighbour advertisements",
        ),
        Set(
            "nd-prefixes",
            (raw(IIFNAME, INTERFACE_NAME), raw(_ND_TARGET, IPV6_ADDRESS)),
            interval=True,
            comment="as whom besides, by its allowed pairs",
        ),
        Set("isolated", (INTERFACE_NAME, IPV4_ADDRESS), comment="addresses whose ARP stays on this side of an uplink"),
        Set("uplinks", (INTERFACE_NAME,), comment="uplinks that bridged DHCP does not cross"),
        Set("redirected", (IPV4_ADDRESS, IPV4_ADDRESS), interval=True, comment="what this host routes, from and to"),
        Set("hairpins", (raw(IIFNAME, INTERFACE_NAME), raw(OIFNAME, INTERFACE_NAME)), comment="from a port back to it"),
        Set("unjudged", (ETHERNET_TYPE,), comment="what meets no rules of IP on this host"),
        Set("gateways", (INTERFACE_NAME,), ETHER_ADDRESS, comment="the bridge's MAC, to which frames are redirected"),
    )
}


def _rules() -> Iterator[tuple[str, Rule]]:
    """Every rule with its chain, in order."""
    accept, back = goes(Verdict.ACCEPT), goes(Verdict.RETURN)
    drop = (COUNTED, goes(Verdict.DROP))
    ip, ipv6 = equals(ETHER_TYPE, _ETHERTYPES[4], "ip"), equals(ETHER_TYPE, _ETHERTYPES[6], "ip6")
    arp, rarp = equals(ETHER_TYPE, b"\x08\x06", "arp"), equals(ETHER_TYPE, b"\x80\x35", "0x8035")
    secured, closed = within("secured", IIFNAME), within("closed", IIFNAME)

    yield "prerouting", rule(within("ports", IIFNAME), goes(Verdict.GOTO, "from-port"))

    # 01:80:c2:00:00:00 to 0f: the bridge hands these to the host on the port itself and learns
    # their source, and asks this hook alone (of ...:0e, and with spanning tree ...:00, none: the
    # port's group_fwd_mask makes them frames like others). IP in them meets no physdev rule.
    mask = bytes.fromhex("fffffffffff0")
    reserved = masked(ETHER_DESTINATION, mask, bytes.fromhex("0180c2000000"), "ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00")
    yield "input", rule(reserved, secured, *drop, comment="an instance speaks to the bridge itself")
    yield "input", rule(reserved, closed, *drop, comment="nobody's port")

    # A guest that hears its own neighbour solicitation takes its address for somebody else's.
    group = bytes.fromhex("010000000000")
    to_group = masked(ETHER_DESTINATION, group, group, "01:00:00:00:00:00 == 01:00:00:00:00:00")
    yield "forward", rule(to_group, within("hairpins", IIFNAME, OIFNAME), *drop, comment="its own echo")

    # Forwarded only: the host itself may have its own address by DHCP from the uplink.
    udp = equals(Field("ip protocol", 1, base=_NETWORK, offset=9), b"\x11", "udp")
    dhcp = between(Field("udp dport", 2, base=_TRANSPORT, offset=2), b"\x00\x43", b"\x00\x44", "67-68")
    yield "forward", rule(unsaid(ip), udp, dhcp, goes(Verdict.GOTO, "dhcp"))
    for direction in (IIFNAME, OIFNAME):
        yield "dhcp", rule(within("uplinks", direction), *drop, comment="each host's own DHCP")

    yield "postrouting", rule(within("ports", OIFNAME), goes(Verdict.GOTO, "to-port"))

    yield "from-port", rule(secured, goes(Verdict.JUMP, "from-vif"))
    yield "from-port", rule(closed, *drop, comment="nobody's port")
    for address in (_ARP_TARGET, _ARP_SENDER):
        yield "from-port", rule(unsaid(arp), within("isolated", IIFNAME, address), *drop, comment="each host's own")
    yield "from-port", rule(*_redirect(ip))

    other = within("macs", IIFNAME, ETHER_SOURCE, inverted=True)
    yield "from-vif", rule(other, *drop, comment="another's MAC")
    yield "from-vif", rule(ip, back)
    yield "from-vif", rule(ipv6, goes(Verdict.GOTO, "from-vif-ipv6"))
    yield "from-vif", rule(arp, goes(Verdict.GOTO, "from-vif-arp"))
    yield "from-vif", rule(rarp, goes(Verdict.GOTO, "from-vif-rarp"))
    yield "from-vif", rule(*drop, comment="no ethertype of an instance's")

    # A message that ends too early ends the rules that look into it, and is dropped by the last.
    for set_name in ("arp-hosts", "arp-prefixes"):
        own = within(set_name, IIFNAME, _ARP_SENDER_MAC, _ARP_SENDER)
        yield "from-vif-arp", rule(unsaid(arp), *_arp_of_ipv4(), own, accept)
    probe = (equals(_ARP_SENDER, bytes(4), "0.0.0.0"), within("macs", IIFNAME, _ARP_SENDER_MAC))
    yield "from-vif-arp", rule(unsaid(arp), *_arp_request(), *probe, accept, comment="is it free? (RFC 5227)")
    yield "from-vif-arp", rule(*drop, comment="ARP in another's name")

    ask = equals(Field("", 8, base=_NETWORK), bytes.fromhex("0001080006040003"), "@nh,0,64 0x1080006040003")
    announced = (equals(_RARP_SENDER, bytes(4), "0x0"), within("rarp-hosts", IIFNAME, _RARP_SENDER_MAC))
    yield "from-vif-rarp", rule(ask, *announced, accept)
    yield "from-vif-rarp", rule(*drop, comment="RARP in another's name")

    yield "from-vif-ipv6", rule(within("unjudged", ETHER_TYPE), *drop, comment="no rules judge it")
    # Asked in two steps: a later fragment has no type, and must not be taken for an advertisement.
    icmpv6 = equals(Field("", 1, key=Meta.L4PROTO), b"\x3a", "")
    advertisement = equals(Field("icmpv6 type", 1, base=_TRANSPORT), b"\x88", "nd-neighbor-advert")
    yield "from-vif-ipv6", rule(unsaid(ipv6), unsaid(icmpv6), advertisement, goes(Verdict.GOTO, "from-vif-nd"))
    for set_name in ("nd-hosts", "nd-prefixes"):
        yield "from-vif-nd", rule(within(set_name, IIFNAME, _ND_TARGET), back)
    yield "from-vif-nd", rule(*drop, comment="advertised in another's name")

    yield "to-port", rule(within("secured", OIFNAME), goes(Verdict.GOTO, "to-vif"))
    yield "to-port", rule(within("closed", OIFNAME), *drop, comment="nobody's port")
    for address in (_ARP_TARGET, _ARP_SENDER):
        yield "to-port", rule(unsaid(arp), within("isolated", OIFNAME, address), *drop, comment="each host's own")

    # A tagged frame would not meet the IP rules: bridge-nf-filter-vlan-tagged is 0.
    yield "to-vif", rule(ip, accept)
    yield "to-vif", rule(within("unjudged", ETHER_TYPE), *drop, comment="no rules judge it")
    for ethertype in (ipv6, arp, rarp):
        yield "to-vif", rule(ethertype, accept)
    yield "to-vif", rule(*drop, comment="no ethertype for an instance")


def _arp_of_ipv4() -> tuple[Statement, ...]:
    """A request or a reply about IPv4 on Ethernet."""
    return (
        *_arp_header(),
        equals(Field("", 2, base=_NETWORK, offset=4), b"\x06\x04", "arp hlen 6 arp plen 4"),
        between(Field("arp operation", 2, base=_NETWORK, offset=6), b"\x00\x01", b"\x00\x02", "1-2"),
    )


def _arp_request() -> tuple[Statement, ...]:
    """A request, as nft(8) itself would load it."""
    rest = Field("", 4, base=_NETWORK, offset=4)
    return (*_arp_header(), equals(rest, b"\x06\x04\x00\x01", "arp hlen 6 arp plen 4 arp operation request"))


def _arp_header() -> tuple[Statement, ...]:
    return (equals(Field("", 4, base=_NETWORK), b"\x00\x01\x08\x00", "arp htype 1 arp ptype ip"),)


def _redirect(ip: Statement) -> Iterator[Statement]:
    """Frames for another machine become frames for the bridge; those for groups stay what they are."""
    yield unsaid(ip)
    yield equals(Field("meta pkttype", 1, key=Meta.PKTTYPE), b"\x03", "other")
    yield within("redirected", _SOURCE, _DESTINATION)
    yield set_from_map(ETHER_DESTINATION, "gateways", IIFNAME)
    yield set_known(Meta.PKTTYPE, b"\x00", "meta pkttype set host")
    yield COUNTED


RULES: Mapping[str, tuple[Rule, ...]] = {
    name: tuple(each for chain, each in _rules() if chain == name) for name in CHAINS
}


class Laid(Struct, frozen=True):
    """Frames, and the elements of every set that they ask for."""

    frames: Frames
    elements: Elements


def elements(frames: Frames) -> Elements:
    """The elements of every set."""
    return lay_out(frames).elements


def lay_out(frames: Frames, last: Laid | None = None) -> Laid:
    """The elements of every set; made from what was laid out last, where only vifs came, went or changed."""
    if last is not None and not frames.gateways and _but_vifs(frames) == _but_vifs(last.frames):
        gone = list(_of_vifs(last.frames, frames))
        come = list(_of_vifs(frames, last.frames))
        return Laid(frames, {name: _edited(name, known, gone, come) for name, known in last.elements.items()})
    found: dict[str, dict[bytes, Element]] = {name: {} for name in SETS}
    for set_name, element in _elements(frames):
        found[set_name].setdefault(element.key, element)
    return Laid(frames, found)


def passing(asked: Frames, held: Elements) -> Frames:
    """What the vifs of some frames may claim of it already where these elements are held, and who of them is closed.

    Also the families of which nobody may send or be sent anything.
    """
    secured = [
        replace(each, addresses=tuple(own for own in each.addresses if _may_claim(each, own, held)))
        for each in asked.secured
        if interface_name(each.device) in held["secured"]
    ]
    closed = [Closed(each.device) for each in asked.secured if interface_name(each.device) in held["closed"]]
    unjudged = (family for family, ethertype in _ETHERTYPES.items() if ethertype in held["unjudged"])
    return Frames(secured=tuple(secured), closed=tuple(closed), unjudged=tuple(unjudged))


def _may_claim(vif: Secured, own: tuple[str, str], held: Elements) -> bool:
    """Whether a vif may send as an address from a MAC: by a claim of it, or by a wider one, which says it for both."""
    device, (prefix, mac) = interface_name(vif.device), own
    if key((device, _mac(mac))) not in held["macs"]:
        return False
    wanted = values.prefix(prefix)
    wider = (each for each in vif.addresses if each == own or values.prefix(each[0]).contains(wanted))
    return any(_is_held(_claim(device, *each), held) for each in wider if each[1] == mac or wanted.family == 6)


def _is_held(claim: tuple[str, Element], held: Elements) -> bool:
    set_name, element = claim
    found = held[set_name].get(element.key)
    return found is not None and found.end == element.end


def _but_vifs(frames: Frames) -> Frames:
    """What the frames are about beside vifs."""
    return replace(frames, secured=(), hairpins=())


def _of_vifs(frames: Frames, others: Frames) -> Iterator[tuple[str, Element]]:
    """The elements of the vifs that other frames do not have."""
    # Of thousands of vifs all but one are the same objects: Python itself looks at that one only.
    own = dict(zip(map(id, frames.secured), frames.secured, strict=True))
    for number in own.keys() - map(id, others.secured):
        yield from _of_secured(own[number])
    for device in {*frames.hairpins}.difference(others.hairpins):
        yield "hairpins", _echo(device)


def _edited(
    name: str,
    known: Mapping[bytes, Element],
    gone: Iterable[tuple[str, Element]],
    come: Iterable[tuple[str, Element]],
) -> Mapping[bytes, Element]:
    put = {each.key: each for set_name, each in come if set_name == name}
    return follow(known, put, {each.key for set_name, each in gone if set_name == name and each.key not in put})


def _echo(device: str) -> Element:
    return Element(key((interface_name(device), interface_name(device))))


def _elements(frames: Frames) -> Iterator[tuple[str, Element]]:
    for vif in frames.secured:
        yield from _of_secured(vif)
    for port in frames.closed:
        yield from (("ports", _device(port.device, port.origin)), ("closed", _device(port.device)))
    for each in sorted(frames.isolated, key=lambda each: (each.uplink, each.address)):
        yield "ports", _device(each.uplink, each.origin)
        yield "uplinks", _device(each.uplink)
        yield "isolated", Element(key((interface_name(each.uplink), _ipv4(each.address))))
    for device in frames.hairpins:
        yield "hairpins", _echo(device)
    for gateway in frames.gateways:
        yield "ports", _device(gateway.device)
        yield "gateways", Element(interface_name(gateway.device), data=_mac(gateway.mac))
    for family in frames.unjudged:
        yield "unjudged", Element(_ETHERTYPES[family])
    for box in boxes(frames.redirected):
        yield "redirected", _of_box(box)


@lru_cache(16384)
def _of_secured(vif: Secured) -> tuple[tuple[str, Element], ...]:
    return tuple(_secured(vif))


def _secured(vif: Secured) -> Iterator[tuple[str, Element]]:
    device = interface_name(vif.device)
    yield "ports", _device(vif.device, vif.origin)
    yield "secured", Element(device)
    for mac in vif.macs:
        yield "macs", Element(key((device, _mac(mac))))
    yield "rarp-hosts", Element(key((device, _mac(vif.mac))))
    for mac in vif.macs:
        prefixes = [prefix for prefix, owner in vif.addresses if owner == mac]
        for prefix in without_contained(prefix for prefix in prefixes if ":" not in prefix):
            yield _claim(device, prefix, mac)
    for prefix in without_contained(prefix for prefix, _ in vif.addresses if ":" in prefix):
        yield _claim(device, prefix, vif.mac)


def _claim(device: bytes, prefix: str, mac: str) -> tuple[str, Element]:
    """As whom a vif may speak; neighbour advertisements are asked for no MAC."""
    known = values.prefix(prefix)
    kind, who = ("nd", (device,)) if known.family == 6 else ("arp", (device, _mac(mac)))
    bits = values.FAMILY_BITS[known.family]
    first, last = (each.to_bytes(bits // 8, "big") for each in (known.value, known.last))
    if known.length == bits:
        return f"{kind}-hosts", Element(key((*who, first)))
    return f"{kind}-prefixes", Element(key((*who, first)), end=key((*who, last)))


def _of_box(box: Box) -> Element:
    low = key(map(_number, (box.source[0], box.destination[0])))
    high = key(map(_number, (box.source[1], box.destination[1])))
    return Element(low, end=None if low == high else high, comment=_words(box.origin))


def _device(name: str, origin: Origin | None = None) -> Element:
    return Element(interface_name(name), comment=_words(origin))


def _words(origin: Origin | None) -> str | None:
    return None if origin is None else objects.comment(" ".join(filter(None, origin)))


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _ipv4(text: str) -> bytes:
    return socket.inet_aton(text)


def _number(value: int) -> bytes:
    return value.to_bytes(4, "big")
