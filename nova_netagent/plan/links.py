"""Links, addresses and sysctls: actual against desired gives a plan. Pure.

What we made is noted in the store before it is made, so that a restarted agent knows its
own: only what was noted is ever removed. An address or a bridge that was there before us
is used and left, and so is an uplink that was a port of its bridge already.

An uplink's addresses and routes are the host's own. They go to the bridge with it and come
back with it, whatever became of them meanwhile; a bridge that was not made by us keeps
those that it had before.
"""

from collections.abc import Collection, Container, Iterable, Iterator, Mapping

from msgspec import Struct
from msgspec.structs import replace

from nova_netagent.compile.links import Address, Bridge, Links, Vlan

Made = tuple[str, str]
"""A kind and a name: ``bridge`` and ``vlan`` with that of the link, ``address`` with interface and
CIDR, ``uplink`` with device and bridge, ``port``, ``sysctl``; ``mtu`` with that of a bridge or VLAN
of ours that was told one; ``held`` with that of a bridge that has an uplink, and what it holds for the host."""

_ETHERNET_MTU = 1500
BRIDGE_SYSCTLS = {4: "net/bridge/bridge-nf-call-iptables", 6: "net/bridge/bridge-nf-call-ip6tables"}
FORWARD_IPV6 = "net/ipv6/conf/all/forwarding"
_FORWARD_SYSCTLS = {4: "net/ipv4/ip_forward", 6: FORWARD_IPV6}


class Link(Struct, frozen=True):
    """A link as the kernel has it."""

    index: int
    name: str
    kind: str | None
    master: str | None
    """The name of the bridge it is a port of."""
    up: bool
    mtu: int
    mac: str | None
    hairpin: bool | None = None
    """Whether, as a port, it sends back to where a frame came from; ``None`` where it is no port."""
    parent: str | None = None
    """What carries it, where it is a VLAN."""
    vlan: int | None = None
    """The number of its VLAN."""


class ActualLinks(Struct, frozen=True):
    """The host's links and addresses."""

    links: Mapping[str, Link]
    addresses: frozenset[tuple[str, str]]
    """Interface and address with prefix length."""
    addressed: frozenset[str] = frozenset()
    """The links with an address that counts beyond the link itself: not a link-local one."""


class NewMac(Struct, frozen=True):
    """The MAC that a bridge gets, and the addresses of ours that its neighbours must learn anew."""

    mac: str
    announce: tuple[str, ...] = ()


class Join(Struct, frozen=True):
    """An uplink that goes to its bridge, with all that it holds."""

    device: str
    bridge: str
    accept_ra: bool
    """Whether the bridge goes on hearing the routers that the uplink heard."""


class Release(Struct, frozen=True):
    """An uplink that leaves its bridge, with all that the bridge holds but what it keeps; or held, if it is gone."""

    device: str
    bridge: str
    keep: tuple[str, ...]
    """What stays, as ``LinksBackend.held`` names it."""


class Questions(Struct, frozen=True):
    """What a plan needs to know beside the links."""

    sysctls: tuple[str, ...]
    held: tuple[str, ...]
    """The links whose holdings count."""
    led: tuple[tuple[str, str], ...] = ()
    """The addresses that should have a route to their network: interface and CIDR."""


