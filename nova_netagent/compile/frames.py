"""What may pass the bridges below IP: every vif as itself, and what a network asks of its uplink."""

from collections.abc import Iterator, Mapping
from functools import partial
from operator import attrgetter
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from nova_netagent.compile.memo import InOrder, Memo
from nova_netagent.compile.metadata import METADATA_IP
from nova_netagent.compile.parts import Scope, on_bridges
from nova_netagent.compile.resolve import Port
from nova_netagent.compile.source import own_sources
from nova_netagent.compile.uplinks import uplink
from nova_netagent.model import Network, values
from nova_netagent.netfilter.frames import Closed, Frames, Isolated, Redirected, Secured
from nova_netagent.netfilter.rule import FAMILIES

_Judged = TypeVar("_Judged", Secured, Closed)
_device = attrgetter("device")


class BridgePorts(Struct, frozen=True):
    """What a bridge of ours may have for ports; others are nobody's."""

    known: frozenset[str]
    redirecting: frozenset[str]
    """The ports at which frames for another gateway are taken out and routed."""


class WantedFrames(Struct, frozen=True):
    """What a state asks of the frames; the ports that are nobody's are seen on the host only."""

    frames: Frames
    bridges: Mapping[str, BridgePorts]
    """Those whose every port is ours to judge."""


def wanted(scope: Scope, memo: Memo) -> WantedFrames:
    """What a state asks of the frames."""
    part = memo.part("frames")
    resolved = scope.resolved
    # Of floating IPs all but what is redirected knows nothing.
    still = part.get("of vifs", (resolved.networks, resolved.ports), partial(_of_vifs, scope, memo))
    redirected = tuple(_redirected(scope.networks, scope))
    return WantedFrames(replace(still.frames, redirected=redirected), still.bridges)


def _of_vifs(scope: Scope, memo: Memo) -> WantedFrames:
    """What vifs and networks ask of the frames, whoever has floating IPs."""
    part = memo.part("vifs")
    judged = part.each("judged", scope.resolved.ports, (), _vifs)
    frames = Frames(
        secured=tuple(part.in_order("secured", judged, partial(_of_kind, Secured), _device).items),
        isolated=tuple(_isolated(scope.networks, scope)),
        unjudged=tuple(family for family in FAMILIES if family not in scope.families),
    )
    if not scope.settings.network.manage_links:  # on a bridge of ours what is closed is no port
        closed = part.in_order("closed", judged, partial(_of_kind, Closed), _device)
        return WantedFrames(replace(frames, closed=tuple(closed.items)), {})
    vifs = on_bridges(scope, memo)
    hairpins = tuple([device for _, device in vifs.items])
    return WantedFrames(replace(frames, hairpins=hairpins), _bridges(scope.networks, vifs, scope))


def _vifs(_id: str, ports: tuple[Port, ...], _last: object) -> tuple[Secured | Closed, ...]:
    return tuple(each for port in ports if port.holds_device and (each := _judged(port)) is not None)


def _judged(port: Port) -> Secured | Closed | None:
    """What a vif is kept to; ``None``: it is free."""
    origin = ("instances", port.instance_id, "pending" if port.network is None else "")
    if port.network is None:  # it passes nothing
        return Closed(port.vif.device, origin)
    if not port.vif.port_security_enabled:
        return None
    mac = port.vif.address
    own = [*own_sources(port), (values.host(values.link_local(mac)), mac)]
    return Secured(port.vif.device, mac, tuple(dict.fromkeys(own)), origin)


def _of_kind(kind: type[_Judged], vifs: tuple[Secured | Closed, ...]) -> list[_Judged]:
    return [each for each in vifs if isinstance(each, kind)]


def _isolated(networks: list[Network], scope: Scope) -> Iterator[Isolated]:
    """The server's address of a network of which every host has one (``share_address``)."""
    for each in networks:
        device = uplink(each, scope.settings.network)
        shared = each.share_address or scope.settings.network.share_dhcp_address
        if shared and device is not None and each.server is not None:
            yield Isolated(device, each.server, ("networks", each.id, "shared address"))


def _redirected(networks: list[Network], scope: Scope) -> Iterator[Redirected]:
    """What this host has to NAT although the instances' gateway is another machine."""
    external = {each.id: each for each in networks if each.external_gateway}
    for each in external.values():
        assert each.cidr is not None
        for cidr in scope.settings.network.force_snat_range:
            if values.prefix(cidr).family == 4:
                yield Redirected(each.cidr, cidr, origin=("networks", each.id, "forced SNAT"))
        if scope.settings.metadata.metadata_host is not None:
            yield Redirected(each.cidr, METADATA_IP, origin=("networks", each.id, "metadata"))
    homes = _homes(external, scope) if external and scope.resolved.floating_ips else {}
    for floating in scope.resolved.floating_ips:
        network = homes.get(values.prefix(floating.fixed_ip_address))
        if network is not None and network.cidr is not None and ":" not in floating.id:
            source = values.host(floating.fixed_ip_address)
            yield Redirected(source, network.cidr, inverted=True, origin=("floating_ips", floating.id, ""))


def _homes(external: Mapping[str, Network], scope: Scope) -> Mapping[values.Prefix, Network]:
    """Where a vif sends as what a floating IP leads to: it is its fixed IP, or of one of its allowed pairs."""
    wanted = {values.prefix(each.fixed_ip_address) for each in scope.resolved.floating_ips}
    homes: dict[values.Prefix, Network] = {}
    pairs: dict[tuple[str, str], Network] = {}
    for port in scope.all_ports:
        network = port.network
        if network is not None and network.id in external:
            for address in port.addresses:
                if (own := values.prefix(address)) in wanted:
                    homes[own] = network
            for allowed in port.vif.pairs:
                pairs[allowed.ip_address, network.id] = network
    for (text, _), network in pairs.items():
        for fixed in values.prefix(text).among(wanted):
            if network.cidr is not None and values.prefix(network.cidr).contains(fixed):
                homes.setdefault(fixed, network)
    return homes


def _bridges(networks: list[Network], vifs: InOrder[tuple[str, str]], scope: Scope) -> Mapping[str, BridgePorts]:
    uplinks: dict[str, set[str]] = {each.bridge: set() for each in networks}
    external = {each.bridge for each in networks if each.external_gateway}
    for each in networks:
        device = uplink(each, scope.settings.network)
        if device is not None:
            uplinks[each.bridge].add(device)
    found = {}
    for bridge in sorted(uplinks):
        devices = frozenset([device for _, device in vifs.beginning(bridge).items])
        found[bridge] = BridgePorts(devices | uplinks[bridge], devices if bridge in external else frozenset())
    return found
