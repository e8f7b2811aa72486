"""The kernel's own rules, read when they are met: everybody's, with their counters."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Any, Protocol, TypeGuard

from msgspec.structs import replace

from nova_netagent.backend import Backend
from nova_netagent.explain.foreign.decode import decode
from nova_netagent.explain.foreign.fields import Around
from nova_netagent.explain.foreign.walk import OtherHook, OtherRules
from nova_netagent.explain.rules import LiveRule
from nova_netagent.host import Others
from nova_netagent.model.protocols import TCP
from nova_netagent.netfilter.foreign import Surroundings, applies
from nova_netagent.netfilter.hooks import FRAME_HOOKS, HOOKS, priority
from nova_netagent.netfilter.journey import LOOPBACK, PASSAGES
from nova_netagent.netfilter.owner import Owner
from nova_netagent.netfilter.packet import CannotTell, Packet, Step, Walk, matches, walk
from nova_netagent.netfilter.rule import (
    FAMILIES,
    Family,
    InSet,
    IpSet,
    Jump,
    MacSource,
    Mark,
    Match,
    Opaque,
    Rule,
    Ruleset,
    Table,
    TableId,
    Target,
)

CUT_DIRECTIONS = ("src,src,dst", "dst,dst,src")
"""How the set of what was cut is asked, by either end."""
_REQUEST, _REPLY = 1, 2
"""ARP's operations."""
LEGACY = "iptables-legacy "
"""Begins the names of the legacy tables, where they are not the ones that our own rules are in."""

Place = tuple[TableId, str, int]
"""A table, a chain and a rule's index in it."""


class Met(Protocol):
    """What a packet met at a hook."""

    id: TableId
    """The table, by the name by which an operator finds it."""

    def start(self, hook: str) -> str:
        """The chain by which packets enter it there."""

    def at(self, step: Step) -> LiveRule | None:
        """The rule that matched; ``None`` when it is not in the kernel."""


class LiveTable:
    """One table of the kernel's.

    :param wanted: what it must hold of ours; ``None`` where nothing of ours belongs there.
    :param shown: the name by which an operator finds it, if that is not its own.
    :param alone: nobody else has chains there.
    """

    def __init__(
        self,
        id_: TableId,
        backend: Backend[Any],
        wanted: Table | None,
        owner: Owner,
        shown: str | None = None,
        *,
        alone: bool = False,
    ) -> None:
        self.id = TableId(id_.family, shown or id_.name)
        self._held = id_
        self._backend = backend
        self._owner = owner
        self._counted = backend.counters(id_)
        self._encoded = None if wanted is None else backend.encode(wanted)
        self._wanted = wanted
        self._alone = alone
        self._chains: dict[str, tuple[LiveRule, ...]] = {}

    def start(self, hook: str) -> str:
        """The built-in chain."""
        return hook

    def at(self, step: Step) -> LiveRule | None:
        """The rule that matched; ``None`` when it is not in the kernel."""
        live = (self.chain(step.chain) or ())[step.index : step.index + 1]
        return live[0] if live and live[0].rule == step.rule else None

    def index_of(self, chain: str, key: bytes) -> int | None:
        """Where in a chain a rule stands, by its key."""
        held = self._counted.get(chain, (None, ()))[1]
        return next((index for index, (_, each) in enumerate(held) if each == key), None)

    def policy(self, chain: str) -> str:
        """What becomes of a packet at the end of a built-in chain."""
        found = self._counted.get(chain)
        return "ACCEPT" if found is None else found[0] or "ACCEPT"

    def chain(self, name: str) -> tuple[LiveRule, ...] | None:
        """A chain's rules."""
        if name not in self._chains:
            if name not in self._counted:
                return None
            self._chains[name] = tuple(self._rules(name))
        return self._chains[name]

    @property
    def names(self) -> Sequence[str]:
        """Every chain."""
        return list(self._counted)

    def _rules(self, name: str) -> Iterator[LiveRule]:
        ours = self._ours(name)
        owned = self._owner.owns_chain(name) or (self._alone and bool(ours))
        for count, key in self._counted[name][1]:
            known = ours.get(key)
            rule = known or self._backend.parse(self._held, key)
            strange = next((each.data for each in rule.matches if _is_nft(each)), None)
            described = self._backend.describe(self._held, key)
            text = described if strange is None else decode(strange, self.id.family, {}).text
            yield LiveRule(rule, text, count, known, owned and known is None, self._alone)

    def _ours(self, name: str) -> Mapping[Any, Rule]:
        if self._wanted is None or self._encoded is None:
            return {}
        if name in self._wanted.chains:
            return dict(zip(self._encoded.chains[name], self._wanted.chains[name].explained, strict=True))
        return {
            key: rule
            for hook, encoded in zip(self._wanted.hooks, self._encoded.hooks, strict=True)
            if hook.chain == name
            for key, rule in zip(encoded.keys, hook.rules, strict=True)
        }