class LinkPlan(Struct, frozen=True):
    """The edits of links, in the halves that go before and after the rules.

    Each is carried out in the order of its fields; ``make`` is noted before anything is
    done and ``forget`` is struck from the notes after everything was.
    """

    make: Mapping[Made, str]
    remove_ports: tuple[str, ...]
    remove_addresses: tuple[tuple[str, str], ...]
    sysctls_before: Mapping[str, str]
    release: tuple[Release, ...]
    remake_vlans: tuple[str, ...]
    """Ours that something else carries by now: they go before they come."""
    add_vlans: tuple[Vlan, ...]
    add_bridges: tuple[Bridge, ...]
    set_mac: Mapping[str, NewMac]
    set_mtu: Mapping[str, int]
    set_up: tuple[str, ...]
    join: tuple[Join, ...]
    add_addresses: tuple[Address, ...]
    add_routes: tuple[tuple[str, str], ...]
    """Interface and CIDR of addresses whose route to their network somebody took away."""
    add_ports: Mapping[str, str]
    sysctls_after: Mapping[str, str]
    remove_bridges: tuple[str, ...]
    remove_vlans: tuple[str, ...]
    forget: tuple[Made, ...]
    again: tuple[Made, ...] = ()
    """What was made before and has to be made again: somebody undid it."""

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__struct_fields__ if name not in ("make", "forget", "again"))

    def lines(self, *, failed: Collection[str] = ()) -> Iterator[str]:
        """The plan for people, an edit a line.

        :param failed: links whose edits are left out.
        """
        return (line for link, line in self._edits() if link not in failed)

    def _edits(self) -> Iterator[tuple[str, str]]:
        """Each edit for people, and the link or sysctl that its failure is told of."""
        yield from ((device, f"link: - port {device}") for device in self.remove_ports)
        yield from ((device, f"address: - {cidr} on {device}") for device, cidr in self.remove_addresses)
        yield from ((name, f"sysctl: {name} = {value}") for name, value in self.sysctls_before.items())
        yield from ((each.device, f"link: - uplink {each.device} of {each.bridge}") for each in self.release)
        yield from ((name, f"link: - vlan {name}") for name in self.remake_vlans)
        yield from ((each.name, f"link: + vlan {each.name} on {each.interface}") for each in self.add_vlans)
        yield from ((bridge.name, f"link: + bridge {bridge.name}") for bridge in self.add_bridges)
        yield from ((name, f"link: {name} mac {each.mac}") for name, each in self.set_mac.items())
        yield from ((name, f"link: {name} mtu {mtu}") for name, mtu in self.set_mtu.items())
        yield from ((name, f"link: {name} up") for name in self.set_up)
        yield from ((each.device, f"link: + uplink {each.device} of {each.bridge}") for each in self.join)
        yield from ((each.interface, f"address: + {each.cidr} on {each.interface}") for each in self.add_addresses)
        yield from ((device, f"route: + network of {cidr} on {device}") for device, cidr in self.add_routes)
        yield from ((device, f"link: + port {device} on {bridge}") for device, bridge in self.add_ports.items())
        yield from ((name, f"sysctl: {name} = {value}") for name, value in self.sysctls_after.items())
        yield from ((name, f"link: - bridge {name}") for name in self.remove_bridges)
        yield from ((name, f"link: - vlan {name}") for name in self.remove_vlans)


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
        if _is_new(device, bridge, actual, made) and ("bridge", bridge) not in made:
            held.append(bridge)
    accept = [_accept_ra(device) for device, bridge in desired.uplinks.items() if _is_off(device, bridge, actual)]
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


