"""Links, addresses and sysctls: actual against desired gives a plan. Pure.

What we made is noted in the store before it is made, so that a restarted agent knows its
own: only what was noted is ever removed. An address or a bridge that was there before us
is used and left.
"""

from collections.abc import Iterator, Mapping

from msgspec import Struct

from nova_netagent.compile.links import Address, Bridge, Links

Made = tuple[str, str]
"""A kind (``bridge``, ``address``, ``port``, ``sysctl``) and a name."""

_BRIDGE_SYSCTLS = ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables")
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


class ActualLinks(Struct, frozen=True):
    """The host's links and addresses."""

    links: Mapping[str, Link]
    addresses: frozenset[tuple[str, str]]
    """Interface and address with prefix length."""


class LinkPlan(Struct, frozen=True):
    """The edits of links, in the halves that go before and after the rules.

    Each is carried out in the order of its fields; ``make`` is noted before anything is
    done and ``forget`` is struck from the notes after everything was.
    """

    make: Mapping[Made, str]
    remove_ports: tuple[str, ...]
    remove_addresses: tuple[tuple[str, str], ...]
    sysctls_before: Mapping[str, str]
    add_bridges: tuple[Bridge, ...]
    set_mtu: Mapping[str, int]
    set_up: tuple[str, ...]
    add_addresses: tuple[Address, ...]
    add_ports: Mapping[str, str]
    sysctls_after: Mapping[str, str]
    remove_bridges: tuple[str, ...]
    forget: tuple[Made, ...]
    again: tuple[Made, ...] = ()
    """What was made before and has to be made again: somebody undid it."""

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__struct_fields__ if name not in ("make", "forget", "again"))

    def lines(self) -> Iterator[str]:
        """The plan for people, an edit a line."""
        yield from (f"link: - port {device}" for device in self.remove_ports)
        yield from (f"address: - {cidr} on {device}" for device, cidr in self.remove_addresses)
        yield from (f"sysctl: {name} = {value}" for name, value in self.sysctls_before.items())
        yield from (f"link: + bridge {bridge.name}" for bridge in self.add_bridges)
        yield from (f"link: {name} mtu {mtu}" for name, mtu in self.set_mtu.items())
        yield from (f"link: {name} up" for name in self.set_up)
        yield from (f"address: + {each.cidr} on {each.interface}" for each in self.add_addresses)
        yield from (f"link: + port {device} on {bridge}" for device, bridge in self.add_ports.items())
        yield from (f"sysctl: {name} = {value}" for name, value in self.sysctls_after.items())
        yield from (f"link: - bridge {name}" for name in self.remove_bridges)


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
    before = dict.fromkeys(_BRIDGE_SYSCTLS, "1") if desired.filter_bridges else {}
    if 6 in desired.forward:
        before |= {name: "2" for kind, name in made if kind == "sysctl" and name.endswith("/accept_ra")}
    if 6 in desired.forward and not forwarding:
        ours = {"lo", *desired.bridges, *desired.ports, *(name for kind, name in made if kind == "bridge")}
        before |= {
            f"net/ipv6/conf/{link.name}/accept_ra": "2"
            for link in actual.links.values()
            if link.master is None and link.name not in ours
        }
    after = {_FORWARD_SYSCTLS[family]: "1" for family in sorted(desired.forward)}
    return before, after


