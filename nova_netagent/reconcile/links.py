"""Links, addresses and sysctls: the part of an attempt that is noted before it is done."""

import logging
from collections.abc import Callable, Iterable, Mapping

from nova_netagent.backend.links.protocol import LinksBackend, LinksFailed
from nova_netagent.compile.links import Links
from nova_netagent.plan.links import (
    FORWARD_IPV6,
    ActualLinks,
    LinkPlan,
    Made,
    link_problems,
    not_bridges,
    plan_links,
    plan_removal,
    questions,
)
from nova_netagent.reconcile.outcome import Outcome
from nova_netagent.store import Store, StoreError

LOG = logging.getLogger(__name__)


class OwnLinks:
    """Makes the links of one host be as compiled, and knows which of them are of our making. Engine thread only."""

    def __init__(self, backend: LinksBackend, store: Store) -> None:
        self._backend = backend
        self._store = store
        self._made = dict(store.made())
        backend.recall({name: found for (kind, name), found in self._made.items() if kind == "held"})
        self._settled: tuple[Links, ActualLinks, LinkPlan] | None = None
        """The links for which there was nothing to do when they were looked at last, and the plan that says so."""

    def addresses(self) -> Mapping[str, str]:
        """The host's addresses, each with its interface."""
        return {cidr.partition("/")[0]: device for device, cidr in self._backend.read().addresses}

    def noted_publics(self) -> frozenset[str]:
        """The addresses that we gave to the host for another's: floating IPs, and the metadata service's.

        A gateway has the length of its network.
        """
        cidrs = (name.split()[1] for kind, name in self._made if kind == "address")
        return frozenset(cidr.removesuffix("/32") for cidr in cidrs if cidr.endswith("/32"))

    def foreign_addresses(self) -> frozenset[str]:
        """The IPv4 and IPv6 addresses that the host has without us."""
        return frozenset(
            cidr.partition("/")[0]
            for device, cidr in self._backend.read().addresses
            if ("address", f"{device} {cidr}") not in self._made
        )

    def not_bridges(self, bridges: Iterable[str]) -> frozenset[str]:
        """The names of bridges that are those of other links."""
        return frozenset(not_bridges(bridges, self._backend.read()))

    def plan(self, desired: Links, *, closely: bool = False) -> LinkPlan:
        """What makes the links be as desired.

        :param closely: see as well whether somebody's routes lead by an uplink, whose bridge should have them, and
            whether those to our addresses' networks are there.
        """
        actual, known = self._backend.read(), self._settled
        if known is not None and not closely and known[0] is desired and known[1] is actual:
            return known[2]
        forwarding = self._backend.read_sysctls((FORWARD_IPV6,)).get(FORWARD_IPV6) == "1"
        asked = questions(desired, actual, self._made, forwarding=forwarding, closely=closely)
        sysctls, held = self._backend.read_sysctls(asked.sysctls), self._backend.held(asked.held)
        unled = self._backend.unled(asked.led) if asked.led else ()
        plan = plan_links(desired, actual, self._made, sysctls, held, unled)
        self._settled = None if plan or plan.make or plan.forget else (desired, actual, plan)
        return plan

    def plan_removal(self) -> LinkPlan:
        """What takes back everything that we made."""
        sysctls = self._backend.read_sysctls(name for kind, name in self._made if kind == "sysctl")
        return plan_removal(self._backend.read(), self._made, sysctls)

    def renew_notes(self) -> None:
        """Note again what was struck from the store beside us, by a cleanup."""
        noted = self._store.made()
        self._store.note_made({thing: found for thing, found in self._made.items() if thing not in noted})

    def note(self, plan: LinkPlan) -> None:
        """Note what a plan makes: before it is made."""
        self._store.note_made(plan.make)
        self._made |= plan.make

    def prepare(self, plan: LinkPlan, outcome: Outcome) -> None:
        """What comes before the rules."""
        if plan:
            _edit(self._backend.prepare, plan, outcome)

    def finish(self, plan: LinkPlan, outcome: Outcome) -> None:
        """What comes after the rules. What could not be undone stays noted, and is tried again."""
        if plan:
            _edit(self._backend.finish, plan, outcome)
            _note_edits(plan, outcome)
        outcome.links_again = len(_had(plan.again, outcome))
        gone = _had(plan.forget, outcome)
        self._store.forget_made(gone)
        for thing in gone:
            self._made.pop(thing, None)

    def remember_uplinks(self, links: Links) -> None:
        """Have it known what the bridges of our uplinks hold for the host."""
        ours = {bridge: set[str]() for device, bridge in links.uplinks.items() if self._is_joined(device, bridge)}
        for each in links.addresses:
            ours.get(each.interface, set()).add(each.cidr)
        held = {("held", name): told for name, told in self._backend.remember(ours, links.uplinks).items()}
        told = {thing: found for thing, found in held.items() if self._made.get(thing) != found}
        try:
            self._store.note_made(told, anew=True)
        except StoreError as error:
            LOG.warning("what bridges hold for the host is not known after a restart: %s", error)
        else:
            self._made |= told

    def problems(self, desired: Links) -> Mapping[str, str]:
        """By link why it cannot be had: an interface is not there, or what should be a bridge is none."""
        return link_problems(desired, self._backend.read())

    def _is_joined(self, device: str, bridge: str) -> bool:
        return ("uplink", f"{device} {bridge}") in self._made


def _note_edits(plan: LinkPlan, outcome: Outcome) -> None:
    """Have it told what was done: what failed is done by no attempt, and looks like drift to each."""
    if outcome.link_failures:
        outcome.note_lines("link", list(plan.lines(failed=outcome.link_failures)))
    else:
        outcome.note("link", plan)


def _had(things: Iterable[Made], outcome: Outcome) -> list[Made]:
    """Those of a plan's things that are on no link whose edits failed."""
    return [thing for thing in things if not outcome.link_failures.keys() & set(thing[1].split(" "))]


def _edit(edit: Callable[[LinkPlan], object], plan: LinkPlan, outcome: Outcome) -> None:
    try:
        edit(plan)
    except LinksFailed as error:
        outcome.link_failures |= error.reasons
