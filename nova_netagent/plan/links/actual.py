"""What a host has of links and addresses, and what of it we made."""

from collections.abc import Mapping

from msgspec import Struct

Made = tuple[str, str]
"""A kind and a name: ``bridge`` and ``vlan`` with that of the link, ``address`` with interface and
CIDR, ``uplink`` with device and bridge, ``port``, ``sysctl``; ``mtu`` with that of a bridge or VLAN
of ours that was told one; ``held`` with that of a bridge that has an uplink, and what it holds for the host."""


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


def kind_of(name: str, actual: ActualLinks) -> str | None:
    """What kind of link a name is that of, as the kernel calls it."""
    return actual.links[name].kind if name in actual.links else None


def is_bridge(name: str, actual: ActualLinks) -> bool:
    """Whether a name is a bridge's."""
    return kind_of(name, actual) == "bridge"


def is_port(device: str, actual: ActualLinks) -> bool:
    """Whether a link is a port of any bridge."""
    return device in actual.links and actual.links[device].master is not None


def is_joined(link: Link, bridge: str) -> bool:
    """Whether a link is a port of a bridge as we make it: it sends back to where a frame came from."""
    return link.master == bridge and link.hairpin is not False


def led_out(uplinks: Mapping[str, str], actual: ActualLinks) -> frozenset[str]:
    """The bridges whose uplink is a port of theirs."""
    return frozenset(
        bridge for device, bridge in uplinks.items() if device in actual.links and actual.links[device].master == bridge
    )
