"""What may pass the ports of our bridges below IP: MACs, ARP, neighbour discovery, ethertypes.

A value, like the ruleset: what iptables cannot see, and a backend makes the kernel hold. Ports
that are not named here pass everything: uplinks, taps without port security, other bridges'.

Devices are named, not looked up: a name may stand here long before its link comes to be, and
has to, since a tap joins its bridge after what it may send is in the kernel.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise

from msgspec import Struct

from nova_netagent.model import values
from nova_netagent.netfilter.rule import Family, Origin


class Secured(Struct, frozen=True, gc=False):
    """A vif with port security: it sends as itself, and is sent nothing but IP and ARP."""

    device: str
    mac: str
    addresses: tuple[tuple[str, str], ...] = ()
    """The prefixes of both families that it may claim, each with the MAC that goes with it: its
    fixed IPs, its link-local address, its allowed pairs'."""
    origin: Origin | None = None

    @property
    def macs(self) -> tuple[str, ...]:
        """Every MAC that it may send from."""
        return tuple(dict.fromkeys((self.mac, *(mac for _, mac in self.addresses))))


class Closed(Struct, frozen=True, gc=False):
    """A port of a bridge of ours that is nobody's: nothing passes, in or out."""

    device: str
    origin: Origin | None = None


class Isolated(Struct, frozen=True, gc=False):
    """An IPv4 address that every host has for itself (``share_address``), on the uplink it must not cross.

    Neither ARP for or from it nor bridged DHCP passes the uplink.
    """

    uplink: str
    address: str
    origin: Origin | None = None


class Redirected(Struct, frozen=True, gc=False):
    """IPv4 packets that this host has to route although their frames are for another machine.

    So is what an instance with a floating IP sends when its gateway is another machine: SNAT
    can only happen here. Sent to a group of machines they stay bridged.
    """

    source: str
    """A prefix."""
    destination: str
    """A prefix; with ``inverted`` every other destination is meant."""
    inverted: bool = False
    origin: Origin | None = None


class Gateway(Struct, frozen=True, gc=False):
    """A port at which frames are redirected, and the MAC of its bridge, to which they are."""

    device: str
    mac: str


class Frames(Struct, frozen=True, gc=False):
    """What may pass our bridges; no device is both secured and closed."""

    secured: tuple[Secured, ...] = ()
    closed: tuple[Closed, ...] = ()
    isolated: tuple[Isolated, ...] = ()
    redirected: tuple[Redirected, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    hairpins: tuple[str, ...] = ()
    """Ports in hairpin mode: what they send to a group does not come back to them."""
    unjudged: tuple[Family, ...] = ()
    """Families whose packets meet no rules on this host: no vif with port security sends one, or is sent one."""


Range = tuple[int, int]
"""IPv4 addresses as numbers, ends included."""


class Box(Struct, frozen=True, gc=False):
    """A range of sources with a range of destinations; boxes of one list share no packet."""

    source: Range
    destination: Range
    origin: Origin | None = None


def boxes(redirected: Iterable[Redirected]) -> tuple[Box, ...]:
    """The same packets without overlaps, which the kernel's sets of ranges refuse."""
    wanted = sorted(
        ((_range(each.source), _destinations(each), each.origin) for each in redirected),
        key=lambda each: (each[0], each[1], each[2] or ()),
    )
    edges = sorted({low for (low, _), _, _ in wanted} | {high + 1 for (_, high), _, _ in wanted})
    opening: dict[int, list[int]] = {}
    closing: dict[int, list[int]] = {}
    for number, ((low, high), _, _) in enumerate(wanted):
        opening.setdefault(low, []).append(number)
        closing.setdefault(high + 1, []).append(number)
    found: list[Box] = []
    active: dict[int, None] = {}
    for low, after in pairwise(edges):
        for number in closing.get(low, ()):
            del active[number]
        active.update(dict.fromkeys(opening.get(low, ())))
        ranges = _union(each for number in sorted(active) for each in wanted[number][1])
        origin = wanted[min(active)][2] if active else None
        found += (Box((low, after - 1), destination, origin) for destination in ranges)
    return tuple(found)


def without_contained(prefixes: Iterable[str]) -> tuple[str, ...]:
    """Prefixes without those that another of them covers, in order."""
    kept: list[values.Prefix] = []
    for each in sorted({values.prefix(text) for text in prefixes}):
        if not (kept and kept[-1].contains(each)):
            kept.append(each)
    return tuple(map(values.prefix_text, kept))


def _range(prefix: str) -> Range:
    known = values.prefix(prefix)
    return known.value, known.last


def _destinations(each: Redirected) -> tuple[Range, ...]:
    low, high = _range(each.destination)
    if not each.inverted:
        return ((low, high),)
    rest = ((0, low - 1), (high + 1, 0xFFFFFFFF))
    return tuple((first, last) for first, last in rest if first <= last)


def _union(ranges: Iterable[Range]) -> Iterator[Range]:
    """Ranges joined where they overlap or touch."""
    current: Range | None = None
    for low, high in sorted(ranges):
        if current is None or low > current[1] + 1:
            if current is not None:
                yield current
            current = (low, high)
        else:
            current = (current[0], max(current[1], high))
    if current is not None:
        yield current
