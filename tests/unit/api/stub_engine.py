"""An engine without a kernel: it folds events into a state and answers as the real one does."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from msgspec.structs import replace

from nova_netagent.api.agent import About, Agent, Asks
from nova_netagent.backend import Unavailable
from nova_netagent.backend.trace import Watch
from nova_netagent.engine import Answer, Change, Look, NotApplied
from nova_netagent.events import Delete, Event, LateRevision, Put, Replace, fold, kept
from nova_netagent.explain.question import Question
from nova_netagent.explain.report import (
    Doubt,
    Explanation,
    Holder,
    MetRule,
    ObjectChange,
    PacketAt,
    Proposal,
    Trace,
    TracedPacket,
)
from nova_netagent.history import History
from nova_netagent.metrics import Metrics
from nova_netagent.model import DesiredState, FloatingIP, Instance, Key, Network, SecurityGroup
from nova_netagent.model.objects import Invalid
from nova_netagent.settings import ApiSettings
from nova_netagent.status import State, View
from nova_netagent.store import StoreError
from nova_netagent.testing import group_id, instance_id

STARTED = 1_790_000_000.0


class StubEngine:
    """``failure``, ``store_failure`` and ``refused`` make it fail as the real one can."""

    def __init__(self) -> None:
        self.view = View(ready=True, applied_at=STARTED + 5, verified_at=STARTED + 5)
        self.failure = ""
        self.store_failure = ""
        self.read_failure: Exception | None = None
        self.refused: dict[Key, str] = {}
        self.drift: list[str] = []
        self.delay = 0.0
        self.alive = (True, "")
        self.served = 0
        self.history = History()
        self._kernel = DesiredState()
        self._requests: queue.SimpleQueue[Change | Look[Any] | None] = queue.SimpleQueue()

    # as the daemon uses it

    def submit(self, request: Change | Look[Any]) -> None:
        self._requests.put(request)

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        self._requests.put(None)

    def _run(self) -> None:
        while (request := self._requests.get()) is not None:
            time.sleep(self.delay)
            self.serve(request)

    # as a test without threads uses it

    def submit_and_wait(self, request: Asks[Any]) -> Any:
        self.serve(request)
        return request.answer.result(timeout=0)

    def agent(self, settings: ApiSettings | None = None, metrics: Metrics | None = None) -> Agent:
        return Agent(
            submit=self.submit_and_wait,
            view=lambda: self.view,
            live=lambda: self.alive,
            about=about,
            metrics=metrics or Metrics(),
            settings=settings or ApiSettings(),
        )

    def serve(self, request: Any) -> None:
        self.served += 1
        answer: Future[Any] = request.answer
        try:
            answer.set_result(self._change(request) if isinstance(request, Change) else request.ask(self))
        except Exception as error:
            answer.set_exception(error)

    def explain(self, question: Question) -> Explanation:
        """A refusal of any packet, unless its link is not there; of what comes by ``tap1`` a note alone casts doubt."""
        if question.in_dev == "nowhere":
            raise Invalid("in_dev", "there is no link nowhere on this host")
        holder = Holder(True, "instance vm1: fallback", "instances", instance_id(1), "fallback", "vm1")
        jump = MetRule(4, "filter", "FORWARD", "FORWARD", 1, "-j a", "-> a", None, None, Holder(True, "the agent"), 20)
        drop = MetRule(4, "filter", "FORWARD", "a", 2, "-p tcp -j DROP", "DROP", 123_456, 7, holder)
        odd = Holder(False, "foreign")
        foreign = MetRule(4, "raw", "PREROUTING", "PREROUTING", 1, "-m odd", "goes on", None, None, odd)
        sent = PacketAt(question.src, question.dst, str(question.proto), "eth0", "")
        change = ObjectChange("security_groups", group_id(1), "security group group1: add it", {"id": group_id(1)})
        return Explanation(
            verdict="DROP",
            reason="no security group of instance vm1 lets it in",
            certain=False,
            way="routed",
            state="NEW",
            sent=sent,
            left=PacketAt(question.src, "10.1.0.2:22", str(question.proto), "br1", "instance vm1"),
            rules=(foreign, jump, drop),
            refused_by=drop,
            doubts=() if question.in_dev == "tap1" else (Doubt(foreign, "ACCEPT"),),
            notes=("tap1 is down: nothing comes or goes that way",),
            proposal=Proposal((change,), True, ""),
        )

    def watcher(self, question: Question) -> Callable[[float, Callable[[], bool]], Watch]:
        """Watches no longer than it takes."""
        if question.proto == "udp":
            raise Unavailable("packets are being traced already")
        return lambda seconds, ended: Watch((), {}, "", False)

    def traced(self, watch: Watch, seconds: int) -> Trace:
        """Two packets that met the same rule, and one that was refused."""
        allow = MetRule(4, "filter", "FORWARD", "a", 1, "-p tcp -j ACCEPT", "ACCEPT", 5, 300, Holder(True, "the agent"))
        drop = MetRule(4, "filter", "FORWARD", "a", 2, "-p tcp -j DROP", "DROP", 1, 7, Holder(False, "foreign"))
        ends = ("192.0.2.1:1", "198.51.100.1:22", "192.0.2.1:1", "10.1.0.2:22")
        passed = TracedPacket(*ends, "eth0", "br1", "ACCEPT", (allow,))
        refused = TracedPacket(*ends[:2], *ends[:2], "eth0", None, "DROP", (drop,))
        unseen = TracedPacket(*ends[:2], *ends[:2], "eth0", None, "UNKNOWN", ())
        return Trace(seconds, (passed, passed, refused, unseen), 3, ("some rules are missing",))

    def _change(self, change: Change) -> Answer:
        before = self.view.state
        state = fold(before, change.event, STARTED)
        if self.store_failure:
            raise StoreError(self.store_failure)
        touched = self.view.unapplied | _touched(before, state)
        self.view = replace(self.view, state=state, unapplied=touched, failure=self.failure)
        if not change.wait:
            return self._answer(change.event, before)
        if self.failure:
            raise NotApplied(self.failure)
        self._kernel = state
        self.history.done(STARTED + 5, "change", 2, 0.0123, lambda: ["IPv4 filter: -A a", "IPv4 filter: -A b"])
        self.view = replace(self.view, unapplied=frozenset(), troubles=dict(self._troubles(state)))
        return self._answer(change.event, before)

    def _answer(self, event: Event, before: DesiredState) -> Answer:
        match event:
            case Put(item):
                old = before.entries(item.KIND).get(item.id)
                new = self.view.state.entries(item.KIND)[item.id]
                status = self.view.status((item.KIND, item.id))
                return Answer(
                    "created" if old is None else "unchanged" if old is new else "updated", status, new.object
                )
            case Delete(kind, id_):
                return Answer("deleted" if id_ in before.entries(kind) else "missing")
            case Replace():
                same = before is self.view.state
                told = kept(before, event, STARTED)
                return Answer("unchanged" if same else "updated", counts=self.view.counts(), kept=told)

    def _troubles(self, state: DesiredState) -> Iterator[tuple[Key, tuple[State, str]]]:
        for key, reason in self.refused.items():
            yield key, ("error", reason)
        for each in state.of(Instance):
            for group in each.security_groups:
                if state.get(SecurityGroup, group) is None:
                    yield ("instances", each.id), ("pending", f"security group {group} is not there yet")
            for vif in each.vifs:
                if state.get(Network, vif.network_id) is None:
                    yield ("instances", each.id), ("pending", f"network {vif.network_id} is not there yet")
        for ip in state.of(FloatingIP):
            if ip.instance_id is not None and state.get(Instance, ip.instance_id) is None:
                yield ("floating_ips", ip.id), ("pending", f"instance {ip.instance_id} is not there yet")

    # as a Look uses it

    def inspect(self) -> "StubEngine":
        """What answers questions that change nothing: itself."""
        return self

    def plan(self, event: Event | None = None) -> list[str]:
        if self.read_failure is not None:
            raise self.read_failure
        state = self.view.state if event is None else fold(self.view.state, event, STARTED)
        return sorted(f"{'+' if state.entries(k).get(i) else '-'} {k} {i}" for k, i in _touched(self._kernel, state))

    def kept(self, event: Replace) -> Mapping[Key, str]:
        return kept(self.view.state, event, STARTED)

    def resync(self) -> list[str]:
        self.view = replace(self.view, failure=self.failure)
        repaired, self.drift = ([], self.drift) if self.failure else (self.drift, [])
        return repaired

    def live_chains(self, table: str | None = None, family: int | None = None) -> list[Mapping[str, object]]:
        if self.read_failure is not None:
            raise self.read_failure
        return [chain for chain in CHAINS if table in (None, chain["table"]) and family in (None, chain["family"])]


CHAINS: tuple[dict[str, object], ...] = (
    {
        "table": "filter",
        "family": 4,
        "chain": "FORWARD",
        "policy": "ACCEPT",
        "rules": [{"packets": 12, "bytes": 3400, "rule": "-j nova-filter-top", "origin": None}],
    },
    {
        "table": "filter",
        "family": 4,
        "chain": "nova-netagent-inst-a0000001",
        "policy": None,
        "rules": [
            {
                "packets": 1_234_567,
                "bytes": 98_765_432_100,
                "rule": "-p tcp -m tcp --dport 443 -j RETURN",
                "origin": ("instances", "a0000001-0000-4000-8000-000000000001", "c0000001-0000-4000-8000-000000000001"),
                "owner": "instance vm1: replies",
            },
            {"packets": None, "bytes": None, "together": 20, "rule": "-d 10.0.0.1/32 -j ACCEPT", "origin": None},
            {"packets": None, "bytes": None, "rule": "-o br1 -j nova-netagent-x", "origin": None},
        ],
    },
    {"table": "nat", "family": 6, "chain": "nova-netagent-snat", "policy": None, "rules": []},
)


def about() -> About:
    return About(
        host="node-1",
        version="1.2.3",
        started=STARTED,
        uptime=90.21,
        backend="iptables",
        see_with="iptables-legacy-save",
    )


def _touched(old: DesiredState, new: DesiredState) -> frozenset[Key]:
    before, after = dict(old.all_entries()), dict(new.all_entries())
    return frozenset(key for key in before.keys() | after.keys() if before.get(key) is not after.get(key))


__all__ = ["CHAINS", "STARTED", "LateRevision", "StubEngine", "about"]
