"""The compiler: desired state and settings in, rules and links out. Pure, ordered once, memoised."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial

from msgspec import Struct

from nova_netagent.compile import (
    cut,
    dhcp,
    fixed_range,
    floating_ip,
    frames,
    instance,
    links,
    metadata,
    network,
    security_group,
    skeleton,
    zones,
)
from nova_netagent.compile.dhcp import DhcpService
from nova_netagent.compile.frames import WantedFrames
from nova_netagent.compile.links import Links
from nova_netagent.compile.memo import Memo
from nova_netagent.compile.parts import Names, Placed, Scope, names_of
from nova_netagent.compile.resolve import Problem, Resolved, resolve
from nova_netagent.model import DesiredState, Key
from nova_netagent.netfilter.owner import Owner
from nova_netagent.netfilter.rule import FAMILIES, Chain, Family, IpSet, Rule, Ruleset, Table, TableId
from nova_netagent.settings import Settings

ALL_TABLES = tuple(TableId(family, name) for family in FAMILIES for name in skeleton.TABLES)


class Compiled(Struct, frozen=True, dict=True):
    """What a state asks of the host, and what of it cannot be.

    For one thread: what is not asked for at once is compiled when it is.
    """

    ruleset: Ruleset
    links: Links
    problems: Mapping[Key, tuple[Problem, ...]]
    """For each object that is not simply done, what is wrong."""
    scope: Scope
    """What it was compiled from."""
    compile_frames: Callable[[], WantedFrames]
    compile_servers: Callable[[], Mapping[str, DhcpService]]

    @cached_property
    def frames(self) -> WantedFrames:
        """What may pass below IP."""
        return self.compile_frames()

    @cached_property
    def servers(self) -> Mapping[str, DhcpService]:
        """The dnsmasq of each bridge that wants one."""
        return self.compile_servers()


class Compiler:
    """Compiles one state after another, remembering what did not change.

    :param tables: those that the kernel has and the operator wants. A family is served when it
        has what its instances are filtered with; nat comes with it where it is there, and what
        needs it is in error where it is not.
    """

    def __init__(self, settings: Settings, tables: Collection[TableId] | None = None) -> None:
        self.settings = settings
        self.tables = frozenset(ALL_TABLES if tables is None else tables)
        self.families = tuple(family for family in FAMILIES if all(t in self.tables for t in needed(family)))
        self.has_nat = TableId(4, "nat") in self.tables
        self._owner = Owner(settings.firewall.wrap_name)
        self._memo = Memo()

    def compile(self, state: DesiredState, refused: Mapping[Key, str] | None = None) -> Compiled:
        """Compile a state.

        :param refused: objects that the kernel refused, with its reason: they pass nothing.
        """
        memo = self._memo
        resolved = resolve(state, self.settings, refused or {}, memo, has_nat=self.has_nat)
        named = (resolved.ports, resolved.known_groups, resolved.networks)
        scope = Scope(
            resolved=resolved,
            settings=self.settings,
            owner=self._owner,
            names=memo.get("names", named, partial(_names, resolved, memo)),
            families=self.families,
        )
        whereabouts = (resolved.networks, resolved.ports, resolved.floating_ips)
        clients = (resolved.networks, resolved.ports, state.instances)
        # All that the parts but those of the groups look at; uplinks are of the networks.
        seen = (*whereabouts, resolved.provider_rules, scope.names)
        around = memo.get("around", seen, partial(_around, scope, memo))
        of_groups = (resolved.groups, resolved.known_groups, scope.names, around.used)
        groups = memo.get("groups' chains", of_groups, partial(security_group.place, scope, memo, around.used))
        tables = memo.get("tables", (around, groups), partial(_tables, scope, memo, around, groups, self.tables))
        sets = memo.merged("sets", [around.sets, *security_group.sets(scope, state, memo, groups)], _name)
        compiled = Compiled(
            ruleset=Ruleset(tables, sets),
            links=memo.get("links", whereabouts, partial(links.links_of, scope, memo)),
            problems=resolved.problems,
            scope=scope,
            compile_frames=partial(memo.get, "frames", whereabouts, partial(frames.wanted, scope, memo)),
            compile_servers=partial(memo.get, "servers", clients, partial(dhcp.services, scope, state, memo)),
        )
        memo.forget_unused()
        return compiled


def wanted_families(settings: Settings) -> Sequence[Family]:
    """The families that are to be filtered, where the kernel has their tables."""
    return FAMILIES if settings.use_ipv6 else (4,)


def needed(family: Family) -> tuple[TableId, ...]:
    """The tables without which instances cannot be filtered in a family."""
    return tuple(TableId(family, name) for name in skeleton.TABLES if name != "nat")


class _Around(Struct, frozen=True):
    """Everything but the chains of security groups and their sets."""

    single: Mapping[TableId, Mapping[str, Chain]]
    """The chains to which several parts give rules."""
    chains: Mapping[TableId, Sequence[Mapping[str, Chain]]]
    used: instance.Used
    sets: Mapping[str, IpSet]


def _around(scope: Scope, memo: Memo) -> _Around:
    part = memo.part("around")
    resolved = scope.resolved
    of_networks = (resolved.networks, resolved.provider_rules, scope.names)
    common = part.get("common", of_networks, partial(_common, scope, part))
    placed = Placed()
    used = instance.place(scope, part, placed)
    floating_ip.place(scope, part, placed)
    placed.add_all(part.get("zones", (resolved.networks,), partial(_zones, scope)))
    single = {
        table: {
            **chains,
            **{
                name: part.intern((table, name), _longer(name, chains.get(name), rules))
                for name, rules in placed.rules.get(table, {}).items()
            },
        }
        for table, chains in common.chains.items()
    }
    return _Around(single, placed.chains, used, common.sets)


class _Common(Struct, frozen=True):
    """What only networks and the provider's rules change."""

    chains: Mapping[TableId, Mapping[str, Chain]]
    sets: Mapping[str, IpSet]


