"""Whose an interface is: the host's own, or a vif's tap. Of two that name it, the older keeps it.

A tap that is taken for an uplink would pass unfiltered; an uplink that is taken for a tap would
cut off the host. What the operator configured is the host's whatever is described.
"""

from collections.abc import Iterator, Mapping

from msgspec import Struct

from nova_netagent.model import Claim, DesiredState, Entry, FloatingIP, Key, Network
from nova_netagent.settings import NetworkSettings

Oldest = Mapping[Claim, tuple[int, Claim]]
"""For each thing that vifs claim, how old the oldest claim is, and that claim."""


class Interfaces(Struct, frozen=True):
    """Who has the interfaces that are named more than once."""

    hosts_own: frozenset[str]
    """No vif's tap may have these names."""
    mistaken: Mapping[Key, str]
    """Networks and floating IPs that name an older vif's tap, and why they are in error."""


def interfaces(state: DesiredState, settings: NetworkSettings, oldest: Oldest) -> Interfaces:
    """Decide whose each interface is."""
    own = {settings.public_interface, settings.flat_interface, settings.vlan_interface}
    lost: list[tuple[Key, str]] = []
    for key, entry in _who_name_links(state):
        for name, since in _links_of(entry):
            tap = oldest.get(("device", name))
            if tap is None or since < tap[0]:
                own.add(name)
            else:
                lost.append((key, name))
    return Interfaces(
        hosts_own=frozenset(name for name in own if name is not None),
        mistaken={
            key: f"{name} is the tap of instance {oldest['device', name][1][-1]} already"
            for key, name in lost
            if name not in own
        },
    )


def _who_name_links(state: DesiredState) -> Iterator[tuple[Key, Entry]]:
    for cls in (Network, FloatingIP):
        yield from (((cls.KIND, id_), entry) for id_, entry in state.entries(cls.KIND).items())


def _links_of(entry: Entry) -> Iterator[tuple[str, int]]:
    """The interfaces of the host that an object names, and for how long it did."""
    return ((claim[1], since) for claim, since in entry.since.items() if claim[0] == "link")
