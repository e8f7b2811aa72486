"""Make the kernel agree: one attempt, from what was compiled to what is committed.

The order is that of DESIGN: what is referred to appears before what refers to it and goes
after it. Ports leave their bridge before their rules go and join it after these are in.
"""

from collections.abc import Callable, Mapping

from nova_netagent.compile import Compiled
from nova_netagent.compile.frames import WantedFrames
from nova_netagent.compile.resolve import Port
from nova_netagent.host import Host
from nova_netagent.metrics import Metrics
from nova_netagent.model.lineage import changed
from nova_netagent.netfilter.frames import Frames
from nova_netagent.netfilter.rule import Ruleset
from nova_netagent.plan.frames import frames_on, narrowed
from nova_netagent.plan.links import ActualLinks, LinkPlan
from nova_netagent.plan.neighbours import Neighbours, claimed, joining, newcomers
from nova_netagent.reconcile.attempts import persist
from nova_netagent.reconcile.links import OwnLinks
from nova_netagent.reconcile.outcome import Outcome
from nova_netagent.reconcile.rules import Rules
from nova_netagent.services import DhcpPlan, plan_dhcp
from nova_netagent.settings import FirewallSettings
from nova_netagent.store import Store

SERVERS_END = 5.0
"""Seconds that a cleanup waits for DHCP servers to end."""