def _common(scope: Scope, memo: Memo) -> _Common:
    part = memo.part("common")
    placed = Placed()
    skeleton.place(scope, placed)
    cut_sets = {each.name: each for each in cut.place(scope, placed)}
    metadata.place(scope, placed)
    fixed_range.place(scope, placed)
    network.place(scope, placed)
    security_group.place_provider(scope, placed)
    chains = {
        table: {name: part.intern((table, name), Chain(name, tuple(rules))) for name, rules in lists.items()}
        for table, lists in placed.rules.items()
    }
    return _Common(chains, part.intern("cut sets", cut_sets))


def _longer(name: str, chain: Chain | None, rules: Sequence[Rule]) -> Chain:
    """A chain with more rules at its end, where there is one."""
    return Chain(name, (*(() if chain is None else chain.rules), *rules))


def _zones(scope: Scope) -> Placed:
    placed = Placed()
    zones.place(scope, placed)
    return placed


def _names(resolved: Resolved, memo: Memo) -> Names:
    return names_of(resolved, memo.part("names"))


def _tables(
    scope: Scope, memo: Memo, around: _Around, groups: security_group.Groups, present: Collection[TableId]
) -> Mapping[TableId, Table]:
    part = memo.part("tables")
    tables = {}
    for family in scope.families:
        for name in skeleton.TABLES:
            id_ = TableId(family, name)
            if id_ not in present:
                continue
            parts = [around.single[id_], *groups.placed.chains.get(id_, ()), *around.chains.get(id_, ())]
            chains = part.merged(("chains", id_), parts, _name)
            hooks = skeleton.hooks(name, scope.owner)
            tables[id_] = part.get(id_, (chains, hooks), partial(Table, id_, chains, hooks))
    return tables


def _name(each: Chain | IpSet) -> str:
    return each.name


def empty_ruleset(settings: Settings) -> Ruleset:
    """The skeleton alone: what ``cleanup`` takes out again."""
    return Compiler(settings).compile(DesiredState()).ruleset