def plan_links(desired: Links, actual: ActualLinks, made: Mapping[Made, str], sysctls: Mapping[str, str]) -> LinkPlan:
    """The edits that make links, addresses and sysctls as desired.

    :param made: what we noted as made by us.
    :param sysctls: the present value of every sysctl of ``sysctls_of`` that this host has.
    """
    addresses = {(each.interface, each.cidr): each for each in desired.addresses}
    wanted_made = _wanted(desired)
    going = [thing for thing in made if thing[0] != "sysctl" and thing not in wanted_made]
    add_bridges = tuple(each for name, each in desired.bridges.items() if name not in actual.links)
    unusable = set(not_bridges(desired, actual))
    present = {*actual.links, *(each.name for each in add_bridges)} - unusable
    add_addresses = tuple(
        each for key, each in addresses.items() if key not in actual.addresses and each.interface in present
    )
    add_ports = {
        device: bridge
        for device, bridge in desired.ports.items()
        if device in actual.links and bridge in present and not _is_joined(actual.links[device], bridge)
    }
    before, after = sysctls_of(desired, actual, made, forwarding=sysctls.get(FORWARD_IPV6) == "1")
    changed_before = _changed(before, sysctls)
    changed_after = _changed(after, sysctls)
    make: dict[Made, str] = {("bridge", each.name): "" for each in add_bridges}
    make |= {("address", f"{each.interface} {each.cidr}"): "" for each in add_addresses}
    make |= {("port", device): "" for device in desired.ports if device in actual.links}
    make |= {("sysctl", name): sysctls[name] for name in (*changed_before, *changed_after)}
    set_up = tuple(
        name
        for name in (*desired.bridges, *desired.ports)
        if name in actual.links and name in present and not actual.links[name].up
    )
    changed: list[Made] = [
        *(("bridge", each.name) for each in add_bridges),
        *(("port", device) for device in add_ports),
    ]
    changed += [("address", f"{each.interface} {each.cidr}") for each in add_addresses]
    changed += [("sysctl", name) for name in (*changed_before, *changed_after)]
    changed += [(kind, name) for name in set_up for kind in ("bridge", "port")]
    return LinkPlan(
        make={thing: found for thing, found in make.items() if thing not in made},
        remove_ports=tuple(name for kind, name in going if kind == "port" and _is_port(name, actual)),
        remove_addresses=tuple(
            (device, cidr)
            for device, cidr in (name.split(" ", 1) for kind, name in going if kind == "address")
            if (device, cidr) in actual.addresses
        ),
        sysctls_before=changed_before,
        add_bridges=add_bridges,
        set_mtu={
            name: each.mtu
            for name, each in desired.bridges.items()
            if each.mtu and name in actual.links and ("bridge", name) in made and actual.links[name].mtu != each.mtu
        },
        set_up=set_up,
        add_addresses=add_addresses,
        add_ports=add_ports,
        sysctls_after=changed_after,
        remove_bridges=tuple(name for kind, name in going if kind == "bridge" and _is_bridge(name, actual)),
        forget=tuple(going),
        again=tuple(thing for thing in changed if thing in made),
    )


def not_bridges(desired: Links, actual: ActualLinks) -> Iterator[str]:
    """Names of desired bridges that are those of other links."""
    return (name for name in desired.bridges if name in actual.links and not _is_bridge(name, actual))


def plan_removal(actual: ActualLinks, made: Mapping[Made, str], sysctls: Mapping[str, str]) -> LinkPlan:
    """The edits that undo everything we made: what ``cleanup`` does.

    :param sysctls: the present value of every sysctl that we noted and that this host still has.
    """
    nothing = Links(bridges={}, ports={}, addresses=(), forward=frozenset(), filter_bridges=False)
    undone = plan_links(nothing, actual, made, {})
    return LinkPlan(
        make={},
        remove_ports=undone.remove_ports,
        remove_addresses=undone.remove_addresses,
        sysctls_before={},
        add_bridges=(),
        set_mtu={},
        set_up=(),
        add_addresses=(),
        add_ports={},
        sysctls_after={
            name: found
            for (kind, name), found in made.items()
            if kind == "sysctl" and sysctls.get(name, found) != found
        },
        remove_bridges=undone.remove_bridges,
        forget=tuple(made),
    )


def _wanted(desired: Links) -> set[Made]:
    wanted: set[Made] = {("bridge", name) for name in desired.bridges}
    wanted |= {("address", f"{each.interface} {each.cidr}") for each in desired.addresses}
    wanted |= {("port", device) for device in desired.ports}
    return wanted


def _is_bridge(name: str, actual: ActualLinks) -> bool:
    return name in actual.links and actual.links[name].kind == "bridge"


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