class Reconciler:
    """Applies what was compiled to one host. Engine thread only.

    :ivar rules: the part of the packet filter.
    :ivar links: the part of links, addresses and sysctls.
    """

    def __init__(self, firewall: FirewallSettings, host: Host, store: Store, metrics: Metrics) -> None:
        self.rules = Rules(firewall, host.rules, host.leftovers, metrics)
        self.links = OwnLinks(host.links, store)
        self._host = host
        self._metrics = metrics
        self._ports: Mapping[str, tuple[Port, ...]] | None = None
        self._frames_on: tuple[WantedFrames, ActualLinks, Frames] | None = None
        self._passing: Frames | None = None
        """The frames that pass since the last rules were in."""

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
            self.links.renew_notes()
        link_plan = self._prepare_links(compiled, outcome, verify=verify)
        widened = self._apply_narrowed_frames(compiled, outcome)
        self._forget_leavers(compiled.scope.resolved.ports)
        self.rules.apply(compiled.ruleset, outcome, verify=verify, meanwhile=lambda: compiled.servers)
        self._finish(compiled, link_plan, outcome, verify=verify, widened=widened)
        return outcome

    def apply_links(self, compiled: Compiled) -> Outcome:
        """Make links and addresses as desired, and what depends on those that there are; leave the rules alone.

        :raises BackendError: the frames cannot be judged as desired.
        """
        outcome = Outcome()
        link_plan = self._prepare_links(compiled, outcome, verify=False)
        outcome.links_again = len(link_plan.again)
        self._apply_frames(compiled, outcome)
        self._finish(compiled, link_plan, outcome, verify=False)
        return outcome

    def plan(self, compiled: Compiled) -> list[str]:
        """What ``apply`` with ``verify`` would do now, an edit a line. Changes nothing."""
        lines = self.rules.plan(compiled.ruleset)
        lines += self.links.plan(compiled.links, closely=True).lines()
        if self._host.frames is not None:
            lines += self._host.frames.plan(frames_on(compiled.frames, self._host.links.read()))
        lines += self._plan_servers(compiled, fresh=True).lines()
        return lines

    def remove_everything(self, skeleton: Ruleset) -> Outcome:
        """Take everything of ours out of the kernel, and nothing else.

        :raises Unavailable: the kernel cannot be reached.
        """
        outcome = Outcome()
        link_plan = self.links.plan_removal()
        servers = DhcpPlan(remove=tuple(sorted(self._host.servers.read())))
        self._host.servers.apply(servers)
        outcome.note("dhcp", servers)
        self.links.prepare(link_plan, outcome)
        self.rules.remove(skeleton, outcome)
        if self._host.frames is not None:
            outcome.note_lines("frames", self._host.frames.remove())
        self.links.finish(link_plan, outcome)
        self._host.servers.settle(SERVERS_END)
        return outcome

    def _prepare_links(self, compiled: Compiled, outcome: Outcome, *, verify: bool) -> LinkPlan:
        plan = self.links.plan(compiled.links, closely=verify)
        self.links.note(plan)
        self.links.prepare(plan, outcome)
        return plan

    def _finish(
        self, compiled: Compiled, link_plan: LinkPlan, outcome: Outcome, *, verify: bool, widened: bool = False
    ) -> None:
        """What comes after the rules: links, what depends on those that there are now, and who serves on them.

        :param widened: there are addresses that may be claimed now, and could not be before the rules.
        """
        come = self._newcomers(compiled.scope.resolved.ports, link_plan)
        asked = self._newcomers(compiled.scope.resolved.ports, link_plan, pairs=True)
        if asked:
            self._host.links.refuse_waiting(asked)
        if widened:
            self._apply_frames(compiled, outcome)
        self.links.finish(link_plan, outcome)
        if verify or link_plan.join or any(kind == "uplink" for kind, _ in link_plan.forget):
            self.links.remember_uplinks(compiled.links)
        if link_plan:  # ports and MACs may be others now
            self._apply_frames(compiled, outcome)
        if come:
            self._host.links.introduce(come)
        self._ports = compiled.scope.resolved.ports
        servers = self._plan_servers(compiled, fresh=verify)
        self._host.servers.apply(servers)
        outcome.note("dhcp", servers)
        outcome.link_failures = {**self.links.problems(compiled.links), **outcome.link_failures}

    def _forget_leavers(self, ports: Mapping[str, tuple[Port, ...]]) -> None:
        """Who leaves an address, and stays at others, answers for it no more: nobody's groups would be asked."""
        gone = {} if self._ports is None else newcomers(ports, self._ports, pairs=True)
        if gone:
            self._host.links.forget(gone)

    def _newcomers(
        self, ports: Mapping[str, tuple[Port, ...]], link_plan: LinkPlan, *, pairs: bool = False
    ) -> Neighbours:
        """Who has come to an address; at the start those who are on no bridge yet."""
        if self._ports is None:
            return joining(ports, link_plan.add_ports, pairs=pairs)
        return newcomers(self._ports, ports, pairs=pairs)

    def _apply_frames(self, compiled: Compiled, outcome: Outcome) -> None:
        if self._host.frames is not None:
            self._apply_exactly(lambda: self._frames_here(compiled.frames), outcome)
            self._passing = self._frames_here(compiled.frames)

    def _apply_narrowed_frames(self, compiled: Compiled, outcome: Outcome) -> bool:
        """What goes before the rules; whether something has to come after them.

        A vif that is on its bridge may claim an address more only when there are rules for it.
        """
        before, known, ports = self._passing, self._ports or {}, compiled.scope.resolved.ports
        changing = {
            device
            for id_ in changed(known, ports)
            for device, *_ in claimed(ports.get(id_, ())) - claimed(known.get(id_, ()))
            if id_ in known
        }
        if before is None or not changing:
            self._apply_frames(compiled, outcome)
            return False
        self._apply_exactly(lambda: narrowed(self._frames_here(compiled.frames), before, changing), outcome)
        return True

    def _apply_exactly(self, desired: Callable[[], Frames], outcome: Outcome) -> None:
        frames = self._host.frames
        if frames is not None:
            # The kernel counts its changes: nothing has to be read back to be sure.
            persist(lambda _: outcome.note_lines("frames", frames.apply(desired())), True, self._metrics)

    def _frames_here(self, wanted: WantedFrames) -> Frames:
        """The frames that this host shall pass: the same object as long as it is of the same."""
        actual, known = self._host.links.read(), self._frames_on
        if known is None or known[0] is not wanted or known[1] is not actual:
            self._frames_on = known = wanted, actual, frames_on(wanted, actual)
        return known[2]

    def _plan_servers(self, compiled: Compiled, *, fresh: bool) -> DhcpPlan:
        return plan_dhcp(compiled.servers, self._host.servers.read(fresh=fresh), self._host.links.read())
