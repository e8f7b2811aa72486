"""The links and addresses that the rules live on, as values."""

from collections.abc import Iterator, Mapping
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from nova_netagent.compile.floating_ip import interface_of
from nova_netagent.compile.memo import Memo
from nova_netagent.compile.metadata import METADATA_IP
from nova_netagent.compile.parts import Scope, on_bridges
from nova_netagent.model import Key, Network, values


class Bridge(Struct, frozen=True):
    """A bridge that a network wants."""

    name: str
    mtu: int | None
    uplink: str | None = None
    """The port by which it leads to other hosts; its MAC is the bridge's, so that neighbours learn none anew."""


class Vlan(Struct, frozen=True):
    """A link that carries one VLAN of another, as a network's uplink."""

    name: str
    interface: str
    """The link whose VLAN it is."""
    number: int
    mtu: int | None


class Address(Struct, frozen=True):
    """An address that an interface must have; ``origin`` is the object that wants it."""

    interface: str
    cidr: str
    """With the prefix length of the interface, host bits kept: ``10.0.0.1/24``."""
    scope_link: bool
    announce: bool
    """Tell the neighbours when it is new, or its MAC is: by gratuitous ARP, or an IPv6 one's advertisement."""
    origin: Key | None


class Links(Struct, frozen=True):
    """What of the host's links and addresses is ours."""

    bridges: Mapping[str, Bridge]
    ports: Mapping[str, str]
    """The bridge of each tap device."""
    addresses: tuple[Address, ...]
    forward: frozenset[int]
    """The families (4, 6) that must be forwarded."""
    filter_bridges: bool
    """Whether bridged frames must pass the packet filter (bridge-nf-call-*)."""
    uplinks: Mapping[str, str] = {}
    """The bridge of each uplink."""
    vlans: Mapping[str, Vlan] = {}
    """Those uplinks that are VLANs of another link."""

    def under(self, bridge: str) -> Iterator[str]:
        """The links on which a bridge rests: its uplink, and what carries the uplink's VLAN."""
        uplink = self.bridges[bridge].uplink if bridge in self.bridges else None
        if uplink is not None:
            yield uplink
            if uplink in self.vlans:
                yield self.vlans[uplink].interface


def links_of(scope: Scope, memo: Memo) -> Links:
    """The links that a state wants; without ``manage_links`` bridges and ports are somebody else's."""
    part = memo.part("links")
    resolved = scope.resolved
    still = part.get("of networks", (resolved.networks,), partial(_of_networks, scope))
    floating = part.get("floating", (resolved.floating_ips, resolved.networks), partial(_floating_addresses, scope))
    return replace(
        still,
        ports=part.get("ports", (resolved.networks, resolved.ports), partial(_ports, scope, memo)),
        addresses=part.get("addresses", (still, floating), lambda: (*still.addresses, *floating)),
        filter_bridges=bool(resolved.networks) or bool(resolved.ports),
    )


def _of_networks(scope: Scope) -> Links:
    """What networks ask for, whatever instances and floating IPs there are."""
    networks = scope.networks
    managed = scope.settings.network.manage_links
    uplinks = scope.resolved.uplinks
    leads = {each.bridge: each.device for each in uplinks.values()}
    mtus: dict[str, set[int | None]] = {}
    addresses: list[Address] = []
    if scope.settings.metadata.metadata_host is not None:
        addresses.append(Address("lo", METADATA_IP, scope_link=True, announce=False, origin=None))
    for each in networks if managed else ():
        mtus.setdefault(each.bridge, set()).add(each.mtu or scope.settings.network.network_device_mtu)
        addresses += _gateway_addresses(each, scope)
    # What is routed to any of its networks fits the smallest.
    bridges = {
        name: Bridge(name, min(filter(None, known), default=None), leads.get(name)) for name, known in mtus.items()
    }
    return Links(
        bridges=bridges,
        ports={},
        addresses=tuple(addresses),
        forward=frozenset(family for family in scope.families if any(each.routed(family) for each in networks)),
        filter_bridges=bool(networks),
        uplinks={each.device: each.bridge for each in uplinks.values()},
        vlans={
            each.device: Vlan(each.device, each.interface, each.vlan, bridges[each.bridge].mtu)
            for each in uplinks.values()
            if each.vlan is not None
        },
    )


def _floating_addresses(scope: Scope) -> tuple[Address, ...]:
    found = []
    for floating in scope.resolved.floating_ips:
        interface = interface_of(floating, scope)
        if interface is not None:
            origin = ("floating_ips", floating.id)
            found.append(Address(interface, values.host(floating.id), False, True, origin))
    return tuple(found)


def _ports(scope: Scope, memo: Memo) -> dict[str, str]:
    """The bridge of each tap device; none where links are somebody else's."""
    if not scope.settings.network.manage_links:
        return {}
    return {device: bridge for bridge, device in on_bridges(scope, memo).items}


def _gateway_addresses(each: Network, scope: Scope) -> list[Address]:
    origin = ("networks", each.id)
    # An address that every host has must not be announced to the others as this one's.
    shared = each.share_address or scope.settings.network.share_dhcp_address
    announce = scope.settings.network.send_arp_for_ha and not shared
    found = []
    if each.server is not None and each.cidr is not None:
        length = values.prefix(each.cidr).length
        found.append(Address(each.bridge, f"{each.server}/{length}", False, announce, origin))
    if each.gateway_v6 is not None and each.cidr_v6 is not None and 6 in scope.families:
        on_link = each.gateway_v6.startswith("fe80:")
        length = 64 if on_link else values.prefix(each.cidr_v6).length
        # A link-local gateway is the same on every host.
        found.append(Address(each.bridge, f"{each.gateway_v6}/{length}", on_link, announce and not on_link, origin))
        if on_link and each.routers_v6 is not None:
            # Without an address in the range nothing leads there, and dnsmasq does not advertise it.
            cidr = f"{each.routers_v6}/{values.prefix(each.cidr_v6).length}"
            found.append(Address(each.bridge, cidr, False, False, origin))
    return found
