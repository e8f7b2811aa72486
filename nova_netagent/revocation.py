"""Cut what a change has revoked: look at the flows concerned, decide, remember their ends, delete them.

It is the last step of a change, when the rules that refuse these flows are in the kernel. A table
that cannot be read or edited costs nobody the change: it is told, and tried again.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from nova_netagent.backend import Backend, BackendError
from nova_netagent.backend.conntrack import ConntrackError, FlowTable
from nova_netagent.compile import Compiled
from nova_netagent.compile.cut import set_name
from nova_netagent.metrics import Metrics
from nova_netagent.model import Key
from nova_netagent.netfilter.flow import Addresses, family_of
from nova_netagent.netfilter.owner import Owner
from nova_netagent.netfilter.rule import CUT_SECONDS
from nova_netagent.revoke import EVERYBODY, Cut, concerned, ends, revoked
from nova_netagent.store import Store, StoreError

LOG = logging.getLogger(__name__)

MOST_REMEMBERED = 4096
"""Of so many ends of flows it is remembered when they were cut and by which change."""

RETRY_FIRST, RETRY_MOST = 1.0, 30.0
"""Seconds to the first retry after a failure, doubled up to the most."""


class _Remembered(NamedTuple):
    """How the flow was cut that had an end."""

    at: float
    """When, by time.monotonic()."""
    changed: Collection[Key]
    """What had changed; nothing where no change is to blame."""


class Revocation:
    """Keeps flows agreeing with what was applied. Engine thread only.

    :param own: reads the host's addresses, each with its interface.
    :param bound: those that the agent had given it for others' before it was started.
    """

    def __init__(
        self,
        flows: FlowTable,
        backend: Backend[Any],
        own: Callable[[], Mapping[str, str]],
        bound: Collection[str],
        store: Store,
        metrics: Metrics,
    ) -> None:
        self._flows = flows
        self._backend = backend
        self._own = own
        self._bound = bound
        self._store = store
        self._metrics = metrics
        self._owed = store.owes_cuts()
        """Whether the store says so."""
        self._before: Compiled | None = None
        """What was enforced when the flows were last seen to agree; ``None``: not known."""
        self._after: Compiled | None = None
        self._looked: tuple[Compiled | None, Compiled, Addresses] | None = None
        """Whose flows the last change concerns that was looked at: before, after, and these."""
        self._started = False
        self._disagreeing = self._owed
        """Whether the agent that was here before may have left flows that are not allowed."""
        self._changed: Collection[Key] = ()
        self._remembered: dict[str, _Remembered] = {}
        """The ends of the last flows that were cut, in that order."""
        self._forgotten = False
        """Whether the sets may have lost them, and the flows may be back."""
        self._delay = 0.0
        self.failure = ""
        """Why flows could not be cut, until they could."""
        self.due: float | None = None
        """When it is to be tried again, by time.monotonic()."""

    def prepare(self, compiled: Compiled) -> None:
        """Note that flows will have to be cut when this is in the kernel, if any will."""
        if self._before is None or self._concerned(compiled):
            self.owe()

    def owe(self) -> None:
        """Note that flows will have to be cut, in case nobody lives to do it.

        Without room for the note the rules are not kept waiting: what they forbid would stay open.
        """
        if self._owed:
            return
        try:
            self._store.owe_cuts(True)
            self._owed = True
        except StoreError as error:
            LOG.warning("flows that are no longer allowed may go on if the agent is killed now: %s", error)

    def cut_by(self, end: str) -> Collection[Key]:
        """The objects whose change cut the flow that has an end; none when that is not remembered."""
        known = self._remembered.get(end)
        return () if known is None else known.changed

    def applied(
        self, compiled: Compiled, *, drifted: bool, forgotten: bool = False, changed: Collection[Key] = ()
    ) -> None:
        """Cut what is no longer allowed, now that this is in the kernel.

        :param drifted: the rules had been others: flows may have been let in by those, and what was cut forgotten.
        :param forgotten: what was cut is, whatever else was found.
        :param changed: the objects that are not as they were.
        """
        if not self._started:
            self._remember_others()
        self._changed = changed
        self._forgotten |= drifted or forgotten
        if drifted:
            self._before = None
        elif not self._started and not self._disagreeing:
            self._before = compiled  # the kernel had these very rules, and whoever set them finished
        self._started = True
        self._after = compiled
        self._cut()

    def do_due(self) -> bool:
        """Try again what failed, when it is time; whether it was."""
        if self.due is None or time.monotonic() < self.due:
            return False
        self._cut()
        return True

    def _cut(self) -> None:
        assert self._after is not None
        forgotten = self._forgotten and bool(self._remembered)
        addresses = EVERYBODY if forgotten else self._concerned(self._after)
        try:
            if forgotten:
                self._note_again(self._after.scope.owner)
            cuts = self._find(addresses) if addresses else []
            if cuts:
                self._carry_out(cuts)
        except (ConntrackError, BackendError) as error:
            self._delay = min(max(RETRY_FIRST, self._delay * 2), RETRY_MOST)
            self.due = time.monotonic() + self._delay
            self.failure = f"flows that are no longer allowed may go on: {error}"
            LOG.error("%s; next attempt in %.1f s", self.failure, self._delay)
            return
        self._before, self._looked, self._forgotten = self._after, None, False
        self._settle()
        self._delay, self.failure, self.due = 0.0, "", None

    def _concerned(self, after: Compiled) -> Addresses:
        known = self._looked
        if known is None or known[0] is not self._before or known[1] is not after:
            self._looked = known = (self._before, after, concerned(self._before, after))
        return known[2]

    def _remember(self, ends_: Collection[str]) -> None:
        now = time.monotonic()
        for each in ends_:
            known = self._remembered.pop(each, None)
            self._remembered[each] = _Remembered(now, self._changed or (known.changed if known else ()))
        while len(self._remembered) > MOST_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]

    def _remember_others(self) -> None:
        """Remember what was cut before we were here: the sets may lose it."""
        try:
            noted = self._backend.cut_ends()
        except BackendError as error:
            LOG.warning("what was cut before the start is not known: %s", error)
            return
        self._remember([each for ends_ in noted.values() for each in ends_])

    def _lately(self) -> frozenset[str]:
        """The ends of flows that were cut, and should be in the sets still."""
        since = time.monotonic() - CUT_SECONDS
        return frozenset(each for each, known in self._remembered.items() if known.at > since)

    def _note_again(self, owner: Owner) -> None:
        """Note the ends that the sets should have, and have not."""
        lost = self._lately().difference(*self._backend.cut_ends().values())
        if lost:
            self._backend.note_cut(_by_set(lost, owner))
            LOG.info("noted again, as the sets had lost them: %d ends of flows that were cut", len(lost))

    def _settle(self) -> None:
        if not self._owed:
            return
        try:
            self._store.owe_cuts(False)
            self._owed = False
        except StoreError as error:
            LOG.warning("all flows will be looked at again after a restart: %s", error)

    def _find(self, addresses: Addresses) -> list[Cut]:
        assert self._after is not None
        flows = self._flows.flows(addresses)
        if not flows:
            return []
        dead = self._lately() if self._forgotten else ()
        return list(revoked(self._before, self._after, flows, self._own(), self._bound, dead))

    def _carry_out(self, cuts: list[Cut]) -> None:
        assert self._after is not None
        remembered = [each for cut in cuts if cut.remembered for each in ends(cut)]
        if remembered:
            self._remember(remembered)
            # Before they are deleted: the next segment would open the flow again.
            self._backend.note_cut(_by_set(remembered, self._after.scope.owner))
        deleted = self._flows.delete(cut.flow for cut in cuts)
        self._metrics.conntrack_deleted_total.inc(deleted)
        LOG.info("flows cut that are no longer allowed: %d", deleted)
        for cut in cuts:
            LOG.debug("cut: %s", cut.flow)


def _by_set(ends_: Iterable[str], owner: Owner) -> dict[str, set[str]]:
    """Ends of flows by the set that they are noted in."""
    found: dict[str, set[str]] = {}
    for each in ends_:
        found.setdefault(set_name(family_of(each), owner), set()).add(each)
    return found