def sysctls_of(
    desired: Links, actual: ActualLinks, made: Mapping[Made, str], *, forwarding: bool = False
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The sysctls that a state wants, before and after its rules are in the kernel.

    A host that forwards IPv6 ignores router advertisements unless accept_ra is 2, and
    forgets the default route that it learned from one: so 2 comes first, for every link
    that may have accepted them (kernel, ip-sysctl.rst, accept_ra). A link that comes when
    the host forwards already never accepted any: it may be the tap of an instance.

    :param forwarding: whether the host forwards IPv6 already.
    """
    before = dict.fromkeys(BRIDGE_SYSCTLS.values(), "1") if desired.filter_bridges else {}
    if 6 in desired.forward:
        before |= {name: "2" for kind, name in made if kind == "sysctl" and name.endswith("/accept_ra")}
    if 6 in desired.forward and not forwarding:
        ours = {"lo", *desired.ports, *(name for kind, name in made if kind in ("bridge", "vlan"))}
        before |= {
            _accept_ra(link.name): "2"
            for link in actual.links.values()
            if (link.master is None or link.name in desired.uplinks) and link.name not in ours
        }
    after = {_FORWARD_SYSCTLS[family]: "1" for family in sorted(desired.forward)}
    return before, after


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
    astray = tuple(name for name, each in desired.vlans.items() if _is_astray(each, actual, made))
    if astray:
        actual = replace(actual, links={name: link for name, link in actual.links.items() if name not in astray})
    held = held or {}
    addresses = {(each.interface, each.cidr): each for each in desired.addresses}
    wanted_made = _wanted(desired)
    going = [thing for thing in made if thing[0] != "sysctl" and thing not in wanted_made]
    unusable = set(not_bridges(desired, actual))
    leaving = tuple(_leaving(going, actual, made))
    join = tuple(_joins(desired, actual, made, sysctls, held, unusable))
    joining = {each.device: each.bridge for each in join}
    add_vlans = tuple(each for name, each in desired.vlans.items() if name in joining and name not in actual.links)
    add_bridges = tuple(
        each if each.uplink in joining else replace(each, uplink=None)
        for name, each in desired.bridges.items()
        if name not in actual.links
    )
    present = {*actual.links, *(each.name for each in add_bridges), *(each.name for each in add_vlans)} - unusable
    arriving = {
        (joining[device], cidr)
        for device, cidr in actual.addresses
        if device in joining and ("address", f"{device} {cidr}") not in made
    }
    add_addresses = tuple(
        each
        for key, each in addresses.items()
        if key not in actual.addresses and key not in arriving and each.interface in present
    )
    add_ports = {
        device: bridge
        for device, bridge in desired.ports.items()
        if device in actual.links and bridge in present and not _is_joined(actual.links[device], bridge)
    }
    before, after = sysctls_of(desired, actual, made, forwarding=sysctls.get(FORWARD_IPV6) == "1")
    changed_before = _changed(before, sysctls)
    changed_after = _changed(after, sysctls)
    make: dict[Made, str] = {("vlan", each.name): "" for each in add_vlans}
    make |= {("bridge", each.name): "" for each in add_bridges}
    make |= {("uplink", f"{each.device} {each.bridge}"): held.get(each.bridge, "") for each in join}
    make |= {
        ("uplink", f"{each.device} {each.bridge}"): ""
        for each in leaving
        if desired.uplinks.get(each.device) == each.bridge
    }
    sized = [each for each in _sized(desired) if each.mtu and (_is_ours(each, made) or _is_ours(each, make))]
    make |= {("mtu", each.name): "" for each in sized}
    make |= {("address", f"{each.interface} {each.cidr}"): "" for each in add_addresses}
    make |= {("port", device): "" for device in desired.ports if device in actual.links}
    make |= {("sysctl", name): sysctls[name] for name in (*changed_before, *changed_after)}
    leads = {name: each.uplink for name, each in desired.bridges.items() if each.uplink is not None}
    set_mac = {
        bridge: NewMac(mac, tuple(each.cidr for key, each in addresses.items() if key[0] == bridge and each.announce))
        for bridge, device in leads.items()
        if ("bridge", bridge) in made and bridge in present and bridge in actual.links
        if (mac := _mac_of(device, bridge, actual, joining)) not in (None, actual.links[bridge].mac)
    }
    lower = [each.interface for name, each in desired.vlans.items() if ("vlan", name) in made]
    lower += [device for device, bridge in desired.uplinks.items() if ("uplink", f"{device} {bridge}") in made]
    set_up = tuple(
        name
        for name in dict.fromkeys((*lower, *desired.bridges, *desired.ports))
        if name in actual.links and name in present and not actual.links[name].up
    )
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
        remove_ports=tuple(name for kind, name in going if kind == "port" and _is_port(name, actual)),
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
        set_mtu=_mtus(desired, actual, made, going, {**joining, **add_ports}),
        set_up=set_up,
        join=join,
        add_addresses=add_addresses,
        add_routes=tuple(unled),
        add_ports=add_ports,
        sysctls_after=changed_after,
        remove_bridges=tuple(name for kind, name in going if kind == "bridge" and _is_bridge(name, actual)),
        remove_vlans=tuple(name for kind, name in going if kind == "vlan" and _kind_of(name, actual) == "vlan"),
        forget=tuple(going),
        again=tuple(thing for thing in changed if thing in made),
    )


def led_out(uplinks: Mapping[str, str], actual: ActualLinks) -> frozenset[str]:
    """The bridges whose uplink is a port of theirs."""
    return frozenset(
        bridge for device, bridge in uplinks.items() if device in actual.links and actual.links[device].master == bridge
    )


def not_bridges(desired: Links, actual: ActualLinks) -> Iterator[str]:
    """Names of desired bridges that are those of other links."""
    return (name for name in desired.bridges if name in actual.links and not _is_bridge(name, actual))


def link_problems(desired: Links, actual: ActualLinks) -> Mapping[str, str]:
    """By link why it cannot be had: an interface is not there, or what should be a bridge is none."""
    missing = {each.interface for each in desired.addresses if each.interface not in actual.links}
    return {
        **dict.fromkeys(sorted(missing), "there is no such interface"),
        **uplink_problems(desired, actual),
        **dict.fromkeys(not_bridges(desired, actual), "there is a link of this name that is not a bridge"),
    }


def uplink_problems(desired: Links, actual: ActualLinks) -> Mapping[str, str]:
    """By link, why an uplink cannot be had, or what carries it."""
    found: dict[str, str] = {}
    for device, bridge in desired.uplinks.items():
        vlan = desired.vlans.get(device)
        link = actual.links.get(device)
        if vlan is not None and vlan.interface not in actual.links:
            found[vlan.interface] = "there is no such interface"
        elif link is None:
            found[device] = "there is no such interface" if vlan is None else _why_not_made(vlan, actual)
        elif vlan is not None and not _is_vlan(link, vlan):
            found[device] = f"there is a link of this name that is not VLAN {vlan.number} of {vlan.interface}"
        elif link.master not in (None, bridge):
            found[device] = f"it is a port of {link.master} already"
    return found


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


def _wanted(desired: Links) -> set[Made]:
    wanted: set[Made] = {("bridge", name) for name in desired.bridges}
    wanted |= {("address", f"{each.interface} {each.cidr}") for each in desired.addresses}
    wanted |= {("port", device) for device in desired.ports}
    wanted |= {("vlan", name) for name in desired.vlans}
    wanted |= {("mtu", each.name) for each in _sized(desired)}
    wanted |= {("uplink", f"{device} {bridge}") for device, bridge in desired.uplinks.items()}
    wanted |= {("held", bridge) for bridge in desired.uplinks.values()}
    return wanted


def _joins(
    desired: Links,
    actual: ActualLinks,
    made: Mapping[Made, str],
    sysctls: Mapping[str, str],
    held: Mapping[str, str],
    unusable: set[str],
) -> Iterator[Join]:
    """The uplinks that are not on their bridge, and those of ours that hold what their bridge should."""
    left = {tuple(name.split(" ")) for kind, name in made if kind == "uplink"}
    problems = uplink_problems(desired, actual)
    for device, bridge in desired.uplinks.items():
        link, vlan = actual.links.get(device), desired.vlans.get(device)
        if bridge in unusable or (vlan is not None and vlan.interface in problems):
            continue
        if link is None:
            wanted = vlan is not None
        elif vlan is not None and not _is_vlan(link, vlan):
            wanted = False
        elif link.master == bridge:
            ours = ("uplink", f"{device} {bridge}") in made
            wanted = ours and (device in actual.addressed or bool(held.get(device)))
        else:
            # Another bridge keeps it, unless it is there by us and leaves with this plan.
            wanted = link.master is None or (device, link.master) in left
        if wanted:
            ours = ("bridge", bridge) in made or bridge not in actual.links
            yield Join(device, bridge, ours and _accepts(device, sysctls))


def _leaving(going: Iterable[Made], actual: ActualLinks, made: Mapping[Made, str]) -> Iterator[Release]:
    """The uplinks of ours that nobody asks for by their name any more.

    One that was given another name is known by its MAC, which its bridge has. It stays where it is asked for by that.
    """
    for kind, name in going:
        if kind == "uplink":
            device, bridge = name.split(" ")
            found = device if device in actual.links else _renamed(bridge, actual, made)
            if found is None:
                continue
            remembered = ("held", bridge) in made and bridge not in actual.links and not actual.links[found].master
            if remembered or _is_bridge(bridge, actual):
                yield Release(found, bridge, _kept(bridge, made[kind, name], made))


def _renamed(bridge: str, actual: ActualLinks, made: Container[Made]) -> str | None:
    """The uplink of a bridge of ours, by whatever name."""
    if bridge not in actual.links or ("bridge", bridge) not in made:
        return None
    mac = actual.links[bridge].mac
    ports = (link for link in actual.links.values() if link.master == bridge and ("port", link.name) not in made)
    return next((link.name for link in ports if link.mac == mac), None)


def _is_off(device: str, bridge: str, actual: ActualLinks) -> bool:
    return device in actual.links and actual.links[device].master != bridge


def _is_new(device: str, bridge: str, actual: ActualLinks, made: Mapping[Made, str]) -> bool:
    """Whether an uplink is about to be joined for the first time to a bridge that is there."""
    joined = device in actual.links and actual.links[device].master == bridge
    return not joined and bridge in actual.links and ("uplink", f"{device} {bridge}") not in made


def _kept(bridge: str, found: str, made: Mapping[Made, str]) -> tuple[str, ...]:
    """What stays on a bridge when its uplink leaves: what it had before, and what we gave it."""
    given = (name.split(" ", 1) for kind, name in made if kind == "address")
    return (*found.split(), *(cidr for device, cidr in given if device == bridge))


def _mac_of(device: str, bridge: str, actual: ActualLinks, joining: Mapping[str, str]) -> str | None:
    link = actual.links.get(device)
    return link.mac if link is not None and (link.master == bridge or device in joining) else None


def _mtus(
    desired: Links, actual: ActualLinks, made: Mapping[Made, str], going: Collection[Made], coming: Mapping[str, str]
) -> dict[str, int]:
    """The links of ours whose MTU is another than it should be.

    One that we set and that nobody asks for any more is what the kernel would choose, now and when
    ports come and go: a bridge that was told an MTU follows them no more (br_mtu_auto_adjust).

    :param coming: the bridge of each port that joins one by this plan.
    """
    ours = [each for each in _sized(desired) if each.name in actual.links and _is_ours(each, made)]
    wanted = {each.name: each.mtu for each in ours if each.mtu}
    left = [each for each in ours if not each.mtu and ("mtu", each.name) in made]
    if left:
        carriers = {name: each.interface for name, each in desired.vlans.items()}
        now = {name: link.mtu for name, link in actual.links.items()} | wanted
        vlans = [each.name for each in left if isinstance(each, Vlan)] + [name for name in coming if name not in now]
        wanted |= {name: now[carriers[name]] for name in vlans if carriers[name] in now}
        smallest = _smallest_ports(actual, now | wanted, going, coming)
        wanted |= {each.name: smallest.get(each.name, _ETHERNET_MTU) for each in left if isinstance(each, Bridge)}
    return {name: mtu for name, mtu in wanted.items() if name in actual.links and actual.links[name].mtu != mtu}


def _smallest_ports(
    actual: ActualLinks, mtus: Mapping[str, int], going: Collection[Made], coming: Mapping[str, str]
) -> Mapping[str, int]:
    """By bridge, the least MTU of its ports, once those that go have gone and those that come are there."""
    leaving = {name.split(" ")[0] for kind, name in going if kind in ("port", "uplink")}
    staying = {link.name: link.master for link in actual.links.values() if link.name not in leaving}
    found: dict[str, int] = {}
    for port, bridge in {**staying, **coming}.items():
        if bridge is not None and port in mtus:
            found[bridge] = min(mtus[port], found.get(bridge, mtus[port]))
    return found


def _sized(desired: Links) -> tuple[Bridge | Vlan, ...]:
    """What may have an MTU of ours."""
    return *desired.vlans.values(), *desired.bridges.values()


def _is_ours(each: Bridge | Vlan, made: Container[Made]) -> bool:
    return ("vlan" if isinstance(each, Vlan) else "bridge", each.name) in made


def _accept_ra(device: str) -> str:
    return f"net/ipv6/conf/{device}/accept_ra"


def _accepts(device: str, sysctls: Mapping[str, str]) -> bool:
    """Whether a link hears router advertisements (ip-sysctl, accept_ra)."""
    value = sysctls.get(_accept_ra(device))
    return value == "2" or (value == "1" and sysctls.get(FORWARD_IPV6) != "1")


def _kind_of(name: str, actual: ActualLinks) -> str | None:
    return actual.links[name].kind if name in actual.links else None


def _is_bridge(name: str, actual: ActualLinks) -> bool:
    return _kind_of(name, actual) == "bridge"


def _why_not_made(vlan: Vlan, actual: ActualLinks) -> str:
    """Why a VLAN's link is not there although it was asked for; one of a name of its own is all that there can be."""
    for link in actual.links.values():
        if _is_vlan(link, vlan):
            return f"VLAN {vlan.number} of {vlan.interface} is {link.name} already"
    return "it could not be made"


def _is_astray(wanted: Vlan, actual: ActualLinks, made: Container[Made]) -> bool:
    """Whether a VLAN's link is ours, on another interface than it should be, and can be had on that."""
    link = actual.links.get(wanted.name)
    return (
        link is not None
        and (link.kind, link.vlan) == ("vlan", wanted.number)
        and ("vlan", wanted.name) in made
        and ("uplink", f"{wanted.name} {link.master}") in made
        and wanted.interface in actual.links
        and not any(_is_vlan(each, wanted) for each in actual.links.values())
    )


def _is_vlan(link: Link, wanted: Vlan) -> bool:
    return (link.kind, link.parent, link.vlan) == ("vlan", wanted.interface, wanted.number)


def _is_joined(link: Link, bridge: str) -> bool:
    return link.master == bridge and link.hairpin is not False


def _is_port(device: str, actual: ActualLinks) -> bool:
    return device in actual.links and actual.links[device].master is not None


def _changed(wanted: Mapping[str, str], present: Mapping[str, str]) -> Mapping[str, str]:
    return {
        name: value for name, value in wanted.items() if name in present and not _serves(name, value, present[name])
    }


def _serves(name: str, wanted: str, present: str) -> bool:
    if name.endswith("/accept_ra"):
        return present != "1"  # 0: the operator wants none; 2: accepted already
    return present == wanted
