"""Actual against desired gives a plan of links."""

from collections.abc import Collection, Container, Iterator, Mapping

from msgspec.structs import replace

from nova_netagent.compile.links import Address, Links
from nova_netagent.plan.links.actual import ActualLinks, Made, is_bridge, is_joined, is_port, kind_of
from nova_netagent.plan.links.edits import LinkPlan, NewMac, Questions
from nova_netagent.plan.links.mtus import is_ours, mtus, sizable
from nova_netagent.plan.links.problems import not_bridges
from nova_netagent.plan.links.sysctls import FORWARD_IPV6, accept_ra, sysctls_of, to_change
from nova_netagent.plan.links.uplinks import is_new, is_off, joins, mac_of, releases
from nova_netagent.plan.links.vlans import is_astray


def questions(
    desired: Links, actual: ActualLinks, made: Mapping[Made, str], *, forwarding: bool, closely: bool = False
) -> Questions:
    """What has to be looked up for a plan.

    :param forwarding: whether the host forwards IPv6 already.
    :param closely: see as well whether routes lead by an uplink that is joined already, and to the networks of our
        addresses; addresses are seen anyway.
    """
    before, after = sysctls_of(desired, actual, made, forwarding=forwarding)
    held = []
    for device, bridge in desired.uplinks.items():
        if closely and ("uplink", f"{device} {bridge}") in made and device in actual.links:
            held.append(device)
        if is_new(device, bridge, actual, made) and ("bridge", bridge) not in made:
            held.append(bridge)
    accept = [accept_ra(device) for device, bridge in desired.uplinks.items() if is_off(device, bridge, actual)]
    led = tuple(_led(desired, actual, made)) if closely else ()
    return Questions((*before, *after, *accept, FORWARD_IPV6), tuple(held), led)


def _led(desired: Links, actual: ActualLinks, made: Container[Made]) -> Iterator[tuple[str, str]]:
    """The addresses of ours to whose network the kernel made a route, and the link-local ones of our bridges."""
    wanted = {(each.interface, each.cidr) for each in desired.addresses}
    # A link that is down has no routes, one of a VRF has them in a table of its own.
    links = (actual.links[name] for name in {name for name, _ in wanted} & actual.links.keys())
    names = {link.name for link in links if link.up and not link.master}
    for each in sorted(actual.addresses):
        stays = each in wanted or _is_link_local(each[1])  # one that goes takes its route along
        if each[0] in names and stays and not each[1].endswith(("/32", "/128")) and _whose(*each) in made:
            yield each


def _whose(interface: str, cidr: str) -> Made:
    """What was made when an address came: itself, or the bridge whose own it is."""
    return ("bridge", interface) if _is_link_local(cidr) else ("address", f"{interface} {cidr}")


def _is_link_local(cidr: str) -> bool:
    return cidr.startswith("fe80:")


def plan_links(
    desired: Links,
    actual: ActualLinks,
    made: Mapping[Made, str],
    sysctls: Mapping[str, str],
    held: Mapping[str, str] | None = None,
    unled: Collection[tuple[str, str]] = (),
) -> LinkPlan:
    """The edits that make links, addresses and sysctls as desired.

    :param made: what we noted as made by us.
    :param sysctls: the present value of every sysctl of ``questions`` that this host has.
    :param held: what each link of ``questions`` holds.
    :param unled: those addresses of ``questions`` to whose network no route leads.
    """
    astray = tuple(name for name, each in desired.vlans.items() if is_astray(each, actual, made))
    if astray:
        actual = replace(actual, links={name: link for name, link in actual.links.items() if name not in astray})
    held = held or {}
    wanted_made = _wanted(desired)
    going = [thing for thing in made if thing[0] != "sysctl" and thing not in wanted_made]
    unusable = set(not_bridges(desired.bridges, actual))
    leaving = tuple(releases(going, actual, made))
    join = tuple(joins(desired, actual, made, sysctls, held, unusable))
    joining = {each.device: each.bridge for each in join}
    add_vlans = tuple(each for name, each in desired.vlans.items() if name in joining and name not in actual.links)
    add_bridges = tuple(
        each if each.uplink in joining else replace(each, uplink=None)
        for name, each in desired.bridges.items()
        if name not in actual.links
    )
    present = {*actual.links, *(each.name for each in add_bridges), *(each.name for each in add_vlans)} - unusable
    add_addresses = tuple(_addresses_to_add(desired, actual, made, joining, present))
    add_ports = {
        device: bridge
        for device, bridge in desired.ports.items()
        if device in actual.links and bridge in present and not is_joined(actual.links[device], bridge)
    }
    before, after = sysctls_of(desired, actual, made, forwarding=sysctls.get(FORWARD_IPV6) == "1")
    changed_before = to_change(before, sysctls)
    changed_after = to_change(after, sysctls)
    make: dict[Made, str] = {("vlan", each.name): "" for each in add_vlans}
    make |= {("bridge", each.name): "" for each in add_bridges}
    make |= {("uplink", f"{each.device} {each.bridge}"): held.get(each.bridge, "") for each in join}
    make |= {
        ("uplink", f"{each.device} {each.bridge}"): ""
        for each in leaving
        if desired.uplinks.get(each.device) == each.bridge
    }
    sized = [each for each in sizable(desired) if each.mtu and (is_ours(each, made) or is_ours(each, make))]
    make |= {("mtu", each.name): "" for each in sized}
    make |= {("address", f"{each.interface} {each.cidr}"): "" for each in add_addresses}
    make |= {("port", device): "" for device in desired.ports if device in actual.links}
    make |= {("sysctl", name): sysctls[name] for name in (*changed_before, *changed_after)}
    set_mac = dict(_macs_to_set(desired, actual, made, joining, present))
    set_up = tuple(_links_to_set_up(desired, actual, made, present))
    changed: list[Made] = [
        *(("vlan", each.name) for each in add_vlans),
        *(("bridge", each.name) for each in add_bridges),
        *(("uplink", f"{each.device} {each.bridge}") for each in join),
        *(("port", device) for device in add_ports),
    ]
    changed += [("address", f"{each.interface} {each.cidr}") for each in add_addresses]
    changed += [_whose(*each) for each in unled]
    changed += [("sysctl", name) for name in (*changed_before, *changed_after)]
    changed += [(kind, name) for name in (*set_up, *set_mac) for kind in ("vlan", "bridge", "port")]
    changed += [("uplink", f"{name} {desired.uplinks[name]}") for name in set_up if name in desired.uplinks]
    return LinkPlan(
        make={thing: found for thing, found in make.items() if thing not in made},
        remove_ports=tuple(name for kind, name in going if kind == "port" and is_port(name, actual)),
        remove_addresses=tuple(
            (device, cidr)
            for device, cidr in (name.split(" ", 1) for kind, name in going if kind == "address")
            if (device, cidr) in actual.addresses
        ),
        sysctls_before=changed_before,
        release=tuple(each for each in leaving if desired.uplinks.get(each.device) != each.bridge),
        remake_vlans=astray,
        add_vlans=add_vlans,
        add_bridges=add_bridges,
        set_mac=set_mac,
        set_mtu=mtus(desired, actual, made, going, {**joining, **add_ports}),
        set_up=set_up,
        join=join,
        add_addresses=add_addresses,
        add_routes=tuple(unled),
        add_ports=add_ports,
        sysctls_after=changed_after,
        remove_bridges=tuple(name for kind, name in going if kind == "bridge" and is_bridge(name, actual)),
        remove_vlans=tuple(name for kind, name in going if kind == "vlan" and kind_of(name, actual) == "vlan"),
        forget=tuple(going),
        again=tuple(thing for thing in changed if thing in made),
    )


