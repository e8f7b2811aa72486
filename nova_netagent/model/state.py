"""The desired state: every described object, how old its claims are, and what was deleted."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar, cast

from msgspec import Struct

from nova_netagent.model.objects import (
    KINDS,
    FloatingIP,
    Instance,
    Network,
    Object,
    ProviderRule,
    SecurityGroup,
    State,
)

O = TypeVar("O", bound=Object)  # noqa: E741 - the one type variable of this file

Key = tuple[str, str]
"""A kind and an id."""

Claim = tuple[str, ...]
"""Something that not everybody can hold: an address on a network, a device, a range, a link of the host."""

TOMBSTONE_SECONDS = 7 * 86400


def claims(item: Object) -> Iterator[Claim]:
    """What an object asks to be its alone; the last word of an instance's claim is its id."""
    if isinstance(item, Instance):
        for vif in item.vifs:
            yield ("vif", vif.id, item.id)
            yield ("device", vif.device, item.id)
            for address in vif.fixed_ips:
                yield ("address", vif.network_id, address, item.id)
    elif isinstance(item, Network):
        for family in (4, 6):
            cidr = item.range(family)
            if cidr is not None:
                yield ("range", cidr)
        for link in (item.bridge, item.bridge_interface, item.vlan_link):
            if link is not None:
                yield ("link", link)
    elif isinstance(item, FloatingIP) and item.interface is not None:
        yield ("link", item.interface)


class Entry(Struct, frozen=True, gc=False):
    """One described object, and what its body does not say."""

    object: Object
    """As it was described last; where that said no revision, with the highest that was said before."""
    changes: int
    """How often it changed here: the revision of an object whose sender does not count."""
    since: Mapping[Claim, int]
    """For each claim the sequence number with which it was first made: the older keeps it."""

    @property
    def reported_revision(self) -> int:
        """The revision its status speaks of."""
        return self.changes if self.object.revision is None else self.object.revision


class Tombstone(Struct, frozen=True, gc=False):
    """A numbered deletion: an update not above it is late."""

    revision: int
    at: float
    """When, in seconds since the epoch."""


class DesiredState(Struct, frozen=True, gc=False):
    """Everything this host must enforce. Changed only by ``events.fold``."""

    networks: Mapping[str, Entry] = {}
    security_groups: Mapping[str, Entry] = {}
    provider_rules: Mapping[str, Entry] = {}
    instances: Mapping[str, Entry] = {}
    floating_ips: Mapping[str, Entry] = {}
    tombstones: Mapping[Key, Tombstone] = {}
    sequence: int = 0
    """The sequence number that was last given to a claim."""

    def entries(self, kind: str) -> Mapping[str, Entry]:
        """The entries of one kind, by id."""
        return cast("Mapping[str, Entry]", getattr(self, kind))

    def all_entries(self) -> Iterator[tuple[Key, Entry]]:
        """Every entry with its key, kind by kind."""
        for kind in KINDS:
            for id_, entry in self.entries(kind).items():
                yield (kind, id_), entry

    def size(self) -> int:
        """How many objects there are."""
        return sum(len(self.entries(kind)) for kind in KINDS)

    def get(self, cls: type[O], id_: str) -> O | None:
        """An object by its class and id."""
        entry = self.entries(cls.KIND).get(id_)
        return None if entry is None else cast("O", entry.object)

    def of(self, cls: type[O]) -> Iterable[O]:
        """The objects of a class, in order of id."""
        entries = self.entries(cls.KIND)
        return (cast("O", entries[id_].object) for id_ in sorted(entries))

    def export(self) -> State:
        """The state as one body."""
        return State(
            networks=tuple(self.of(Network)),
            instances=tuple(self.of(Instance)),
            security_groups=tuple(self.of(SecurityGroup)),
            floating_ips=tuple(self.of(FloatingIP)),
            provider_rules=tuple(self.of(ProviderRule)),
        )
