"""Make the kernel agree: one attempt, from what was compiled to what is committed.

The order is that of DESIGN: what is referred to appears before what refers to it and goes
after it. Ports leave their bridge before their rules go and join it after these are in.
"""

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nova_netagent.backend import Backend, BackendError, RuleRefused, TableChanged
from nova_netagent.backend.links.protocol import LinksFailed
from nova_netagent.compile import ALL_TABLES, Compiled
from nova_netagent.compile.frames import WantedFrames
from nova_netagent.compile.links import Links
from nova_netagent.compile.resolve import Port
from nova_netagent.compile.skeleton import hooks
from nova_netagent.host import Host
from nova_netagent.metrics import Metrics
from nova_netagent.model import Key, lineage
from nova_netagent.netfilter.frames import Frames
from nova_netagent.netfilter.owner import Owner
from nova_netagent.netfilter.rule import IpSet, Ruleset, Table, TableId
from nova_netagent.plan.frames import frames_on
from nova_netagent.plan.links import (
    FORWARD_IPV6,
    ActualLinks,
    LinkPlan,
    not_bridges,
    plan_links,
    questions,
    uplink_problems,
)
from nova_netagent.plan.links import plan_removal as plan_links_removal
from nova_netagent.plan.neighbours import newcomers
from nova_netagent.plan.sets import SetPlan, plan_sets
from nova_netagent.plan.tables import Placement, TablePlan, plan_removal, plan_table
from nova_netagent.services import DhcpPlan, plan_dhcp
from nova_netagent.settings import FirewallSettings
from nova_netagent.store import Store

LOG = logging.getLogger(__name__)

ATTEMPTS = 6
"""How often a table is read anew when somebody keeps changing it."""

SERVERS_END = 5.0
"""Seconds that a cleanup waits for DHCP servers to end."""

_TABLE_ORDER = ("raw", "mangle", "filter", "nat")
"""Deny before allow: what proves and refuses comes before what rewrites."""


@dataclass
class Outcome:
    """What an attempt did."""

    edits: Counter[str] = field(default_factory=Counter)
    plans: list[Callable[[], Iterable[str]]] = field(default_factory=list)
    """What was carried out, each to be read by people when somebody asks."""
    link_failures: dict[str, str] = field(default_factory=dict)
    """By the link concerned, why its edits failed."""
    links_again: int = 0
    """How many links, addresses and sysctls had been made before, and undone by somebody."""

    def __bool__(self) -> bool:
        return bool(self.edits)

    def add(self, part: "Outcome") -> None:
        """What a part of the attempt did to the rules."""
        self.edits += part.edits
        self.plans += part.plans

    @property
    def rules(self) -> bool:
        """Whether rules or sets were edited."""
        return bool(self.edits.keys() & {"insert", "delete", "addchain", "removechain", "set"})

    def lines(self) -> Iterator[str]:
        """What was done, an edit a line."""
        return (line for plan in self.plans for line in plan())