class _Rules(Mapping[str, Sequence[Rule]]):
    """A table's chains for the walker."""

    def __init__(self, table: LiveTable) -> None:
        self._table = table

    def __getitem__(self, name: str) -> Sequence[Rule]:
        found = self._table.chain(name)
        if found is None:
            raise KeyError(name)
        return [each.rule for each in found]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.names)

    def __len__(self) -> int:
        return len(self._table.names)


class LiveRules:
    """The tables that packets meet here.

    :ivar doubts: the rules of which it could not be told whether they apply, in the order in which they were met.
    """

    def __init__(
        self, backend: Backend[Any], ruleset: Ruleset, owner: Owner, around: Surroundings, others: Others
    ) -> None:
        self._backend = backend
        self._ruleset = ruleset
        self._owner = owner
        self._around = around
        self._others = others
        self._loaded = frozenset(backend.loaded_tables())
        self._loaded_legacy = frozenset(() if others.legacy is None else others.legacy.loaded_tables())
        self._tables: dict[TableId, LiveTable] = {}
        self._instead: Ruleset | None = None
        self._cut: dict[tuple[str, str], float | None] = {}
        self.doubts: dict[Place, None] = {}
        self.assumed: frozenset[Place] = frozenset()
        """Those of the doubtful rules that are taken to apply."""
        self.guesses: dict[str, None] = {}
        """What was taken to be so, and nothing tells."""

    @property
    def reads_legacy(self) -> bool:
        """Whether our own rules are in the legacy tables."""
        return self._others.legacy is None

    def other(self, id_: TableId) -> OtherHook | None:
        """A base chain of somebody's in nf_tables, as ``tables_at`` names it."""
        return self._hooks.get(id_)

    def among_frames(self, id_: TableId, chain: str) -> OtherHook | None:
        """A table of somebody's below IP, as nft(8) names it: by the base chain of that name, or any."""
        found = [each for each in self._hooks.values() if each.id == id_]
        return next((each for each in found if each.start("") == chain), found[0] if found else None)

    def held(self, family: Family, chain: str, handle: int) -> tuple[TableId, str, bytes] | None:
        """A rule of ours in nf_tables, by the name of its chain there and its handle: as ``Backend.traced``."""
        return self._backend.traced(family, chain, handle)

    def fitting(self, id_: TableId, hook: str, chain: str, packet: Packet, target: Target | None) -> int | None:
        """The first rule of a chain that a packet fits, of those that do such a thing."""
        table = self.table(id_)
        around = Around(hook, self._around)
        for index, each in enumerate((table.chain(chain) if table else None) or ()):
            same = each.rule.target == target if isinstance(target, Jump) else not isinstance(each.rule.target, Jump)
            if same and self._applies(id_, around, Step(chain, index, each.rule), packet, self._sets):
                return index
        return None

    def met(self, id_: TableId) -> Met | None:
        """A table, or a base chain of a foreign one in nf_tables, as ``tables_at`` names it."""
        return self._hooks.get(id_) or self.table(id_)

    def table(self, id_: TableId) -> LiveTable | None:
        """A table, if it is in use."""
        if id_ not in self._tables:
            legacy = TableId(id_.family, id_.name.removeprefix(LEGACY))
            if id_ in self._loaded:
                wanted = self._ruleset.tables.get(id_)
                self._tables[id_] = LiveTable(id_, self._backend, wanted, self._owner, alone=not self.reads_legacy)
            elif id_ != legacy and legacy in self._loaded_legacy and self._others.legacy is not None:
                self._tables[id_] = LiveTable(legacy, self._others.legacy, None, self._owner, id_.name)
        return self._tables.get(id_)

    def tables_at(self, hook: str, family: int) -> list[tuple[str, bool]]:
        """What packets of a family meet at a hook, in order, and whether each translates."""
        found = []
        for name in PASSAGES[hook]:
            turn = priority(name, hook)
            found.append((turn - self._backend.lead, name, name == "nat"))
            if self._loaded_legacy:
                found.append((turn, LEGACY + name, name == "nat"))
        for key, each in self._hooks.items():
            if (key.family, each.hook) == (family, hook):
                found.append((each.priority, key.name, each.translates))
        return [(name, translates) for _, name, translates in sorted(found, key=lambda each: each[0])]

    def frames_at(self, hook: str, family: int, device: str) -> list[tuple[int, str]]:
        """The chains of others that frames with packets of a family meet at a hook below IP, in order."""
        found = [
            (each.priority, key.name)
            for key, each in self._hooks.items()
            if (key.family, each.hook) == (family, hook) and (not each.devices or device in each.devices)
        ]
        return sorted(found, key=lambda each: each[0])

    def refuses_arp(self, hook: str, came_by: str | None, goes_by: str | None) -> tuple[OtherHook, Walk] | None:
        """Who surely refuses ARP at a hook below IP, in either operation."""
        link = came_by or goes_by or ""
        frame = Packet("0.0.0.0", "0.0.0.0", 0, in_interface=came_by, out_interface=goes_by)
        for _, name in self.frames_at(hook, 4, link):
            other = self._hooks[TableId(4, name)]
            for operation in (_REQUEST, _REPLY):
                walked = other.walk(frame, self._around, lambda chain, index: False, operation)
                doubted = other.walk(frame, self._around, lambda chain, index: True, operation)
                # A rule that asks as whom ARP is sent may let it pass before another refuses the rest.
                if walked.verdict == doubted.verdict == "DROP":
                    return other, walked
        return None

    @cached_property
    def _hooks(self) -> Mapping[TableId, OtherHook]:
        """The base chains of others, by the names by which packets meet them."""
        found = {}
        for table in self._others.nft:
            rules = OtherRules(table)
            hooks = [(family, hook) for family in filter(table.sees, FAMILIES) for hook in HOOKS]
            for family, hook in (*hooks, *product(FAMILIES, FRAME_HOOKS)):
                for base in table.base_chains(hook):
                    each = OtherHook(rules, family, hook, base)
                    found[each.key] = each
        return found

    @cached_property
    def _sets(self) -> Mapping[str, IpSet]:
        return self._backend.read_sets()

    def instead(self, ruleset: Ruleset | None) -> None:
        """From now on take our own chains and sets from a ruleset that the kernel does not have."""
        self._instead = ruleset

    def walk(self, id_: TableId, hook: str, packet: Packet) -> Walk:
        """What one table does to a packet at one hook; ``UNKNOWN`` where a program of somebody's decides."""
        other = self._hooks.get(id_)
        if other is not None:
            return other.walk(packet, self._around, lambda chain, index: self._doubt((other.id, chain, index)))
        table = self.table(id_)
        if table is None:
            return Walk("ACCEPT", packet)
        chains: Mapping[str, Sequence[Rule]] = _Rules(table)
        sets = self._sets
        if self._instead is not None:
            chains, sets = self._with_ours(table, self._instead), self._instead.sets

        def judge(step: Step, packet: Packet) -> bool:
            return self._applies(id_, Around(hook, self._around), step, packet, sets)

        try:
            return walk(chains, hook, packet, sets, table.policy(hook), judge)
        except CannotTell as error:
            return Walk("UNKNOWN", packet, error.steps)

    def _with_ours(self, table: LiveTable, ruleset: Ruleset) -> Mapping[str, Sequence[Rule]]:
        """Everybody's chains as they are, but ours as a ruleset has them."""
        chains: dict[str, Sequence[Rule]] = {
            name: rules for name, rules in _Rules(table).items() if not self._owner.owns_chain(name)
        }
        wanted = ruleset.tables.get(table.id)
        if wanted is not None:
            chains |= {name: chain.explained for name, chain in wanted.chains.items()}
        return chains

    def _applies(self, id_: TableId, around: Around, step: Step, packet: Packet, sets: Mapping[str, IpSet]) -> bool:
        rule = step.rule
        unknown = [each for each in rule.matches if _is_unknown(each, packet, sets)]
        if not unknown:
            return matches(rule, packet, sets)
        known = tuple(each for each in rule.matches if each not in unknown)
        if not matches(replace(rule, matches=known), packet, sets):
            return False
        found = [self._holds(each, packet, around) for each in unknown]
        if False in found:
            return False
        if None not in found:
            return True
        return self._doubt((id_, step.chain, step.index))

    def _holds(self, match: Match, packet: Packet, around: Around) -> bool | None:
        if isinstance(match, InSet) and match.direction in CUT_DIRECTIONS:
            end = _end(packet, match.direction)
            return end is not None and self.cut_ago(match.name, end) is not None
        if isinstance(match, Mark):
            return packet.has_mark(match.value, match.mask)
        if not isinstance(match, Opaque):
            return None
        if _is_nft(match):
            return decode(match.data, packet.family, {}).holds(packet, around)
        return applies(match, packet, around.surroundings)

    def cut_ago(self, name: str, end: str) -> float | None:
        """As ``Backend.cut_ago``, asked once."""
        if (name, end) not in self._cut:
            self._cut[name, end] = self._backend.cut_ago(name, end)
        return self._cut[name, end]

    def _doubt(self, place: Place) -> bool:
        """Note a rule of which it cannot be told whether it applies; whether it is taken to."""
        self.doubts[place] = None
        return place in self.assumed


def ends_of(packet: Packet) -> tuple[str, ...]:
    """The ends of the flow that a packet is part of, as a cut one is remembered."""
    found = (_end(packet, direction) for direction in CUT_DIRECTIONS)
    return tuple(each for each in found if each is not None)


def _end(packet: Packet, direction: str) -> str | None:
    if packet.protocol != TCP or packet.source_port is None or packet.destination_port is None:
        return None
    if direction == "src,src,dst":
        return f"{packet.source},tcp:{packet.source_port},{packet.destination}"
    return f"{packet.destination},tcp:{packet.destination_port},{packet.source}"


def _is_nft(match: Match) -> TypeGuard[Opaque]:
    """Whether it is a rule of nf_tables that somebody put into a chain of ours."""
    return isinstance(match, Opaque) and match.name == "nft"


def _is_unknown(match: object, packet: Packet, sets: Mapping[str, IpSet]) -> bool:
    if isinstance(match, InSet):
        return match.name not in sets or match.direction in CUT_DIRECTIONS
    if isinstance(match, Mark):
        return packet.has_mark(match.value, match.mask) is None
    if isinstance(match, MacSource):
        return packet.mac_source is None and packet.in_interface not in (None, LOOPBACK)
    return isinstance(match, Opaque)
