"""What the engine needs of links, whoever provides it."""

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from nova_netagent.backend.links.passable import Passable
from nova_netagent.backend.links.routes import Asked, Route
from nova_netagent.plan.links import ActualLinks, LinkPlan
from nova_netagent.plan.neighbours import Had, Neighbours


class LinksFailed(Exception):
    """Some edits failed; the others were done. ``reasons`` names each by the link concerned."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {why}" for name, why in reasons.items()))
        self.reasons = reasons


LEAST_MTU_OF_IPV6 = 1280


def too_small_for_ipv6(mtu: int) -> str:
    """Why a link has no IPv6 address, for people."""
    return (
        f"its MTU is {mtu}, and IPv6 needs {LEAST_MTU_OF_IPV6} (RFC 8200, section 5): "
        "that of its network, [network] network_device_mtu, or else of its ports"
    )


class LinksBackend(Protocol):
    """Reads and edits links. One thread only.

    What needs to know the links as they are raises ``Unavailable`` where the kernel does not tell.
    """

    def read(self) -> ActualLinks:
        """The host's links and addresses as they are now."""

    def read_sysctls(self, names: Iterable[str]) -> Mapping[str, str]:
        """The values of those sysctls that this host has; names are paths below /proc/sys."""

    def held(self, names: Iterable[str]) -> Mapping[str, str]:
        """What links hold that is not the kernel's own: addresses, and names of routes, between spaces."""

    def unled(self, addresses: Collection[tuple[str, str]]) -> Collection[tuple[str, str]]:
        """Those addresses, as interface and CIDR, to whose network the kernel has no route by the interface."""

    def remember(self, bridges: Mapping[str, Collection[str]], uplinks: Mapping[str, str]) -> Mapping[str, str]:
        """Keep in mind what bridges hold, but for the addresses named: it is given again if they are made anew.

        :param uplinks: each with its bridge: one whose uplink is its port holds all that it shall, whoever made it.
        :returns: by bridge what is kept in mind, for ``recall``.
        """

    def recall(self, remembered: Mapping[str, str]) -> None:
        """Keep in mind what was remembered before a restart, of those bridges that are gone, down or made anew.

        It is given with a bridge that is made anew only if nobody gave the uplink other addresses meanwhile.
        """

    def route(self, asked: Asked) -> Route:
        """Where the host sends a packet, or would take it."""

    def passable(self, name: str) -> Passable | None:
        """What lets frames pass a link, or not; ``None``: there is none of that name."""

    def behind(self, bridge: str, mac: str) -> str | None:
        """The port by which a bridge gives out frames for a MAC, if it has learned or was told it."""

    def prepare(self, plan: LinkPlan) -> None:
        """What goes before the rules: ports and addresses away, bridges filtered."""

    def finish(self, plan: LinkPlan) -> None:
        """What comes after the rules: uplinks, bridges, addresses, ports, forwarding."""

    def known_neighbours(self, bridges: Collection[str]) -> Neighbours:
        """Who answered for which address there, as far as the host remembers."""

    def refuse_waiting(self, now: Neighbours) -> None:
        """Throw away what waits for an answer from these addresses: it was sent when they were nobody's."""

    def forget(self, gone: Collection[Had]) -> None:
        """Have the host ask anew who has these addresses, where it knows of those who had them."""

    def introduce(self, now: Neighbours) -> None:
        """Tell the host who has these addresses, where it knows of somebody else or has waited for an answer."""

    def next_due(self) -> float | None:
        """When ``do_due`` has something to do, by time.monotonic()."""

    def do_due(self) -> None:
        """Send the announcements that are due."""

    def close(self) -> None:
        """Close the sockets; nothing in the kernel changes."""