class Reconciler:
    """Applies what was compiled to one host. Engine thread only."""

    def __init__(self, firewall: FirewallSettings, host: Host, store: Store, metrics: Metrics) -> None:
        self._owner = Owner(firewall.wrap_name)
        self._top = _pattern(firewall.iptables_top_regex)
        self._bottom = _pattern(firewall.iptables_bottom_regex)
        self._backend = host.rules
        self._leftovers = host.leftovers
        self._links = host.links
        self._frames = host.frames
        self._servers = host.servers
        self._store = store
        self._metrics = metrics
        self._made = dict(store.made())
        self._tables: dict[TableId, Table] = {}
        self._sets: Mapping[str, IpSet] | None = None
        self._ports: Mapping[str, tuple[Port, ...]] | None = None
        self._settled: tuple[Links, ActualLinks, LinkPlan] | None = None
        """The links for which there was nothing to do when they were looked at last, and the plan that says so."""
        self._frames_on: tuple[WantedFrames, ActualLinks, Frames] | None = None

    def host_addresses(self) -> Mapping[str, str]:
        """The host's addresses, each with its interface."""
        return {cidr.partition("/")[0]: device for device, cidr in self._links.read().addresses}

    def noted_addresses(self) -> frozenset[str]:
        """The addresses that we gave to the host."""
        return frozenset(name.split()[1].partition("/")[0] for kind, name in self._made if kind == "address")

    def foreign_addresses(self) -> frozenset[str]:
        """The IPv4 and IPv6 addresses that the host has without us."""
        return frozenset(
            cidr.partition("/")[0]
            for device, cidr in self._links.read().addresses
            if ("address", f"{device} {cidr}") not in self._made
        )

    def apply(self, compiled: Compiled, *, verify: bool) -> Outcome:
        """Make the host be as compiled.

        :param verify: read everything back from the kernel instead of trusting what was
            left there, and repair it; otherwise only what changed is looked at.
        :raises RuleRefused: the kernel refused a table; the tables before it are applied.
        :raises Unavailable: the kernel cannot be reached; links may have been prepared.
        :raises TableChanged: somebody kept changing a table through every attempt.
        """
        outcome = Outcome()
        if verify:
            self._renew_notes()
        link_plan = self._plan_links(compiled.links, closely=verify)
        self._note_made(link_plan)
        self._edit_links(link_plan, outcome, before=True)
        self._apply_frames(compiled, outcome)
        self._persist(partial(self._apply_rules, compiled.ruleset, outcome), verify)
        if verify:
            self._sweep_leftovers()
        self._finish(compiled, link_plan, outcome, verify)
        return outcome

    def apply_links(self, compiled: Compiled) -> Outcome:
        """Make links and addresses as desired, and what depends on those that there are; leave the rules alone.

        :raises BackendError: the frames cannot be judged as desired.
        """
        outcome = Outcome()
        link_plan = self._plan_links(compiled.links)
        self._note_made(link_plan)
        self._edit_links(link_plan, outcome, before=True)
        outcome.links_again = len(link_plan.again)
        self._apply_frames(compiled, outcome)
        self._finish(compiled, link_plan, outcome, False)
        return outcome

    def check(self, compiled: Compiled) -> None:
        """See whether what was compiled can be said to this kernel at all, without saying it.

        :raises RuleRefused: it cannot.
        """
        for table in compiled.ruleset.tables.values():
            self._backend.encode(table)

    def newcomers(self, compiled: Compiled) -> frozenset[Key]:
        """The objects of which the kernel does not hold everything: what it refuses is of one of them."""
        ruleset = compiled.ruleset
        with self._backend.locked():
            set_plan = plan_sets(ruleset.sets, self._backend.read_sets(), self._owner.owns_set)
            origins = {each.origin for each in set_plan.create} | {ruleset.sets[name].origin for name in set_plan.add}
            for table in ruleset.tables.values():
                encoded = self._backend.encode(table)
                new = set(self._plan_table(table, True).coming())
                origins |= {
                    origin
                    for name, chain in table.chains.items()
                    for key, origin in zip(encoded.chains[name], chain.origins(), strict=True)
                    if (name, key) in new
                }
        return frozenset(origin[:2] for origin in origins if origin is not None)

    def plan(self, compiled: Compiled) -> list[str]:
        """What ``apply`` with ``verify`` would do now, an edit a line. Changes nothing."""
        lines: list[str] = []
        with self._backend.locked():
            set_plan = plan_sets(compiled.ruleset.sets, self._backend.read_sets(), self._owner.owns_set)
            lines += set_plan.lines()
            for table in _ordered(compiled.ruleset):
                lines += self._lines(self._plan_table(table, verify=True))
        lines += self._plan_links(compiled.links, closely=True).lines()
        if self._frames is not None:
            lines += self._frames.plan(frames_on(compiled.frames, self._links.read()))
        lines += self._plan_servers(compiled, fresh=True).lines()
        return lines

    def remove_everything(self, skeleton: Ruleset) -> Outcome:
        """Take everything of ours out of the kernel, and nothing else.

        :raises Unavailable: the kernel cannot be reached.
        """
        outcome = Outcome()
        sysctls = self._links.read_sysctls(name for kind, name in self._made if kind == "sysctl")
        link_plan = plan_links_removal(self._links.read(), self._made, sysctls)
        servers = DhcpPlan(remove=tuple(sorted(self._servers.read())))
        self._servers.apply(servers)
        self._count_servers(servers, outcome)
        self._edit_links(link_plan, outcome, before=True)
        if self._leftovers is not None:
            self._remove_rules(self._leftovers, skeleton.tables.values(), outcome)
        self._remove_rules(self._backend, skeleton.tables.values(), outcome)
        if self._frames is not None:
            self._count_frames(self._frames.remove(), outcome)
        self._edit_links(link_plan, outcome, before=False)
        self._forget_made(link_plan, outcome)
        self._servers.settle(SERVERS_END)
        return outcome

    def live_chains(self, table: Table) -> Iterator[dict[str, object]]:
        """The chains of a table as the kernel has them, those of ours and those we hook into.

        A rule's ``origin`` is what it is there for, a list of kind, id and part; null where it is not ours.
        """
        encoded = self._backend.encode(table)
        origins = {
            (name, key): origin
            for name, chain in table.chains.items()
            for key, origin in zip(encoded.chains[name], chain.origins(), strict=True)
        }
        hooks = {hook.chain for hook in table.hooks}
        for name, (policy, rules) in self._backend.counters(table.id).items():
            if name in hooks or self._owner.owns_chain(name):
                yield {
                    "table": table.id.name,
                    "family": table.id.family,
                    "chain": name,
                    "policy": policy,
                    "rules": [
                        {
                            "packets": packets,
                            "bytes": size,
                            "rule": self._backend.describe(table.id, key),
                            "origin": origins.get((name, key)),
                            "target": self._backend.jumps_to(key),
                        }
                        for packets, size, key in rules
                    ],
                }

    def _finish(self, compiled: Compiled, link_plan: LinkPlan, outcome: Outcome, verify: bool) -> None:
        """What comes after the rules: links, what depends on those that there are now, and who serves on them."""
        self._edit_links(link_plan, outcome, before=False)
        self._forget_made(link_plan, outcome)
        self._remember_uplinks(compiled.links, link_plan, verify)
        if link_plan:  # ports and MACs may be others now
            self._apply_frames(compiled, outcome)
        self._introduce(compiled.scope.resolved.ports)
        servers = self._plan_servers(compiled, fresh=verify)
        self._servers.apply(servers)
        self._count_servers(servers, outcome)
        outcome.link_failures = {**link_problems(compiled.links, self._links.read()), **outcome.link_failures}

    def _introduce(self, ports: Mapping[str, tuple[Port, ...]]) -> None:
        """The host is told who has come to an address; at the start everybody may have been there before."""
        if self._ports is not None and (now := newcomers(self._ports, ports)):
            self._links.introduce(now)
        self._ports = ports

    def _persist(self, apply: Callable[[bool], None], verify: bool) -> None:
        """Apply, and again when somebody changed a table in between: then everything is read anew.

        :raises TableChanged: somebody kept doing so through every attempt.
        """
        for attempt in range(ATTEMPTS):
            try:
                apply(verify or attempt > 0)
                return
            except TableChanged:
                self._metrics.apply_retries_total.inc()
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(0.001 * 2**attempt)

    # --- frames and servers

    def _apply_frames(self, compiled: Compiled, outcome: Outcome) -> None:
        frames = self._frames
        if frames is not None:
            # The kernel counts its changes: nothing has to be read back to be sure.
            self._persist(
                lambda _: self._count_frames(frames.apply(self._frames_here(compiled.frames)), outcome), False
            )

    def _frames_here(self, wanted: WantedFrames) -> Frames:
        """The frames that this host shall pass: the same object as long as it is of the same."""
        actual, known = self._links.read(), self._frames_on
        if known is None or known[0] is not wanted or known[1] is not actual:
            self._frames_on = known = wanted, actual, frames_on(wanted, actual)
        return known[2]

    def _count_frames(self, lines: list[str], outcome: Outcome) -> None:
        if lines:
            outcome.edits["frames"] += 1
            outcome.plans.append(lambda: lines)

    def _plan_servers(self, compiled: Compiled, *, fresh: bool) -> DhcpPlan:
        return plan_dhcp(compiled.servers, self._servers.read(fresh=fresh), self._links.read())

    def _count_servers(self, plan: DhcpPlan, outcome: Outcome) -> None:
        if plan:
            outcome.edits["dhcp"] += 1
            outcome.plans.append(plan.lines)

    # --- rules

    def _apply_rules(self, ruleset: Ruleset, outcome: Outcome, verify: bool) -> None:
        changed = [table for table in _ordered(ruleset) if verify or not _same(self._tables.get(table.id), table)]
        if not changed and ruleset.sets is self._sets:
            return
        done = Outcome()
        try:
            with self._backend.locked():
                self._metrics.lock_wait_seconds.observe(self._backend.lock_wait)
                self._commit_rules(ruleset, changed, done, verify)
        except BackendError:
            if not self._backend.atomic:
                outcome.add(done)
            raise
        outcome.add(done)

    def _commit_rules(self, ruleset: Ruleset, changed: Sequence[Table], outcome: Outcome, verify: bool) -> None:
        known = self._sets
        actual_sets = self._backend.read_sets() if verify or known is None else known
        self._sets = None
        set_plan = plan_sets(ruleset.sets, actual_sets, self._owner.owns_set)
        before = {table.id: self._tables.pop(table.id, None) for table in changed}
        with self._backend.transaction():
            self._backend.prepare_sets(set_plan)
            self._commit_all((self._plan_table(table, verify) for table in changed), outcome, self._backend)
            self._finish_sets(set_plan)
        self._sets = ruleset.sets
        for table in changed:
            self._tables[table.id] = table
            self._count_rules(table, before[table.id])
        self._count_sets(set_plan, outcome)

    def _finish_sets(self, plan: SetPlan, backend: Backend[Any] | None = None) -> None:
        try:
            (backend or self._backend).finish_sets(plan)
        except RuleRefused as error:
            # A foreign rule uses a set of ours: the set stays, and is tried again at each resync.
            LOG.warning("%s", error)

    def _plan_table(self, table: Table, verify: bool) -> TablePlan[Any]:
        encoded = self._backend.encode(table)
        return plan_table(
            encoded,
            self._backend.read(table.id, fresh=verify),
            owns=self._owner.owns_chain,
            jumps_to=self._backend.jumps_to,
            placement=Placement(lambda key: self._backend.describe(table.id, key), self._top, self._bottom),
            keep_position=not verify,
        )

    def _remove_rules(self, backend: Backend[Any], skeleton: Iterable[Table], outcome: Outcome) -> None:
        """Take everything of ours out of a packet filter."""
        with backend.locked(), backend.transaction():
            loaded = backend.loaded_tables()
            plans = (
                plan_removal(
                    backend.encode(table),
                    backend.read(table.id, fresh=True),
                    owns=self._owner.owns_chain,
                    jumps_to=backend.jumps_to,
                )
                for table in reversed(_in_order(skeleton))
                if table.id in loaded
            )
            self._commit_all(plans, outcome, backend)
            set_plan = plan_sets({}, backend.read_sets(), self._owner.owns_set)
            self._finish_sets(set_plan, backend)
            outcome.plans.append(set_plan.lines)

    def _sweep_leftovers(self) -> None:
        """Our rules are in: now those go that we left in the other packet filter when it was ours."""
        if self._leftovers is None:
            return
        swept = Outcome()
        tables = (Table(id_, {}, hooks(id_.name, self._owner)) for id_ in ALL_TABLES)
        try:
            self._remove_rules(self._leftovers, tables, swept)
        except BackendError as error:
            LOG.warning("what is left of ours in %s is swept later: %s", self._leftovers.name, error)
            return
        LOG.info("swept what was left of ours in %s: %d edits", self._leftovers.name, swept.edits.total())
        self._leftovers = None

    def _commit_all(self, plans: Iterable[TablePlan[Any]], outcome: Outcome, backend: Backend[Any]) -> None:
        """Commit one table after the other. The next one is planned while the kernel takes the one before."""
        began = time.perf_counter()
        for plan in plans:
            backend.apply(plan, partial(self._count, plan, outcome, backend))
            now = time.perf_counter()
            self._metrics.apply_seconds.labels(str(plan.table), backend.name).observe(now - began)
            began = now
        backend.settle()

    def _count(self, plan: TablePlan[Any], outcome: Outcome, backend: Backend[Any]) -> None:
        """A plan was carried out."""
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

    def _count_sets(self, plan: SetPlan, outcome: Outcome) -> None:
        if plan:
            outcome.edits["set"] += 1
            outcome.plans.append(plan.lines)

    # --- links

    def _plan_links(self, desired: Links, *, closely: bool = False) -> LinkPlan:
        """:param closely: see as well whether somebody's routes lead by an uplink, whose bridge should have them."""
        actual, known = self._links.read(), self._settled
        if known is not None and not closely and known[0] is desired and known[1] is actual:
            return known[2]
        forwarding = self._links.read_sysctls((FORWARD_IPV6,)).get(FORWARD_IPV6) == "1"
        asked = questions(desired, actual, self._made, forwarding=forwarding, closely=closely)
        sysctls, held = self._links.read_sysctls(asked.sysctls), self._links.held(asked.held)
        plan = plan_links(desired, actual, self._made, sysctls, held)
        self._settled = None if plan or plan.make or plan.forget else (desired, actual, plan)
        return plan

    def _edit_links(self, plan: LinkPlan, outcome: Outcome, *, before: bool) -> None:
        if not plan:
            return
        try:
            if before:
                self._links.prepare(plan)
            else:
                self._links.finish(plan)
        except LinksFailed as error:
            outcome.link_failures |= error.reasons
        if not before:
            outcome.edits["link"] += 1
            outcome.plans.append(plan.lines)

    def _note_made(self, plan: LinkPlan) -> None:
        self._store.note_made(plan.make)
        self._made |= plan.make

    def _renew_notes(self) -> None:
        """Note again what was struck from the store beside us, by a cleanup."""
        noted = self._store.made()
        self._store.note_made({thing: found for thing, found in self._made.items() if thing not in noted})

    def _forget_made(self, plan: LinkPlan, outcome: Outcome) -> None:
        """Strike out what is gone; what could not be undone stays noted, and is tried again."""
        gone = [thing for thing in plan.forget if not outcome.link_failures.keys() & set(thing[1].split(" "))]
        self._store.forget_made(gone)
        for thing in gone:
            self._made.pop(thing, None)

    def _remember_uplinks(self, links: Links, plan: LinkPlan, verify: bool) -> None:
        """Have it known what the bridges of our uplinks hold for the host, as often as that is looked at."""
        if verify or plan.join or any(kind == "uplink" for kind, _ in plan.forget):
            ours = {bridge: set[str]() for device, bridge in links.uplinks.items() if self._is_joined(device, bridge)}
            for each in links.addresses:
                ours.get(each.interface, set()).add(each.cidr)
            self._links.remember(ours)

    def _is_joined(self, device: str, bridge: str) -> bool:
        return ("uplink", f"{device} {bridge}") in self._made


def link_problems(desired: Links, actual: ActualLinks) -> Mapping[str, str]:
    """By link why it cannot be had: an interface is not there, or what should be a bridge is none."""
    missing = {each.interface for each in desired.addresses if each.interface not in actual.links}
    return {
        **dict.fromkeys(sorted(missing), "there is no such interface"),
        **uplink_problems(desired, actual),
        **dict.fromkeys(not_bridges(desired, actual), "there is a link of this name that is not a bridge"),
    }


def _ordered(ruleset: Ruleset) -> list[Table]:
    return _in_order(ruleset.tables.values())


def _in_order(tables: Iterable[Table]) -> list[Table]:
    def rank(table: Table) -> tuple[int, int]:
        return _TABLE_ORDER.index(table.id.name), table.id.family

    return sorted(tables, key=rank)


def _same(known: Table | None, table: Table) -> bool:
    return known is table or (known is not None and known.chains == table.chains)


def _pattern(text: str) -> re.Pattern[str] | None:
    return re.compile(text) if text else None
