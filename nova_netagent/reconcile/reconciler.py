"""Make the kernel agree: one attempt, from what was compiled to what is committed.

The order is that of DESIGN: what is referred to appears before what refers to it and goes
after it. Ports leave their bridge before their rules go and join it after these are in.
"""

from collections.abc import Callable, Collection, Mapping

from nova_netagent.backend import BackendError
from nova_netagent.compile import Compiled
from nova_netagent.compile.resolve import Port
from nova_netagent.host import Host
from nova_netagent.metrics import Metrics
from nova_netagent.netfilter.rule import Ruleset
from nova_netagent.plan.links import LinkPlan
from nova_netagent.plan.neighbours import Had, Neighbours, changing, joining, leavers, newcomers, past
from nova_netagent.reconcile.frames import OwnFrames
from nova_netagent.reconcile.links import OwnLinks
from nova_netagent.reconcile.outcome import Outcome
from nova_netagent.reconcile.rules import Rules
from nova_netagent.services import DhcpPlan, plan_dhcp
from nova_netagent.settings import FirewallSettings
from nova_netagent.store import Store, StoreError

SERVERS_END = 5.0
"""Seconds that a cleanup waits for DHCP servers to end."""


class Reconciler:
    """Applies what was compiled to one host. Engine thread only.

    :param on_repair: called before rules or sets are put right that somebody else changed.
    :ivar rules: the part of the packet filter.
    :ivar links: the part of links, addresses and sysctls.
    """

    def __init__(
        self,
        firewall: FirewallSettings,
        host: Host,
        store: Store,
        metrics: Metrics,
        on_repair: Callable[[], object] = lambda: None,
    ) -> None:
        self.rules = Rules(firewall, host.rules, host.leftovers, metrics, on_repair)
        self.links = OwnLinks(host.links, store)
        self._frames = OwnFrames(host, metrics)
        self._host = host
        self._ports: Mapping[str, tuple[Port, ...]] | None = None
        self._half = Outcome()
        """What attempts did that did not come to their end: flows may have been let in before."""

    def apply(self, compiled: Compiled, *, verify: bool) -> Outcome:
        """Make the host be as compiled.

        :param verify: read everything back from the kernel instead of trusting what was
            left there, and repair it; otherwise only what changed is looked at.
        :raises RuleRefused: the kernel refused a table; the tables before it are applied.
        :raises Unavailable: the kernel cannot be reached; links may have been prepared.
        :raises TableChanged: somebody kept changing a table through every attempt.
        :raises StoreError: links cannot be noted, and are as they were, or not be struck from the notes; the rules are
            applied.
        """
        outcome = Outcome()
        try:
            self._attempt(compiled, outcome, verify=verify)
        except (BackendError, StoreError):
            self._half.add(outcome)
            raise
        outcome.add(self._half)
        self._half = Outcome()
        return outcome

    def _attempt(self, compiled: Compiled, outcome: Outcome, *, verify: bool) -> None:
        try:
            if verify:
                self.links.renew_notes()
            link_plan = self._prepare_links(compiled, outcome, verify=verify)
        except StoreError:  # no link may be made that cannot be noted; what the rules forbid is not left open for that
            self._enforce(compiled, outcome, verify=verify)
            raise
        waits = self._enforce(compiled, outcome, verify=verify)
        self._finish(compiled, link_plan, outcome, verify=verify, waits=waits)

    def _enforce(self, compiled: Compiled, outcome: Outcome, *, verify: bool) -> Collection[str]:
        """Let nobody claim more than he may; then the rules. The devices of vifs that may claim more after these."""
        ports, known = compiled.scope.resolved.ports, self._ports
        waits = self._narrow(compiled, outcome)
        gone = self._past(compiled) if known is None else leavers(known, ports)
        if gone:  # who stays at other addresses would answer for these, and nobody's groups would be asked
            self._host.links.forget(gone)
        self.rules.apply(compiled.ruleset, outcome, verify=verify, meanwhile=lambda: compiled.servers)
        return waits

    def apply_links(self, compiled: Compiled) -> Outcome:
        """Make links and addresses as desired, and what depends on those that there are; leave the rules alone.

        :raises BackendError: the frames cannot be judged as desired.
        """
        outcome = Outcome()
        link_plan = self._prepare_links(compiled, outcome, verify=False)
        self._frames.apply(compiled.frames, outcome)
        self._finish(compiled, link_plan, outcome, verify=False)
        return outcome

    def guard(self, compiled: Compiled) -> None:
        """Let nobody claim more, and nobody's ports pass nothing, where rules or links cannot be made as desired now.

        :raises BackendError: the frames cannot be judged so.
        """
        self._narrow(compiled, Outcome())

    def plan(self, compiled: Compiled) -> list[str]:
        """What ``apply`` with ``verify`` would do now, an edit a line. Changes nothing."""
        lines = self.rules.plan(compiled.ruleset)
        link_plan = self.links.plan(compiled.links, closely=True)
        lines += link_plan.lines()
        lines += self._frames.plan(compiled.frames, link_plan.remove_ports)
        lines += self._plan_servers(compiled, fresh=True).lines()
        return lines

    def remove_everything(self, skeleton: Ruleset) -> Outcome:
        """Take everything of ours out of the kernel, and nothing else.

        The packet filter that is not ours comes last: whatever hinders there, all else is gone.

        :raises BackendError: the kernel cannot be reached.
        """
        outcome = Outcome()
        link_plan = self.links.plan_removal()
        servers = DhcpPlan(remove=tuple(sorted(self._host.servers.read())))
        self._host.servers.apply(servers)
        outcome.note("dhcp", servers)
        self.links.prepare(link_plan, outcome)
        self.rules.remove(skeleton, outcome)
        self._frames.remove(outcome)
        self.links.finish(link_plan, outcome)
        self._host.servers.settle(SERVERS_END)
        self.rules.remove_leftovers(skeleton, outcome)
        return outcome

    def _narrow(self, compiled: Compiled, outcome: Outcome) -> Collection[str]:
        """Judge frames as far as that lets nothing more pass; the devices of vifs that wait for the rest of theirs."""
        known = self._ports
        claiming = () if known is None else changing(known, compiled.scope.resolved.ports)
        return self._frames.narrow(compiled.frames, claiming, outcome)

    def _prepare_links(self, compiled: Compiled, outcome: Outcome, *, verify: bool) -> LinkPlan:
        plan = self.links.plan(compiled.links, closely=verify)
        self.links.note(plan)
        self.links.prepare(plan, outcome)
        return plan

    def _finish(
        self, compiled: Compiled, link_plan: LinkPlan, outcome: Outcome, *, verify: bool, waits: Collection[str] = ()
    ) -> None:
        """What comes after the rules: links, what depends on those that there are now, and who serves on them.

        :param waits: the devices of vifs that may claim more now, and could not before the rules.
        """
        ports, comers = compiled.scope.resolved.ports, {*link_plan.add_ports, *waits}
        come = self._newcomers(ports, comers)
        asked = self._newcomers(ports, comers, pairs=True)
        if asked:
            self._host.links.refuse_waiting(asked)
        self.links.finish(link_plan, outcome)
        if verify or link_plan.join or any(kind == "uplink" for kind, _ in link_plan.forget):
            self.links.remember_uplinks(compiled.links)
        if link_plan or waits:  # ports and MACs may be others now
            self._frames.apply(compiled.frames, outcome)
        else:
            self._frames.settle(compiled.frames)
        if come:
            self._host.links.introduce(come)
        self._ports = ports
        servers = self._plan_servers(compiled, fresh=verify)
        self._host.servers.apply(servers)
        outcome.note("dhcp", servers)
        outcome.link_failures = {**self.links.problems(compiled.links), **outcome.link_failures}

    def _past(self, compiled: Compiled) -> set[Had]:
        """Who had which address before the start: whoever took it from him may have been killed just then."""
        resolved = compiled.scope.resolved
        bridges = {each.bridge for each in resolved.networks.values()}
        return past(self._host.links.known_neighbours(bridges), resolved.ports)

    def _newcomers(
        self, ports: Mapping[str, tuple[Port, ...]], comers: Collection[str], *, pairs: bool = False
    ) -> Neighbours:
        """Who has come to an address; at the start who is on no bridge yet, or may not claim all of his."""
        if self._ports is None:
            return joining(ports, comers, pairs=pairs)
        return newcomers(self._ports, ports, pairs=pairs)

    def _plan_servers(self, compiled: Compiled, *, fresh: bool) -> DhcpPlan:
        return plan_dhcp(compiled.servers, self._host.servers.read(fresh=fresh), self._host.links.read())
