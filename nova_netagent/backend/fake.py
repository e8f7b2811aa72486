"""A packet filter in memory, as strict as the kernel: for tests, and for looking at what would happen."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from msgspec.structs import replace

from nova_netagent.backend import NO_SETS, Count, RuleRefused, TableChanged, Unavailable
from nova_netagent.backend.refusals import name_refusal, refusal, unspeakable
from nova_netagent.netfilter.rule import FAMILIES, Chain, Family, InSet, IpSet, Jump, Rule, Table, TableId
from nova_netagent.netfilter.text import BUILTIN_CHAINS, rule_text
from nova_netagent.plan.sets import SetPlan
from nova_netagent.plan.tables import AddChain, Delete, EncodedHook, EncodedTable, Fill, Insert, RemoveChain, TablePlan

Rules = tuple[Rule, ...]

ALL_TABLES = tuple(TableId(family, name) for family in FAMILIES for name in BUILTIN_CHAINS)


@dataclass(frozen=True)
class _Seen:
    """A table as it was read or committed last."""

    chains: Mapping[str, Rules]

    @property
    def outline(self) -> tuple[int, int]:
        """What a cheap look shows: changes of the same size stay unseen, as in the kernel."""
        return len(self.chains), sum(map(len, self.chains.values()))


class FakeBackend:
    """The ``Backend`` protocol without a kernel; keys are rules without their origin.

    It refuses what the kernel refuses and commits a table whole or not at all.
    """

    name = "fake"
    atomic = False
    own_tables = False
    lead = 0

    def __init__(
        self, tables: Sequence[TableId] = ALL_TABLES, owns_set: Callable[[str], bool] = lambda name: True
    ) -> None:
        self.chains: dict[TableId, dict[str, Rules]] = {
            table: dict.fromkeys(BUILTIN_CHAINS[table.name], ()) for table in tables
        }
        """What "the kernel" holds: everybody's rules."""
        self.sets: dict[str, IpSet] = {}
        """Everybody's sets."""
        self.cut: dict[str, set[str]] = {}
        """By set, the ends of flows that were cut."""
        self.commits = 0
        """How many plans were committed."""
        self.refuse: Callable[[Rule], bool] = lambda rule: False
        """A fault: rules that the kernel refuses, for whatever reason."""
        self.unavailable = 0
        """A fault: how many times more the lock cannot be had."""
        self.before_commit: Callable[[TableId], None] = lambda table: None
        """A fault: what another program does just before a commit of ours."""
        self.lock_wait = 0.0
        self._owns_set = owns_set
        self._held = False
        self._seen: dict[TableId, _Seen] = {}
        self._encoded: dict[TableId, dict[str, tuple[Chain, Rules]]] = {}

    def close(self) -> None:
        """Nothing to close."""

    def change(self, table: TableId, chain: str, rules: Sequence[Rule] | None) -> None:
        """What another program does: make a chain hold these rules, or with ``None`` remove it."""
        if rules is None:
            del self.chains[table][chain]
        else:
            self.chains[table][chain] = tuple(map(_key, rules))

    def see_with(self, families: Collection[Family]) -> str:
        """Where our rules are."""
        return f"FakeBackend.chains of {families}"

    def tables(self, families: Iterable[Family] = FAMILIES) -> list[TableId]:
        """The tables that "the kernel" has."""
        return [table for table in self.chains if table.family in set(families)]

    def loaded_tables(self) -> list[TableId]:
        """Every table is loaded."""
        return self.tables()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock. :raises Unavailable: as often as ``unavailable`` says."""
        if self._held:
            yield
            return
        if self.unavailable:
            self.unavailable -= 1
            raise Unavailable("the lock was not free in time")
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def meddled(self) -> bool:
        """Nobody is told."""
        return False

    def start_over(self) -> bool:
        """Tables are not ours alone."""
        return False

    def transaction(self) -> AbstractContextManager[None]:
        """Each table is committed as it is applied."""
        return nullcontext()

    def encode(self, table: Table) -> EncodedTable[Rule]:
        """A table's rules without their origins.

        :raises RuleRefused: a rule or a name that no kernel takes.
        """
        before = self._encoded.get(table.id, {})
        encoded = {}
        for name, chain in table.chains.items():
            known = before.get(name)
            same = known is not None and known[0] is chain
            encoded[name] = known if known is not None and same else (chain, _keys(table.id, name, chain.rules))
        self._encoded[table.id] = encoded
        hooks = tuple(
            EncodedHook(hook.chain, _keys(table.id, hook.chain, hook.rules), hook.shared) for hook in table.hooks
        )
        return EncodedTable(table.id, {name: keys for name, (_, keys) in encoded.items()}, hooks)

    def read(self, table: TableId, *, fresh: bool) -> Mapping[str, Rules]:
        """Every chain of a table; unless ``fresh`` a change of the same size is not seen.

        :raises Unavailable: there is no such table.
        """
        if table not in self.chains:
            raise Unavailable(f"{table}: the kernel does not give the table")
        seen = self._seen.get(table)
        now = _Seen(dict(self.chains[table]))
        if seen is None or fresh or seen.outline != now.outline:
            self._seen[table] = seen = now
        return seen.chains

    def apply(self, plan: TablePlan[Rule], done: Callable[[], object] = lambda: None, *, more: bool = False) -> None:
        """Commit a table's edits, all or none.

        :raises TableChanged: the table is not what the plan was made from.
        :raises RuleRefused: the kernel refuses the result, or an edit does not fit.
        :raises Unavailable: the lock cannot be had.
        """
        if not plan.edits:
            return
        with self.locked():
            seen = self._seen.pop(plan.table, None)
            self.before_commit(plan.table)
            if seen is None or seen.outline != _Seen(self.chains[plan.table]).outline:
                raise TableChanged(f"{plan.table} was changed by another program, or never read")
            chains = self._edited(plan, seen)
            self._judge(plan, chains)
            self.chains[plan.table] = chains
            self._seen[plan.table] = _Seen(dict(chains))
            self.commits += 1
        done()

    def settle(self) -> None:
        """Nothing: it is there already."""

    def read_sets(self, wanted: Mapping[str, IpSet] = NO_SETS) -> dict[str, IpSet]:
        """The sets that are ours by name."""
        return {name: each for name, each in self.sets.items() if self._owns_set(name)}

    def prepare_sets(self, plan: SetPlan) -> None:
        """Make new sets and add members.

        :raises RuleRefused: the name is taken by a set in use, or a member is of the other family.
        :raises TableChanged: a set is gone.
        """
        for each in plan.create:
            if each.name in self.sets and self._uses(each.name):
                raise RuleRefused(f"the set {each.name} is there already, and in use")
            self._put(each.name, replace(each, origin=None))
        for name, members in plan.add.items():
            old = self._set(name)
            self._put(name, replace(old, members=old.members | members))

    def finish_sets(self, plan: SetPlan) -> None:
        """Take members and sets away; a set in use does not keep the others.

        :raises RuleRefused: a set that must go is in use.
        :raises TableChanged: a set that must lose members is gone.
        """
        for name, members in plan.remove.items():
            old = self._set(name)
            self._put(name, replace(old, members=old.members - members))
        in_use = [name for name in plan.destroy if self._uses(name)]
        for name in plan.destroy:
            if name not in in_use:
                self.sets.pop(name, None)
                self.cut.pop(name, None)
        if in_use:
            raise RuleRefused(f"cannot remove the set {', '.join(in_use)}: it is in use")

    def note_cut(self, ends: Mapping[str, Collection[str]]) -> None:
        """Remember ends of flows that were cut. :raises TableChanged: a set is gone."""
        for name, members in ends.items():
            if self._set(name).type != "hash:ip,port,ip":
                raise RuleRefused(f"the set {name} is of another type")
            self.cut.setdefault(name, set()).update(members)

    def cut_ends(self) -> dict[str, set[str]]:
        """The ends that are noted, by the set."""
        sets = (name for name, each in self.read_sets().items() if each.type == "hash:ip,port,ip")
        return {name: set(self.cut.get(name, ())) for name in sets}

    def cut_ago(self, name: str, end: str) -> float | None:
        """How long ago a flow with this end was cut: just now."""
        return 0.0 if end in self.cut.get(name, ()) else None

    def describe(self, table: TableId, key: Rule) -> str:
        """A rule as iptables-save writes it."""
        return rule_text(key, table.family)

    def parse(self, table: TableId, key: Rule) -> Rule:
        """The rule itself."""
        return key

    def traced(self, family: Family, chain: str, handle: int) -> None:
        """Nothing: our rules are not in nf_tables."""

    def jumps_to(self, key: Rule) -> str | None:
        """The chain that a rule jumps or goes to."""
        return key.target.chain if isinstance(key.target, Jump) else None

    def counters(self, table: TableId) -> dict[str, tuple[str | None, tuple[tuple[Count, Rule], ...]]]:
        """A table with counters and policies, as a kernel that never saw a packet has them."""
        builtin = BUILTIN_CHAINS[table.name]
        return {
            name: ("ACCEPT" if name in builtin else None, tuple((Count(0, 0), key) for key in keys))
            for name, keys in self.chains[table].items()
        }

    def _edited(self, plan: TablePlan[Rule], seen: _Seen) -> dict[str, Rules]:
        """The table's chains after the plan; chains that it removes go at the end."""
        chains = {name: list(rules) for name, rules in self.chains[plan.table].items()}
        for edit in plan.edits:
            if list(seen.chains.get(edit.chain, ())) != list(self.chains[plan.table].get(edit.chain, ())):
                raise TableChanged(f"{plan.table}: the chain {edit.chain} was changed by another program")
        going = []
        for edit in plan.edits:
            if (edit.chain in chains) == isinstance(edit, AddChain):
                raise RuleRefused(f"{plan.table}: {edit} does not fit")
            match edit:
                case AddChain(chain):
                    chains[chain] = []
                case RemoveChain(chain, flush_only):
                    chains[chain].clear()
                    going += [] if flush_only else [chain]
                case Fill(chain, keys):
                    if chains[chain]:
                        raise RuleRefused(f"{plan.table}: the chain {chain} is not empty")
                    chains[chain] = list(keys)
                case Insert(chain, index, key):
                    _insert(plan, chains, chain, index, key)
                case Delete(chain, index, key):
                    _delete(plan, chains[chain], index, key)
        for chain in going:
            if chains.pop(chain) or chain in BUILTIN_CHAINS[plan.table.name]:
                raise RuleRefused(f"{plan.table}: cannot remove the chain {chain}")
        return {name: self._same_object(plan.table, name, tuple(rules)) for name, rules in chains.items()}

    def _same_object(self, table: TableId, name: str, rules: Rules) -> Rules:
        candidates = (self.chains[table].get(name), self._encoded.get(table, {}).get(name, (None, None))[1])
        return next((each for each in candidates if each is not None and each == rules), rules)

    def _judge(self, plan: TablePlan[Rule], chains: Mapping[str, Rules]) -> None:
        for chain, key in plan.coming():
            if self.refuse(key):
                raise RuleRefused(f"{plan.table}: the kernel refused the table: {key} in {chain}")
        for edit in plan.edits:
            if isinstance(edit, AddChain) and (reason := name_refusal(edit.chain)):
                raise RuleRefused(f"{plan.table}: {reason}")
        reason = refusal(plan.table, chains, self.sets)
        if reason is not None:
            raise RuleRefused(f"{plan.table}: the kernel refused the table: {reason}")

    def _set(self, name: str) -> IpSet:
        if name not in self.sets:
            raise TableChanged(f"there is no set {name}")
        return self.sets[name]

    def _put(self, name: str, each: IpSet) -> None:
        if any((":" in member) != (each.family == 6) for member in each.members):
            raise RuleRefused(f"the set {name} is of the family IPv{each.family}")
        self.sets[name] = each

    def _uses(self, name: str) -> bool:
        return any(
            isinstance(match, InSet) and match.name == name
            for chains in self.chains.values()
            for rules in chains.values()
            for rule in rules
            for match in rule.matches
        )


def _key(rule: Rule) -> Rule:
    return rule if rule.origin is None else replace(rule, origin=None)


def _keys(table: TableId, chain: str, rules: Sequence[Rule]) -> Rules:
    reason = name_refusal(chain) or next(filter(None, (unspeakable(rule, table) for rule in rules)), None)
    if reason is not None:
        raise RuleRefused(f"{table}: a rule of {chain} cannot be: {reason}")
    return tuple(map(_key, rules))


def _insert(plan: TablePlan[Rule], chains: dict[str, list[Rule]], chain: str, index: int, key: Rule) -> None:
    if index > len(chains[chain]):
        raise RuleRefused(f"{plan.table}: there is no place {index + 1} in {chain}")
    if isinstance(key.target, Jump) and key.target.chain not in chains:
        raise RuleRefused(f"{plan.table}: there is no chain {key.target.chain} to jump to")
    chains[chain].insert(index, key)


def _delete(plan: TablePlan[Rule], rules: list[Rule], index: int, key: Rule) -> None:
    if index >= len(rules):
        raise RuleRefused(f"{plan.table}: there is no place {index + 1} in the chain")
    if rules[index] != key:
        raise TableChanged(f"{plan.table}: another rule than was planned stands at {index + 1}")
    del rules[index]
