"""The engine: one loop, on one thread, that owns the desired state and the kernel.

A batch of requests is folded into the state, made durable, compiled and applied; then
whoever waits is answered. A lone request waits for nothing; those that come during a
commit share the next one.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

from msgspec.structs import replace

from nova_netagent.backend import BackendError, RuleRefused, Unavailable, trace
from nova_netagent.compile import Compiled, Compiler, needed, wanted_families
from nova_netagent.engine.culprits import to_blame
from nova_netagent.engine.inbox import Inbox
from nova_netagent.engine.inspection import Inspection
from nova_netagent.engine.journal import Journal
from nova_netagent.engine.limited import Limited
from nova_netagent.engine.requests import Answer, Change, Look, NotApplied, Request, Wake
from nova_netagent.engine.schedule import Schedule
from nova_netagent.engine.surroundings import Surroundings
from nova_netagent.engine.troubles import troubles
from nova_netagent.events import Delete, LateRevision, Put, Replace, fold, kept
from nova_netagent.history import History, Why
from nova_netagent.host import Host
from nova_netagent.metrics import Metrics
from nova_netagent.model import KINDS, DesiredState, Key, Network
from nova_netagent.model.lineage import changed
from nova_netagent.plan.links import NOT_A_BRIDGE
from nova_netagent.reconcile import Outcome, Reconciler
from nova_netagent.revocation import Revocation
from nova_netagent.services import Trouble
from nova_netagent.settings import Settings, differences
from nova_netagent.status import State, View
from nova_netagent.store import Store, StoreError

LOG = logging.getLogger(__name__)


class Engine:
    """Owns store and host; everything but ``submit`` and ``view`` is for its own thread.

    :param open_host: opens the kernel, in the engine's thread.
    :param on_progress: called when the stored state is in the kernel for the first time, and when the loop ends.
    :param coming: whether there are callers who have begun to ask, and are not here yet.
    :param awaits_my_ip: ``my_ip`` is not set, and no default route tells it.
    """

    def __init__(
        self,
        settings: Settings,
        open_store: Callable[[], Store],
        open_host: Callable[[], Host],
        metrics: Metrics,
        on_progress: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
        coming: Callable[[], bool] = lambda: False,
        *,
        awaits_my_ip: bool = False,
    ) -> None:
        self._settings = settings
        self._awaits_my_ip = awaits_my_ip
        self._open = (open_store, open_host)
        self._metrics = metrics
        self._on_progress = on_progress
        self._clock = clock
        self.inbox = Inbox(coming)
        self._hurrying, self._stopping = threading.Event(), threading.Event()
        self.view = View()
        self.history = History()
        self.heartbeat = time.monotonic()
        """When the loop last turned, by time.monotonic()."""
        self.failed: BaseException | None = None
        """Why the thread ended, when it was not told to."""
        self.see_with: str | None = None
        """The command with which an operator sees our rules; ``None`` until the kernel is open."""
        self._former_left = ""
        """Why rules are still there that we made under another wrap name."""
        self._moved = threading.Event()
        """The settings are of this host's own address, which a default route tells by now."""
        self._commit = 0.0
        """How long it took to apply the last change, in seconds."""

    # --- for any thread

    def submit(self, request: Change | Look[Any]) -> None:
        """Queue a request; its ``answer`` is resolved by the engine's thread."""
        self.inbox.put(request)

    def wake(self) -> None:
        """Have the engine look at links and servers."""
        self.inbox.put(Wake())

    def hurry(self) -> None:
        """Pause between commits no more: the agent is to stop, and whoever waits is to have an answer before."""
        self._hurrying.set()
        if self._settings.firewall.coalesce_interval:
            self.wake()

    def stop(self) -> None:
        """End the loop once the requests that are queued are served."""
        self._stopping.set()
        self._hurrying.set()
        self.wake()

    def reconfigure(self, wanted: Settings) -> list[str]:
        """Take over what may change while running; returns the options that may not and differ."""
        kept = self._settings
        firewall = replace(
            kept.firewall,
            resync_interval=wanted.firewall.resync_interval,
            coalesce_interval=wanted.firewall.coalesce_interval,
        )
        self._settings = replace(kept, firewall=firewall)
        return list(differences(self._settings, wanted))

    def move(self, settings: Settings) -> None:
        """Take over settings that differ by this host's own address, which no default route told before."""
        self._settings = replace(settings, firewall=self._settings.firewall)
        self._moved.set()
        self.wake()

    # --- the loop

    def run(self) -> None:
        """Load, apply, and serve until told to stop."""
        try:
            self.start()
            while self.inbox or not self._stopping.is_set():
                self.serve(self._take())
            self.close()
        except BaseException as error:
            self.failed = error
            LOG.exception("the engine ends")
        finally:
            self._on_progress()

    def open(self) -> None:
        """Open store and kernel, without applying anything."""
        open_store, open_host = self._open
        self.store = open_store()
        self.host = open_host()
        self._compiler = Compiler(self._settings, self.host.rules.tables(wanted_families(self._settings)))
        if 4 not in self._compiler.families:
            tables = ", ".join(map(str, needed(4)))
            raise Unavailable(
                f"[firewall] backend = {self._settings.firewall.backend}: this kernel lacks a table of {tables}"
            )
        self.see_with = self.host.rules.see_with(self._compiler.families)
        self.reconciler = Reconciler(
            self._settings.firewall, self.host, self.store, self._metrics, lambda: self._revocation.owe()
        )
        self._surroundings = Surroundings(self._settings, self.host, self._compiler, awaits_my_ip=self._awaits_my_ip)
        self._surroundings.look_who_is_in_the_way()
        self._warn()
        self._revocation = Revocation(
            self.host.flows,
            self.host.rules,
            self.reconciler.links.addresses,
            self.reconciler.links.noted_publics(),
            self.store,
            self._metrics,
        )
        self._state = self._applied = self.store.load()
        buried = [each.at for each in self._state.tombstones.values()]
        self._epoch = max([self._clock(), *buried]) - time.monotonic()
        self._refused: dict[Key, str] = {}
        self._link_failures: Mapping[str, str] = {}
        self._server_troubles: Mapping[str, Trouble] = {}
        self._compiled = self._compile()
        self._schedule = Schedule(self.host.meddled)
        self._journal = Journal(self.history, self._metrics, self._clock)
        self._limited = Limited(self.reconciler.rules.live_chains)

    def close(self) -> None:
        """Close store and host; the kernel keeps everything, and the notes say what of it we made."""
        try:
            self.reconciler.links.renew_notes()  # a cleanup may have struck them since everything was read back
        except StoreError as error:
            LOG.warning("whoever comes next may not know what links and addresses we made: %s", error)
        self.host.close()
        self.store.close()

    def start(self) -> None:
        """Load the stored state and apply it."""
        self.open()
        everything = frozenset(key for key, _ in self._state.all_entries())
        self._publish(unapplied=everything)
        self._sweep_traces()
        self.host.former.note()
        self._apply(verify=True)
        self._sweep_former()
        self._surroundings.look_around()
        self._warn()

    def _warn(self) -> None:
        rules = self.reconciler.rules
        warnings = self._surroundings.warnings(rules.left, rules.unseen, self._former_left)
        for each in warnings:
            if each not in self.view.warnings:
                LOG.warning("%s", each)
        self.view = replace(self.view, warnings=warnings)

    @property
    def _next_resync(self) -> float:
        """When everything is read back, by time.monotonic(): the interval may change at any time."""
        return self._schedule.verified + self._settings.firewall.resync_interval

    @property
    def _ready_for_commit(self) -> float:
        """When the next changes may be committed, by time.monotonic(): the interval may change at any time."""
        pause = 0.0 if self._hurrying.is_set() else self._settings.firewall.coalesce_interval
        return self._schedule.committed + pause

    def _take(self) -> list[Request]:
        """Wait for requests, or until something is due; then all that there are."""
        times = (
            self._next_resync,
            self._schedule.retry,
            self._revocation.due,
            self.host.links.next_due(),
            self.host.servers.next_due(),
        )
        self.heartbeat = time.monotonic()
        requests = self.inbox.take(min(each for each in times if each is not None), self._ready_for_commit)
        self.heartbeat = time.monotonic()
        return requests

    def serve(self, requests: Iterable[Request]) -> None:
        """Serve a batch of requests, and do what is due."""
        changes = [request for request in requests if isinstance(request, Change)]
        woken = any(isinstance(request, Wake) for request in requests)
        if changes:
            self._change(changes)
        for request in requests:
            if isinstance(request, Look):
                request.resolve(self)
        if woken:
            self._move()
            self._look_at_links()
        self._do_what_is_due()

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        if self._schedule.retry is not None and now >= self._schedule.retry:
            if self.view.failure:
                self._apply(verify=True)
            else:
                self._sweep_again()
        elif now >= self._next_resync or self._schedule.sees_meddling(now):
            self.resync()
        self.host.links.do_due()
        self._turn_servers()
        if self._revocation.do_due():
            self._publish(revocation_failure=self._revocation.failure)
        self._metrics.pending_oldest_seconds.set(self._schedule.pending)

    # --- changes

    def _change(self, changes: list[Change]) -> None:
        before = self._state
        accepted = [each for some in self.inbox.sharing(changes, self._commit) for each in self._accept(some)]
        if accepted and (_touched(before, self._state) or self.view.failure):
            self._apply(verify=bool(self.view.failure))
            self._commit = self._journal.seconds
        for change, found, made in accepted:
            if change.wait:
                self._finish(change, found, made)

    def _accept(self, changes: list[Change]) -> list[tuple[Change, DesiredState, DesiredState]]:
        """Fold changes into the state and save it; each with the state that it found and the one that it made."""
        before = state = self._state
        accepted: list[tuple[Change, DesiredState, DesiredState]] = []
        for change in changes:
            try:
                found, state = state, fold(state, change.event, self._now())
                accepted.append((change, found, state))
            except LateRevision as error:
                change.answer.set_exception(error)
        try:
            with self._metrics.store_seconds.time():
                self.store.save(before, state)
        except StoreError as error:
            LOG.error("the change could not be saved: %s", error)
            for change, *_ in accepted:
                change.answer.set_exception(error)
            return []
        self._state = state
        self._publish(unapplied=self.view.unapplied | _touched(before, state))
        for change, found, made in accepted:
            if not change.wait:
                change.answer.set_result(self._answer(change, found, made))
        return accepted

    def _finish(self, change: Change, found: DesiredState, made: DesiredState) -> None:
        if self.view.failure:
            change.answer.set_exception(NotApplied(self.view.failure))
            return
        kind = change.event.object.KIND if isinstance(change.event, Put) else getattr(change.event, "kind", "state")
        self._metrics.event_to_kernel_seconds.labels(kind, change.source).observe(time.monotonic() - change.arrived)
        change.answer.set_result(self._answer(change, found, made))

    def _answer(self, change: Change, found: DesiredState, made: DesiredState) -> Answer:
        """What a change did to the state that it found, and how its object fares by now."""
        match change.event:
            case Put(item):
                key = (item.KIND, item.id)
                old, new = found.entries(item.KIND).get(item.id), made.entries(item.KIND)[item.id]
                changed: Literal["created", "updated", "unchanged"] = "updated"
                if old is None:
                    changed = "created"
                elif old is new:
                    changed = "unchanged"
                return Answer(changed, self.view.status(key), new.object)
            case Delete(kind, id_):
                return Answer("deleted" if id_ in found.entries(kind) else "missing")
            case Replace():
                changed = "unchanged" if found is made else "updated"
                return Answer(changed, counts=self.view.counts(), kept=kept(found, change.event, self._now()))

    def _now(self) -> float:
        """The time by which tombstones age, in seconds since the epoch: it goes on evenly, however the clock is set."""
        return self._epoch + time.monotonic()

    # --- applying

    def _compile(self, extra: Mapping[Key, str] | None = None) -> Compiled:
        self._conflicting = self._conflicts()
        return self._compiler.compile(self._state, {**self._refused, **self._conflicting, **(extra or {})})

    def _look_for_drop_chain(self) -> None:
        """Use the chain that ends what is refused as soon as it is there. :raises BackendError: nobody can see it."""
        before = self._surroundings.drop_action
        self._surroundings.look_for_drop_chain()
        action = self._surroundings.drop_action
        if action != before:
            self._renew_compiler()
            if action != "DROP":
                LOG.info("[firewall] iptables_drop_action = %s: the chain is there now", action)
        self._warn()

    def _move(self) -> None:
        """Have the host as it should be where its own address is known now."""
        if not self._moved.is_set():
            return
        self._moved.clear()
        LOG.info("[DEFAULT] my_ip = %s: there is a default route to take it from now", self._settings.my_ip)
        self._renew_compiler()
        self._apply(verify=True)
        self._surroundings.reconfigure(self._settings, self._compiler)
        self._warn()

    def _renew_compiler(self) -> None:
        firewall = replace(self._settings.firewall, iptables_drop_action=self._surroundings.drop_action)
        self._compiler = Compiler(replace(self._settings, firewall=firewall), self._compiler.tables)

    def _conflicts(self) -> Mapping[Key, str]:
        """Objects that name what is the host's own, and why they are in error."""
        return {**self._own_addresses(), **self._own_links()}

    def _own_links(self) -> Mapping[Key, str]:
        """Networks whose bridge has the name of another link: its rules would refuse whatever comes by that."""
        if not self._state.networks or not self._settings.network.manage_links:
            return {}
        named = {each.id: each.bridge for each in self._state.of(Network)}
        taken = self.reconciler.links.not_bridges(named.values())
        return {("networks", id_): f"{name}: {NOT_A_BRIDGE}" for id_, name in named.items() if name in taken}

    def _own_addresses(self) -> Mapping[Key, str]:
        """Floating IPs that the host has without us: they are somebody's, and never removed."""
        if not self._state.floating_ips:
            return {}
        foreign = self.reconciler.links.foreign_addresses()
        return {
            ("floating_ips", id_): f"{id_} is an address of this host already"
            for id_ in self._state.floating_ips
            if id_ in foreign
        }

    def _apply(self, *, verify: bool) -> Outcome:
        """Make the kernel agree with the state; failures are published and retried."""
        self._journal.begin(self._reason(verify))
        # What was refused is tried again when it changed, and after each resync.
        if self._refused:
            retried = _touched(self._applied, self._state)
            self._refused = {key: why for key, why in self._refused.items() if key not in retried}
        outcome = Outcome()
        try:
            try:
                if verify:
                    self._look_for_drop_chain()
                self._compiled = self._compile()
                self._revocation.prepare(self._compiled)
                outcome = self.reconciler.apply(self._compiled, verify=verify)
            except (RuleRefused, ValueError) as error:
                outcome = self._isolate(error)
        except (BackendError, StoreError) as error:
            self._fail(error)
            return outcome
        self._succeed(outcome, verify)
        return outcome

    def _reason(self, verify: bool) -> Why:
        """Why the kernel is made to agree, for the history."""
        if not verify:
            return "change"
        if self.view.failure:
            return "retry"
        return "resync" if self.view.ready else "start"

    def _isolate(self, error: Exception) -> Outcome:
        """Find the objects that the kernel refuses, leave them out and apply the rest.

        :raises BackendError: it is refused without any object as well.
        """
        self._journal.refused(error)
        reason = str(error)
        outcome = Outcome()

        def without(excluded: Iterable[Key]) -> Compiled:
            return self._compile(dict.fromkeys(excluded, reason))

        def can_be_said(excluded: Iterable[Key]) -> bool:
            try:
                self.reconciler.rules.check(without(excluded).ruleset)
            except (RuleRefused, ValueError):
                return False
            return True

        def works(excluded: Iterable[Key]) -> bool:
            nonlocal outcome
            try:
                self._compiled = without(excluded)
                made = self.reconciler.apply(self._compiled, verify=True)
            except (RuleRefused, ValueError):
                return False
            made.forgotten |= outcome.forgotten
            made.drift += outcome.drift
            made.drifted |= outcome.drifted
            outcome = made
            return True

        everything = frozenset(key for key, _ in self._state.all_entries())
        guilty = to_blame(everything, can_be_said, works, self.reconciler.rules.start_over, self._suspects)
        if guilty is None:
            raise RuleRefused(reason)
        for key in guilty:
            LOG.error("%s %s is in error and passes nothing: %s", *key, reason)
            self._refused[key] = reason
        return outcome

    def _suspects(self) -> Iterator[frozenset[Key]]:
        """Who may be to blame for what the kernel refuses: those that have new rules."""
        yield self.reconciler.rules.newcomers(self._compiled.ruleset)
        yield _touched(self._applied, self._state)

    def _succeed(self, outcome: Outcome, verify: bool) -> None:
        changed = _touched(self._applied, self._state)
        drifted = outcome.drifted or (verify and self._applied is self._state and outcome.rules)
        self._revocation.applied(self._compiled, drifted=drifted, forgotten=outcome.forgotten, changed=changed)
        if outcome.drift and self._journal.why == "change":
            self._journal.repaired_with_a_change(outcome)
        self._applied = self._state
        left = self._note_left(tried=verify)
        self._journal.edited(outcome, verified=verify)
        self._journal.done(outcome)
        self._link_failures = outcome.link_failures
        now = self._clock()
        if verify:
            self._schedule.verified = time.monotonic()
        if changed:  # a repair is none: those who wait for a pause would wait once more for each
            self._schedule.committed = time.monotonic()
        self._publish_troubles(
            **left,
            failure="",
            revocation_failure=self._revocation.failure,
            ready=True,
            applied_at=now,
            verified_at=now if verify else self.view.verified_at,
        )
        if self._surroundings.look_for_unbound(self._compiled.scope.resolved.floating_ips) or verify:
            self._warn()

    def _note_left(self, *, tried: bool) -> Mapping[str, Any]:
        """What to publish of what is left of ours in the packet filter that is not, where all else is in the kernel.

        :param tried: it was swept just now, as far as it could be: what could not be is tried again later.
        """
        rules = self.reconciler.rules
        if not rules.left and not rules.unseen:
            self._schedule.retry_no_more()
        elif tried:
            self._schedule.retry_later()
        self._schedule.wait(pending=bool(rules.left))
        # What is left there refuses what the state, perhaps, allows: nobody knows whom it concerns.
        unapplied = frozenset(key for key, _ in self._state.all_entries()) if rules.left else frozenset()
        return {"unapplied": unapplied, "left": rules.left}

    def _sweep_again(self) -> None:
        """Sweep what is left of ours in the packet filter that is not; ours is as it was when it was read last."""
        self._journal.begin("retry")
        outcome = Outcome()
        self.reconciler.rules.sweep_leftovers(self._compiled.ruleset.sets, outcome)
        self._journal.edited(outcome, verified=False)
        self._journal.done(outcome)
        self._publish(**self._note_left(tried=True))
        self._warn()

    def _fail(self, error: Exception) -> None:
        self._schedule.retry_later()
        self._schedule.wait(pending=True)
        self._journal.failed(error, self._schedule.delay)
        self._publish(failure=str(error))

    def _troubles(self) -> Mapping[Key, tuple[State, str]]:
        return troubles(self._state, self._compiled, self._link_failures, self.host.servers.troubles())

    # --- looking after it

    def resync(self) -> list[str]:
        """Read everything back and repair it; the repairs, a line each."""
        same = self._applied is self._state
        self._schedule.reads_back()
        self._sweep_traces()
        self._secure_store()
        drop_action = self._surroundings.drop_action
        with self._metrics.resync_seconds.time():
            outcome = self._apply(verify=True)
        # Its chain came: what follows from that undoes nobody's work.
        awaited = drop_action == "DROP" != self._surroundings.drop_action
        if same and outcome and not awaited:
            self._journal.repaired(outcome)
        self._schedule.verified = time.monotonic()
        if self._refused and not self.view.failure:
            self._refused = {}
            self._apply(verify=False)
        self._sweep_former()
        self._surroundings.look_who_is_in_the_way()
        self._surroundings.look_around()
        self._warn()
        if self._settings.security_group_log.groups:
            self._count_limited()
        return list(outcome.lines()) if same else []

    def _secure_store(self) -> None:
        try:
            self.store.secure()
        except StoreError as error:
            LOG.error("nothing can be saved: %s", error)

    def _count_limited(self) -> None:
        try:
            limited = self._limited.since_last(self._compiled.ruleset.tables.values())
        except BackendError as error:
            LOG.debug("what the log's rate kept out is not known: %s", error)
            return
        self._metrics.security_group_log_packets_total.labels("limited").inc(limited)

    def inspect(self) -> Inspection:
        """What is known now, for questions that change nothing."""
        return Inspection(
            self._settings,
            self._state,
            self._compiled,
            self.host,
            self.reconciler,
            self._revocation,
            partial(Compiler, self._compiler.settings, self._compiler.tables),
            {**self._refused, **self._conflicts()},
            self._troubles(),
            self._now,
        )

    def _sweep_traces(self) -> None:
        """Take away what a trace left that was killed."""
        wrap_name, note = self._settings.firewall.wrap_name, trace.note(self._settings.state_path)
        try:
            if trace.sweep(wrap_name, note, has_nf_tables=self.host.can_trace):
                LOG.warning("what a trace had left was taken away")
        except BackendError as error:
            LOG.warning("what a trace may have left cannot be taken away: %s", error)

    def _sweep_former(self) -> None:
        """Our rules are in: now those go that we made under another wrap name. What cannot is tried at each resync."""
        if self.view.failure:
            return
        done, self._former_left = self.host.former.sweep()
        if done:
            self._surroundings.look_who_is_in_the_way()

    def _look_at_links(self) -> None:
        """Links came, went or changed: join, repair, and see whether an address is free now."""
        if self.view.failure:
            self._guard()
            return
        self._journal.begin("links")
        try:
            if self._conflicts() != self._conflicting:
                self._apply(verify=False)
                return
            outcome = self.reconciler.apply_links(self._compiled)
        except (BackendError, StoreError) as error:
            self._fail(error)
            return
        self._journal.linked(outcome)
        self._journal.done(outcome)
        self._link_failures = outcome.link_failures
        self._publish_troubles()

    def _guard(self) -> None:
        """The rules wait for the next attempt; a port that is nobody's does not."""
        try:
            self.reconciler.guard(self._compiled)
        except BackendError as error:
            LOG.warning("a port that is nobody's may not be closed before the next attempt: %s", error)

    def _turn_servers(self) -> None:
        """Start, reload and end what it is time for, and tell how the networks fare."""
        self.host.servers.do_due()
        if self.host.servers.troubles() != self._server_troubles:
            self._publish_troubles()

    # --- publishing

    def _publish(self, **changes: Any) -> None:
        was_ready = self.view.ready
        self.view = replace(self.view, state=self._state, **changes)
        if self.view.ready and not was_ready:
            self._on_progress()

    def _publish_troubles(self, **changes: Any) -> None:
        self._server_troubles = self.host.servers.troubles()
        self._publish(troubles=self._troubles(), **changes)


def _touched(old: DesiredState, new: DesiredState) -> frozenset[Key]:
    """The objects that are not the same in two states, the removed ones included."""
    return frozenset((kind, id_) for kind in KINDS for id_ in changed(old.entries(kind), new.entries(kind)))
