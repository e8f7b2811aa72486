"""Rules and address sets: the part of an attempt that the packet filter does."""

import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from nova_netagent.backend import Backend, BackendError, RuleRefused
from nova_netagent.compile import ALL_TABLES
from nova_netagent.compile.skeleton import hooks
from nova_netagent.host import Leftovers
from nova_netagent.metrics import Metrics
from nova_netagent.model import Key, lineage
from nova_netagent.netfilter.owner import Owner
from nova_netagent.netfilter.rule import IpSet, Origin, Ruleset, Table, TableId
from nova_netagent.plan.sets import SetPlan, plan_sets
from nova_netagent.plan.tables import EncodedTable, Placement, TablePlan, in_order, plan_removal, plan_table
from nova_netagent.reconcile.attempts import persist
from nova_netagent.reconcile.outcome import Drift, Outcome
from nova_netagent.settings import FirewallSettings

LOG = logging.getLogger(__name__)

_OTHERS_LOCK_SECONDS = 1.0
"""So long a sweep waits for the lock of the packet filter that is not ours: it is tried again, and changes wait."""


class Rules:
    """Makes the tables and sets of one host be as compiled. Engine thread only.

    :param on_repair: called before what somebody else changed is put right.
    :ivar left: why rules of ours are still in the packet filter that is not ours, as far as was seen last; or empty.
    :ivar unseen: why nobody could look whether they are, when nobody could.
    """

    def __init__(
        self,
        firewall: FirewallSettings,
        backend: Backend[Any],
        leftovers: Leftovers,
        metrics: Metrics,
        on_repair: Callable[[], object],
    ) -> None:
        self.left = self.unseen = ""
        self._lock_timeout = firewall.lock_timeout
        self._owner = Owner(firewall.wrap_name)
        self._top = _pattern(firewall.iptables_top_regex)
        self._bottom = _pattern(firewall.iptables_bottom_regex)
        self._backend = backend
        self._open_leftovers = leftovers
        self._metrics = metrics
        self._on_repair = on_repair
        self._tables: dict[TableId, Table] = {}
        """What was put into the kernel last, whole."""
        self._in_doubt: dict[TableId, set[str]] = {}
        """By table that an attempt since may have changed: the chains in which it may have done so."""
        self._sets: Mapping[str, IpSet] | None = None

    def apply(
        self, ruleset: Ruleset, outcome: Outcome, *, verify: bool, meanwhile: Callable[[], object] = lambda: None
    ) -> None:
        """See ``Reconciler.apply``.

        :param meanwhile: what can be done while the kernel takes tables; called again with each attempt.
        :raises BackendError: see there.
        """
        persist(partial(self._attempt, ruleset, outcome, meanwhile), verify, self._metrics)
        if verify:
            self.sweep_leftovers(ruleset.sets, outcome)

    def check(self, ruleset: Ruleset) -> None:
        """See whether the rules can be said to this kernel at all, without saying them.

        :raises RuleRefused: they cannot.
        """
        for table in ruleset.tables.values():
            self._backend.encode(table)

    def newcomers(self, ruleset: Ruleset) -> frozenset[Key]:
        """The objects of which the kernel does not hold everything: what it refuses is of one of them."""
        with self._trial():
            set_plan = plan_sets(ruleset.sets, self._backend.read_sets(ruleset.sets), self._owner.owns_set)
            origins = {each.origin for each in set_plan.create} | {ruleset.sets[name].origin for name in set_plan.add}
            for table in ruleset.tables.values():
                encoded = self._backend.encode(table)
                new = set(self._plan_table(table, True).coming())
                origins |= {
                    origin
                    for name in table.chains
                    for key, origin in _reasons(table, encoded, name)
                    if (name, key) in new
                }
        return frozenset(origin[:2] for origin in origins if origin is not None)

    def start_over(self) -> bool:
        """See ``Backend.start_over``."""
        return self._backend.start_over()

    def plan(self, ruleset: Ruleset) -> list[str]:
        """What ``apply`` with ``verify`` would do now, an edit a line. Changes nothing."""
        with self._trial():
            set_plan = plan_sets(ruleset.sets, self._backend.read_sets(ruleset.sets), self._owner.owns_set)
            lines = [*set_plan.lines()]
            for table in _ordered(ruleset):
                lines += self._lines(self._plan_table(table, verify=True))
            for table in self._not_asked_for(ruleset):
                lines += self._lines(self._plan_removal(self._backend, table))
        return [*lines, *self._plan_leftovers()]

    def _plan_leftovers(self) -> Iterator[str]:
        try:
            with self._open_leftovers(0.0) as leftovers:
                if leftovers is None:
                    return
                for plan in self._plan_sweep(leftovers):
                    for line in self._lines(plan, leftovers):
                        yield f"left in {leftovers.name}: {line}"
                for line in plan_sets({}, leftovers.read_sets(), self._owner.owns_set).lines():
                    yield f"left in {leftovers.name}: {line}"
        except BackendError as error:
            yield f"left: {error}"

    def _plan_sweep(self, leftovers: Backend[Any]) -> Iterator[TablePlan[Any]]:
        return (self._plan_removal(leftovers, table) for table in self._in_use(leftovers, self._bare(ALL_TABLES)))

    def remove(self, skeleton: Ruleset, outcome: Outcome) -> None:
        """Take everything of ours out of the packet filter.

        :raises BackendError: the kernel cannot be reached.
        """
        self._remove_from(self._backend, skeleton.tables.values(), outcome)

    def remove_leftovers(self, skeleton: Ruleset, outcome: Outcome) -> None:
        """Take everything of ours out of the packet filter that is not ours.

        :raises BackendError: it cannot be seen, or not be reached.
        """
        with self._open_leftovers(self._lock_timeout) as leftovers:
            if leftovers is not None:
                swept = Outcome()
                self._remove_from(leftovers, skeleton.tables.values(), swept)
                outcome.note_lines("leftovers", list(swept.lines()))

    def live_chains(self, table: Table, only: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
        """The chains of a table as the kernel has them, those of ours and those we hook into.

        What a rule counted is null where it is not counted alone; ``together`` are the packets of all that
        stand with it in a set or map of the kernel.
        A rule's ``origin`` is what it is there for, a list of kind, id and part; null where it is not ours.

        :param only: the chains that are asked for; by default all.
        """
        encoded = self._backend.encode(table)
        hooks = {hook.chain for hook in table.hooks}
        counters = self._backend.counters(table.id)
        for name in counters if only is None else counters.keys() & only:
            if name in hooks or self._owner.owns_chain(name):
                policy, rules = counters[name]
                origins = dict(_reasons(table, encoded, name))
                yield {
                    "table": table.id.name,
                    "family": table.id.family,
                    "chain": name,
                    "policy": policy,
                    "rules": [
                        {
                            "packets": count.packets,
                            "bytes": count.octets,
                            "together": count.together,
                            "rule": self._backend.describe(table.id, key),
                            "origin": origins.get(key),
                            "target": self._backend.jumps_to(key),
                        }
                        for count, key in rules
                    ],
                }

    def _attempt(self, ruleset: Ruleset, outcome: Outcome, meanwhile: Callable[[], object], verify: bool) -> None:
        changed = [table for table in _ordered(ruleset) if verify or not self._stands(table)]
        if not changed and ruleset.sets is self._sets:
            return
        done = Outcome()
        try:
            with self._backend.locked():
                self._metrics.lock_wait_seconds.observe(self._backend.lock_wait)
                self._commit(ruleset, changed, done, meanwhile, verify)
        except BackendError:
            if not self._backend.atomic:
                outcome.add(done)
            raise
        outcome.add(done)

    def _commit(
        self,
        ruleset: Ruleset,
        changed: Sequence[Table],
        outcome: Outcome,
        meanwhile: Callable[[], object],
        verify: bool,
    ) -> None:
        left = self._not_asked_for(ruleset) if verify else []
        known = self._sets
        actual_sets = self._backend.read_sets(ruleset.sets) if verify or known is None else known
        self._sets = None
        set_plan = plan_sets(ruleset.sets, actual_sets, self._owner.owns_set)
        outcome.forgotten = any(each.type == "hash:ip,port,ip" for each in set_plan.create)
        for table in changed:
            self._doubt(table)

        def plan_of(table: Table) -> TablePlan[Any]:
            plan = self._plan_table(table, verify)
            if self._repairs(plan).edits:
                self._on_repair()
                outcome.drifted = True
            return plan

        def done(plan: TablePlan[Any]) -> None:
            repairs = self._repairs(plan)
            if repairs.edits:
                outcome.drift.append(Drift(repairs.counts(), partial(self._lines, repairs)))

        if set_plan and known is ruleset.sets:
            self._on_repair()
        with self._backend.transaction():
            self._backend.prepare_sets(set_plan)
            self._commit_all(changed, plan_of, outcome, self._backend, meanwhile, done)
            swept = self._sweep(left, outcome)
            self._finish_sets(set_plan, self._backend)
        self._sets = ruleset.sets
        for table in changed:
            self._count_rules(table, self._tables.get(table.id))
            self._tables[table.id] = table
        self._in_doubt.clear()
        outcome.note("set", self._carried_out(set_plan, self._backend) if verify else set_plan)
        if swept:
            names = ", ".join(str(table.id) for table in left)
            LOG.info("nothing of ours has to be in %s: swept what was left there, %d edits", names, swept)

    def _stands(self, table: Table) -> bool:
        """Whether a table is what was put into the kernel last, for all that we did."""
        known = self._tables.get(table.id)
        if table.id in self._in_doubt:
            return False
        return known is table or (known is not None and known.chains == table.chains)

    def _doubt(self, table: Table) -> None:
        """Note that a table is about to be edited: until all are in, nobody knows whether it was."""
        known = self._tables.get(table.id, table).chains
        others = lineage.changed(known, table.chains)
        edited = {name for name in others if known.get(name) != table.chains.get(name)}
        self._in_doubt[table.id] = self._in_doubt.get(table.id, set()) | edited

    def _repairs(self, plan: TablePlan[Any]) -> TablePlan[Any]:
        """The edits of chains that were right for all that we did: somebody else has changed them."""
        if plan.table not in self._tables:
            return TablePlan(plan.table, ())
        doubted = self._in_doubt[plan.table]
        return TablePlan(plan.table, tuple(edit for edit in plan.edits if edit.chain not in doubted))

    def _not_asked_for(self, ruleset: Ruleset) -> list[Table]:
        """The tables in use for which nothing is compiled, as IPv6's when it is switched off: nothing of ours stays."""
        others = (id_ for id_ in self._backend.loaded_tables() if id_ not in ruleset.tables)
        return in_order(self._bare(others))[::-1]

    def _bare(self, tables: Iterable[TableId]) -> list[Table]:
        """Tables as far as it takes to know what is ours in them."""
        return [Table(id_, {}, hooks(id_.name, self._owner)) for id_ in tables]

    def _sweep(self, tables: Sequence[Table], outcome: Outcome) -> int:
        """Take what is ours out of tables; how many edits that took."""
        before = outcome.edits.total()
        self._commit_all(tables, partial(self._plan_removal, self._backend), outcome, self._backend)
        return outcome.edits.total() - before

    @contextmanager
    def _trial(self) -> Iterator[None]:
        """See how it would be. What is encoded last is remembered: afterwards it is what stands, not what was tried."""
        with self._backend.locked():
            for table in self._tables:
                self._backend.read(table, fresh=False)
            try:
                yield
            finally:
                for compiled in self._tables.values():
                    self._backend.encode(compiled)

    def _finish_sets(self, plan: SetPlan, backend: Backend[Any]) -> None:
        try:
            backend.finish_sets(plan)
        except RuleRefused as error:
            # A foreign rule uses a set of ours: the set stays, and is tried again at each resync.
            LOG.warning("%s", error)

    def _carried_out(self, plan: SetPlan, backend: Backend[Any]) -> SetPlan:
        """A plan without the sets that are still there, as foreign rules use them."""
        if not plan.destroy:
            return plan
        there = backend.read_sets()
        return replace(plan, destroy=tuple(name for name in plan.destroy if name not in there))

    def _plan_table(self, table: Table, verify: bool) -> TablePlan[Any]:
        encoded = self._backend.encode(table)
        beside: Placement[Any] = Placement(lambda key: self._backend.describe(table.id, key), self._top, self._bottom)
        return plan_table(
            encoded,
            self._backend.read(table.id, fresh=verify),
            owns=self._owns(self._backend),
            jumps_to=self._backend.jumps_to,
            placement=None if self._backend.own_tables else beside,
            keep_position=not verify,
        )

    def _remove_from(self, backend: Backend[Any], skeleton: Iterable[Table], outcome: Outcome) -> None:
        """Take everything of ours out of a packet filter."""
        try:
            self._remove_all(backend, skeleton, outcome)
        except RuleRefused:
            if not backend.start_over():
                raise
            self._remove_all(backend, skeleton, outcome)

    def _remove_all(self, backend: Backend[Any], skeleton: Iterable[Table], outcome: Outcome) -> None:
        with backend.locked():
            with backend.transaction():
                tables = self._in_use(backend, skeleton)
                self._commit_all(tables, partial(self._plan_removal, backend), outcome, backend)
                set_plan = plan_sets({}, backend.read_sets(), self._owner.owns_set)
                self._finish_sets(set_plan, backend)
            outcome.note("set", self._carried_out(set_plan, backend))

    def _in_use(self, backend: Backend[Any], tables: Iterable[Table]) -> list[Table]:
        """Those of these tables that can hold anything, in the order in which they are emptied."""
        loaded = backend.loaded_tables()
        return [table for table in reversed(in_order(tables)) if table.id in loaded]

    def sweep_leftovers(self, sets: Mapping[str, IpSet], outcome: Outcome) -> None:
        """Our rules and these sets are in: now those go that are ours in the packet filter that is not.

        We left them there when it was, or somebody has brought them back since. First the ends of flows that were
        cut are noted here as well: there is no moment at which nobody knows them.
        """
        try:
            with self._open_leftovers(_OTHERS_LOCK_SECONDS) as leftovers:
                self.left = "" if leftovers is None else self._swept(leftovers, sets, outcome)
            self.unseen = ""
        except BackendError as error:
            self.unseen = str(error)  # what was seen last stands

    def _swept(self, leftovers: Backend[Any], sets: Mapping[str, IpSet], outcome: Outcome) -> str:
        """Why this packet filter could not be swept; empty when it was."""
        swept = Outcome()
        try:
            noted = leftovers.cut_ends()
            self._backend.note_cut({name: ends for name, ends in noted.items() if name in sets})
            # What foreign rules still need stays, emptied: nobody is kept from the lock for that again and again.
            if leftovers.read_sets() or any(plan.edits for plan in self._plan_sweep(leftovers)):
                self._remove_from(leftovers, self._bare(ALL_TABLES), swept)
        except BackendError as error:
            return f"what is left of ours in {leftovers.name} is swept later, and refuses what it refused: {error}"
        if swept:
            done = f"swept what was left of ours in {leftovers.name}: {swept.edits.total()} edits"
            LOG.info("%s", done)
            outcome.note_lines("leftovers", [done])
        return ""

    def _plan_removal(self, backend: Backend[Any], table: Table) -> TablePlan[Any]:
        actual = backend.read(table.id, fresh=True)
        return plan_removal(backend.encode(table), actual, owns=self._owns(backend), jumps_to=backend.jumps_to)

    def _owns(self, backend: Backend[Any]) -> Callable[[str], bool]:
        """Tells whether a chain is ours, by its name."""
        return self._owner.owns_in_own_table if backend.own_tables else self._owner.owns_chain

    def _commit_all(
        self,
        tables: Sequence[Table],
        plan_of: Callable[[Table], TablePlan[Any]],
        outcome: Outcome,
        backend: Backend[Any],
        meanwhile: Callable[[], object] = lambda: None,
        done: Callable[[TablePlan[Any]], object] = lambda plan: None,
    ) -> None:
        """Commit one table after the other. The next one is planned while the kernel takes the one before.

        :param done: called with each plan that was carried out.
        """
        began = time.perf_counter()
        for number, table in enumerate(tables, 1):
            plan = plan_of(table)
            if number == len(tables):
                meanwhile()
            backend.apply(plan, partial(self._count, plan, outcome, backend, done), more=number < len(tables))
            now = time.perf_counter()
            self._metrics.apply_seconds.labels(str(plan.table), backend.name).observe(now - began)
            began = now
        backend.settle()

    def _count(
        self, plan: TablePlan[Any], outcome: Outcome, backend: Backend[Any], done: Callable[[TablePlan[Any]], object]
    ) -> None:
        """A plan was carried out."""
        done(plan)
        self._metrics.applies_total.labels(str(plan.table), backend.name).inc()
        outcome.edits += plan.counts()
        outcome.plans.append(partial(self._lines, plan, backend))

    def _count_rules(self, table: Table, before: Table | None) -> None:
        labels = (str(table.id.family), table.id.name)
        self._metrics.chains.labels(*labels).set(len(table.chains))
        if before is None:
            self._metrics.rules.labels(*labels).set(sum(len(chain.rules) for chain in table.chains.values()))
        else:
            others = lineage.changed(before.chains, table.chains)
            come = sum(len(table.chains[name].rules) for name in others if name in table.chains)
            gone = sum(len(before.chains[name].rules) for name in others if name in before.chains)
            self._metrics.rules.labels(*labels).inc(come - gone)

    def _lines(self, plan: TablePlan[Any], backend: Backend[Any] | None = None) -> Iterator[str]:
        describe = (backend or self._backend).describe
        return plan.lines(lambda key: describe(plan.table, key))


def _reasons(table: Table, encoded: EncodedTable[Any], chain: str) -> Iterator[tuple[Any, Origin | None]]:
    """Each key of a chain of ours with what it is there for; nothing where the chain is not described."""
    if chain in table.chains:
        yield from zip(encoded.chains[chain], table.chains[chain].origins(), strict=True)


def _ordered(ruleset: Ruleset) -> list[Table]:
    return in_order(ruleset.tables.values())


def _pattern(text: str) -> re.Pattern[str] | None:
    return re.compile(text) if text else None