def plan_removal(actual: ActualLinks, made: Mapping[Made, str], sysctls: Mapping[str, str]) -> LinkPlan:
    """The edits that undo everything we made: what ``cleanup`` does.

    :param sysctls: the present value of every sysctl that we noted and that this host still has.
    """
    nothing = Links(bridges={}, ports={}, addresses=(), forward=frozenset(), filter_bridges=False)
    return replace(
        plan_links(nothing, actual, made, {}),
        sysctls_after={
            name: found
            for (kind, name), found in made.items()
            if kind == "sysctl" and sysctls.get(name, found) != found
        },
        forget=tuple(made),
    )


def _addresses_to_add(
    desired: Links, actual: ActualLinks, made: Container[Made], joining: Mapping[str, str], present: Container[str]
) -> Iterator[Address]:
    """The addresses that are not there, nor about to come with an uplink."""
    arriving = {
        (joining[device], cidr)
        for device, cidr in actual.addresses
        if device in joining and ("address", f"{device} {cidr}") not in made
    }
    for key, each in _by_place(desired).items():
        if key not in actual.addresses and key not in arriving and each.interface in present:
            yield each


def _macs_to_set(
    desired: Links, actual: ActualLinks, made: Container[Made], joining: Mapping[str, str], present: Container[str]
) -> Iterator[tuple[str, NewMac]]:
    """By bridge of ours its uplink's MAC, where it has another one."""
    for bridge, each in desired.bridges.items():
        if each.uplink is None or ("bridge", bridge) not in made or bridge not in present or bridge not in actual.links:
            continue
        mac = mac_of(each.uplink, bridge, actual, joining)
        if mac not in (None, actual.links[bridge].mac):
            told = (each.cidr for (on, _), each in _by_place(desired).items() if on == bridge and each.announce)
            yield bridge, NewMac(mac, tuple(told))


def _by_place(desired: Links) -> Mapping[tuple[str, str], Address]:
    """The addresses by interface and CIDR: several networks may ask for one."""
    return {(each.interface, each.cidr): each for each in desired.addresses}


def _links_to_set_up(
    desired: Links, actual: ActualLinks, made: Container[Made], present: Container[str]
) -> Iterator[str]:
    """Our bridges and ports that are down, and what carries VLANs of ours or is an uplink by us."""
    lower = [each.interface for name, each in desired.vlans.items() if ("vlan", name) in made]
    lower += [device for device, bridge in desired.uplinks.items() if ("uplink", f"{device} {bridge}") in made]
    for name in dict.fromkeys((*lower, *desired.bridges, *desired.ports)):
        if name in actual.links and name in present and not actual.links[name].up:
            yield name


def _wanted(desired: Links) -> set[Made]:
    wanted: set[Made] = {("bridge", name) for name in desired.bridges}
    wanted |= {("address", f"{each.interface} {each.cidr}") for each in desired.addresses}
    wanted |= {("port", device) for device in desired.ports}
    wanted |= {("vlan", name) for name in desired.vlans}
    wanted |= {("mtu", each.name) for each in sizable(desired)}
    wanted |= {("uplink", f"{device} {bridge}") for device, bridge in desired.uplinks.items()}
    wanted |= {("held", bridge) for bridge in desired.uplinks.values()}
    return wanted
