"""The edits of links, addresses and sysctls, and what has to be known for them."""

from collections.abc import Collection, Iterator, Mapping

from msgspec import Struct

from nova_netagent.compile.links import Address, Bridge, Vlan
from nova_netagent.plan.links.actual import Made


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
    deafen: bool = False
    """Whether the bridge stays, and hears no routers any more: behind a bridge of ours alone there are instances."""


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
