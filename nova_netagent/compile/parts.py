"""What the parts of the compiler work with: names, settings, and a place to put rules."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from operator import itemgetter

from msgspec import Struct

from nova_netagent.compile.memo import InOrder, Memo
from nova_netagent.compile.resolve import Port, Resolved
from nova_netagent.model import Network
from nova_netagent.netfilter.owner import NO_CLASH, SHORT, Owner, ShortIds, short_names
from nova_netagent.netfilter.rule import DROP, Chain, Family, Jump, Reject, Rule, TableId, Target
from nova_netagent.settings import Settings

DROP_TARGETS: Mapping[str, Target] = {"DROP": DROP, "REJECT": Reject()}
"""What ``iptables_drop_action`` may be beside the name of a chain of the operator's."""


class Names(Struct, frozen=True):
    """The short ids by which chains and sets are named."""

    instances: ShortIds
    vifs: ShortIds
    groups: ShortIds
    networks: ShortIds


def names_of(resolved: Resolved, memo: Memo) -> Names:
    """Name everything that has chains; which names depends on what there is, not on order."""
    ports, groups, networks = resolved.ports, resolved.groups, resolved.networks
    instances_named = memo.index("instances by name", ports, lambda id_, _: (id_[:SHORT],))
    vifs_named = memo.index("vifs by name", ports, lambda _, own: [port.vif.id[:SHORT] for port in own])
    groups_named = memo.index("groups by name", groups, lambda id_, _: (id_[:SHORT],))
    networks_named = memo.index("networks by name", networks, lambda id_, _: (id_[:SHORT],))
    names = Names(
        instances=NO_CLASH if len(instances_named) == len(ports) else short_names(ports),
        vifs=NO_CLASH
        if len(vifs_named) == sum(map(len, ports.values()))
        else short_names({port.vif.id for own in ports.values() for port in own}),
        groups=NO_CLASH if len(groups_named) == len(groups) else short_names(groups.keys()),
        networks=NO_CLASH if len(networks_named) == len(networks) else short_names(networks.keys()),
    )
    # Interned: that an id more is there changes nobody's name, unless it clashes.
    return memo.intern("names", names)


class Scope(Struct, frozen=True):
    """Everything a part may look at."""

    resolved: Resolved
    settings: Settings
    owner: Owner
    names: Names
    families: tuple[Family, ...]

    def chain(self, name: str) -> str:
        """A wrapped chain name."""
        return self.owner.chain(name)

    def jump(self, name: str) -> Rule:
        """The rule that jumps to a wrapped chain, whatever the packet: one object for all that do."""
        return _jump(self.owner.wrap_name, name)

    @property
    def networks(self) -> list[Network]:
        """Every network that can be had, by id."""
        return sorted(self.resolved.networks.values(), key=lambda each: each.id)

    @property
    def all_ports(self) -> Iterable[Port]:
        """Every vif, by instance."""
        return (port for ports in self.resolved.ports.values() for port in ports)

    def above(self, interface: str | None) -> str | None:
        """Where packets by an interface come and go: its bridge, where it is a network's uplink."""
        lead = None if interface is None else self.resolved.uplinks.get(interface)
        return interface if lead is None else lead.bridge

    @property
    def drop(self) -> Target:
        """The target for what is refused in the filter table (``iptables_drop_action``)."""
        action = self.settings.firewall.iptables_drop_action
        return DROP_TARGETS.get(action) or Jump(action)


def on_bridges(scope: Scope, memo: Memo) -> InOrder[tuple[str, str]]:
    """The bridge and the device of each vif that passes anything, in their order."""
    return memo.part("on bridges").in_order("on bridges", scope.resolved.ports, _on_bridges, itemgetter(0, 1))


def _on_bridges(ports: tuple[Port, ...]) -> list[tuple[str, str]]:
    return [(port.network.bridge, port.vif.device) for port in ports if port.network is not None]


class Placed:
    """Rules gathered by table and chain, in the order in which the parts give them."""

    def __init__(self) -> None:
        self.rules: dict[TableId, dict[str, list[Rule]]] = {}
        self.chains: dict[TableId, list[Mapping[str, Chain]]] = {}
        """Whole chains, by whatever they are told apart by; no two of a table have the same name."""

    def add(self, family: Family, table: str, chain: str, *rules: Rule) -> None:
        """Append rules to a chain, which comes to be if it is not there."""
        self.rules.setdefault(TableId(family, table), {}).setdefault(chain, []).extend(rules)

    def add_all(self, other: "Placed") -> None:
        """Add what was gathered elsewhere."""
        for table, found in other.chains.items():
            self.chains.setdefault(table, []).extend(found)
        for table, lists in other.rules.items():
            for chain, rules in lists.items():
                self.add(table.family, table.name, chain, *rules)

    def add_chains(self, family: Family, table: str, chains: Mapping[str, Chain]) -> None:
        """Add whole chains, kept as the objects they are."""
        self.chains.setdefault(TableId(family, table), []).append(chains)


Reasoned = tuple[Rule, str]
"""A rule, and why it is there: a part of what its chain is there for, unless it says it itself."""


def chain_of(name: str, kind: str, id_: str, reasoned: Iterable[Reasoned]) -> Chain:
    """A chain of rules that are there for one object."""
    rules, parts = zip(*reasoned, strict=True)
    return Chain(name, rules, (kind, id_), parts)


@lru_cache(1024)
def _jump(wrap_name: str, name: str) -> Rule:
    return Rule(Jump(Owner(wrap_name).chain(name)))


@lru_cache(4096)
def judged_by(chain: str, group_id: str) -> Rule:
    """The rule that jumps to a group's chain: one object for all members."""
    return Rule(Jump(chain), origin=("security_groups", group_id, ""))


def network(cidr: str | None) -> str | None:
    """A prefix as a rule's match: every address is no match at all."""
    return None if cidr is None or cidr.endswith("/0") else cidr
