"""The control plane: from an event to the kernel, at one size of host."""

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import inside, peers, scene
from benchmarks.figures import Figure, in_turn, median, timed
from benchmarks.scene import Scene
from tests.lab import Agent, Lab, Namespace
from tests.lab.agent import daemon_command

RESTORE = "iptables-legacy-restore"
STORM = 50
RATE = 8
"""Changes a second, in the stream."""


class Control:
    """The rows of one scene.

    :param seconds: how long the stream of changes lasts.
    """

    def __init__(self, lab: Lab, what: Scene, runs: int, seconds: float, note: Callable[[Figure], None]) -> None:
        self._lab = lab
        self._scene = what
        self._runs = runs
        self._seconds = seconds
        self._note = note
        self._hosts = 0
        self.one_more = 0.0
        """Milliseconds, as the next one, for the peers that are measured elsewhere."""
        self.cold = 0.0
        self.ready = 0.0
        self.memory = 0.0
        """MiB."""
        self.filter_rules = 0

    def run(self) -> None:
        """Measure everything."""
        self._cold()
        host = self._host("host")
        agent = self._lab.agent(host, scene.CONFIG)
        agent.state(scene.body(self._scene.state()))
        saved = peers.save(host)
        self.filter_rules = peers.filter_rules(saved)
        self._add("rules in the kernel", peers.rules(saved), unit="")
        self._one_more(host, agent)
        self._storm(agent)
        self._one_rule(host, agent)
        self._member(agent)
        self._floating_ip(host, agent)
        self._stream(agent)
        self._requests(agent)
        self._nothing(host, agent)
        self._replaced(host, agent)
        self._restart(agent)
        self._memory(agent)

    def _host(self, name: str) -> Namespace:
        self._hosts += 1
        return self._lab.host(f"{name}-{self._scene.size}-{self._hosts}")

    def _peer(self, host: Namespace) -> Namespace:
        """A host for a peer, with the sets of another one."""
        peer = self._host("peer")
        peers.copy_sets(host, peer)
        return peer

    def _add(self, row: str, ours: float, against: str = "", other: float | None = None, **rest: Any) -> None:
        rest = {"runs": self._runs} | rest
        self._note(Figure(self._scene.size, self._scene.groups, row, ours, against=against, other=other, **rest))

    def _cold(self) -> None:
        ours, theirs = [], []
        for _ in range(self._runs):
            host = self._host("cold")
            ours.append(inside.run(host, "cold", self._scene.size, self._scene.shared))
            saved = peers.save(host)
            fresh = self._peer(host)
            theirs.append(timed(lambda fresh=fresh, saved=saved: peers.restore(fresh, saved)))  # type: ignore[misc]
        self.cold = statistics.median(ours)
        row = "whole state: model in memory to kernel"
        self._add(row, self.cold, f"{RESTORE} of the same rules", statistics.median(theirs), bar=0.45)

    def _put(self, agent: Agent, number: int) -> None:
        agent.put("instances", scene.body(self._scene.instance(number)))

    def _one_more(self, host: Namespace, agent: Agent) -> None:
        first = self._scene.size + 1
        numbers = range(first, first + 3 * self._runs + 1)
        for group in sorted({self._scene.group_of(number) for number in numbers}):
            agent.put("security-groups", scene.body(self._scene.group(group)))
        before = peers.save(host)
        self._put(agent, first)
        delta = peers.added(before, peers.save(host))
        other = self._peer(host)
        peers.restore(other, before)
        row, runs = "one instance more, through the API", self._runs
        puts = [lambda n=n: self._put(agent, n) for n in numbers[1:]]
        ours, theirs = in_turn(puts[:runs], [lambda: peers.restore(other, delta)] * runs)
        self._add(row, ours, f"{RESTORE} --noflush of its rules", theirs)
        ours, floor = self._beside(puts[runs : 2 * runs], other, "libiptc_commit")
        self.one_more = ours
        self._add(row, ours, "libiptc: read and commit the 4 tables", floor, bar=1.35)
        ours, bare = self._beside(puts[2 * runs :], other, "bare_commit")
        self._add(row, ours, "the same by bare system calls", bare)
        drops = [lambda n=n: agent.delete("instances", str(self._scene.instance(n).id)) for n in numbers]
        self._add("one instance less", median(drops), runs=len(drops))

    def _beside(self, ours: Sequence[Callable[[], object]], host: Namespace, floor: str) -> tuple[float, float]:
        """The medians of something of ours and of a floor, which is measured inside another host, in turn."""
        measured = [(timed(each), float(inside.run(host, floor, 1))) for each in ours]
        return statistics.median(a for a, _ in measured), statistics.median(b for _, b in measured)

    def _storm(self, agent: Agent) -> None:
        """Many instances described at once, by as many callers."""
        first = self._scene.size + 1000
        numbers = range(first, first + STORM)
        for group in sorted({self._scene.group_of(number) for number in (first - 1, *numbers)}):
            agent.put("security-groups", scene.body(self._scene.group(group)))
        alone, together = [], []
        with ThreadPoolExecutor(STORM) as pool:
            for _ in range(self._runs):
                alone.append(timed(lambda: self._put(agent, first - 1)))
                together.append(timed(lambda: list(pool.map(lambda n: self._put(agent, n), numbers))))
                for number in (first - 1, *numbers):
                    agent.delete("instances", str(self._scene.instance(number).id))
        one, all_ = statistics.median(alone), statistics.median(together)
        self._add(f"{STORM} instances at once", all_, "one alone", one, bar=2, runs=len(alone))

    def _one_rule(self, host: Namespace, agent: Agent) -> None:
        chain = f"nova-netagent-sgi-{str(self._scene.group(1).id)[:8]}"
        other = self._peer(host)
        peers.restore(other, peers.save(host))
        replace = f"*filter\n-R {chain} 1 -s 203.0.113.0/24 -p tcp -m tcp --dport 9 -j ACCEPT\nCOMMIT\n"
        puts = [
            lambda n=n: agent.put("security-groups", scene.body(self._scene.group(1, shift=n)))
            for n in range(1, self._runs + 1)
        ]
        ours, theirs = in_turn(puts, [lambda: peers.restore(other, {4: replace})] * self._runs)
        self._add("a group's 20 rules changed", ours, f"{RESTORE} -R of one rule", theirs)

    def everybodys_rule(self) -> None:
        """One rule of a group that all instances share beside one of a group with one member."""
        everybody = Scene(self._scene.size, self._scene.size)
        agent = self._lab.agent(self._host("everybody"), scene.CONFIG)
        agent.state(scene.body(everybody.state()))
        lonely = everybody.group_of(self._scene.size + 1)
        agent.put("security-groups", scene.body(everybody.group(lonely)))
        self._put_of(everybody, agent, self._scene.size + 1)

        def put(group: int, shift: int) -> None:
            agent.put("security-groups", scene.body(everybody.group(group, shift)))

        shifts = range(1, self._runs + 1)
        ours, theirs = in_turn([partial(put, 1, n) for n in shifts], [partial(put, lonely, n) for n in shifts])
        row = "a rule of a group that all share"
        self._add(row, ours, "of a group with one member", theirs, bar=1.3)
        agent.close()

    def _put_of(self, what: Scene, agent: Agent, number: int) -> None:
        agent.put("instances", scene.body(what.instance(number)))

    def _member(self, agent: Agent) -> None:
        ours, commit = inside.run(self._host("member"), "member", self._scene.size, self._scene.shared, self._runs)
        against = "one commit of the filter table"
        self._add("one remote member more, in the agent", ours, against, commit, bar=0.02)
        remote = Scene(self._scene.size, self._scene.shared, remote=True)
        agent.put("security-groups", scene.body(remote.group(1, members=("192.0.2.1",))))

        def put(count: int) -> None:
            members = tuple(f"192.0.2.{index}" for index in range(1, count + 1))
            agent.put("security-groups", scene.body(remote.group(1, members=members)))

        through = median(partial(put, n) for n in range(2, self._runs + 2))
        self._add("one remote member more, through the API", through, against, commit)
        agent.put("security-groups", scene.body(self._scene.group(1)))

    def _floating_ip(self, host: Namespace, agent: Agent) -> None:
        before = peers.save(host)
        body = scene.body(scene.floating_ip())
        agent.put("floating-ips", body)
        delta = peers.added(before, peers.save(host))
        agent.delete("floating-ips", body["id"])
        other = self._peer(host)
        peers.restore(other, before)
        ours, theirs = [], []
        for _ in range(self._runs):
            ours.append(timed(lambda: agent.put("floating-ips", body)))
            theirs.append(timed(lambda: peers.restore(other, delta)))
            agent.delete("floating-ips", body["id"])
        self._add("one floating IP", statistics.median(ours), f"{RESTORE} of its rules", statistics.median(theirs))

    def _stream(self, agent: Agent) -> None:
        """Changes at a steady rate, whoever waits: when does the caller know that the kernel has it?"""
        first = self._scene.size + 100
        for group in sorted({self._scene.group_of(first + number) for number in range(RATE)}):
            agent.put("security-groups", scene.body(self._scene.group(group)))
        lone = median([partial(self._come_or_go, agent, first, n) for n in range(4 * RATE)])
        latencies: list[float] = []
        failed: list[BaseException] = []

        def change(number: int, due: float) -> None:
            try:
                self._come_or_go(agent, first, number)
                latencies.append((time.perf_counter() - due) * 1000)
            except Exception as error:
                failed.append(error)

        threads = []
        start = time.perf_counter()
        for number in range(int(self._seconds * RATE)):
            due = start + number / RATE
            time.sleep(max(0.0, due - time.perf_counter()))
            threads.append(threading.Thread(target=change, args=(number, due)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        p50, p99 = statistics.median(latencies), statistics.quantiles(latencies, n=100)[98]
        row = f"{RATE} changes a second for {self._seconds:.0f} s"
        self._add(f"{row}: p50", p50, "a lone change", lone, runs=len(latencies))
        self._add(f"{row}: p99", p99, "a lone change", lone, runs=len(latencies), bar=3)
        self._add("of these lost", len(failed), unit="", runs=len(threads))

    def _come_or_go(self, agent: Agent, first: int, number: int) -> None:
        """Instances come in one second and go in the next."""
        body = scene.body(self._scene.instance(first + number % RATE))
        if number // RATE % 2:
            agent.delete("instances", body["id"])
        else:
            agent.put("instances", body)

    def _requests(self, agent: Agent) -> None:
        """Requests that change nothing, one caller after another."""
        path = f"/v1/instances/{self._scene.instance(1).id}"
        body = scene.body(self._scene.instance(1))
        for name, ask in (
            ("GET of an instance", lambda: agent.request("GET", path)),
            ("PUT of an unchanged instance", lambda: agent.request("PUT", path, body)),
        ):
            count = 20 * self._runs
            spent = timed(lambda ask=ask, count=count: [ask() for _ in range(count)])  # type: ignore[misc]
            self._add(f"API requests a second: {name}", count / spent * 1000, unit="", runs=count)

    def _nothing(self, host: Namespace, agent: Agent) -> None:
        agent.resync()
        ours, theirs = in_turn([agent.resync] * self._runs, [lambda: peers.save(host)] * self._runs)
        self._add("resync, nothing changed", ours, "iptables-legacy-save, both families", theirs)
        ours, bare = self._beside([agent.resync] * self._runs, host, "bare_read")
        self._add("resync, nothing changed", ours, "bare read of all tables", bare, bar=1.5)

    def _replaced(self, host: Namespace, agent: Agent) -> None:
        """Every group's rules changed, in one request."""
        saved = peers.save(host)
        bodies = [scene.body(self._scene.state(shift=shift)) for shift in range(1, 4)]
        states = [lambda body=body: agent.request("PUT", "/v1/state", body, timeout=120) for body in bodies]
        fresh = [self._peer(host) for _ in states]
        restores = [lambda other=other: peers.restore(other, saved) for other in fresh]
        ours, theirs = in_turn(states, restores)
        self._add("whole state replaced, through the API", ours, f"{RESTORE} of all rules", theirs, runs=3)

    def _restart(self, agent: Agent) -> None:
        """Stopped and started with nothing changed: time to ready, and how many tables were written."""
        again = restarted(agent)
        _, text = agent.request("GET", "/metrics")
        lines = [line for line in str(text).splitlines() if line.startswith("netagent_applies_total{")]
        writes = sum(float(line.rsplit(" ", 1)[1]) for line in lines)
        agent.stop()
        peers.empty(agent.namespace)
        self.ready = timed(agent.start)
        self._add("start to ready, nothing in the kernel", self.ready, runs=1)
        self._add("restart to ready", again, runs=3)
        self._add("tables written by a restart", writes, unit="")

    def _memory(self, agent: Agent) -> None:
        self.memory = resident(agent.pid)
        self._add("resident memory", self.memory, unit="MiB")


def programs(agent: Agent, runs: int, note: Callable[[Figure], None]) -> None:
    """How long the programs take to say the least."""
    daemon = daemon_command()
    ctl = [str(Path(daemon[0]).with_name("netagentctl")), "--socket", str(agent.socket), "status"]
    for name, words in (("nova-netagent --version", [*daemon, "--version"]), ("netagentctl status", ctl)):
        spent = median([lambda words=words: agent.namespace.run(words)] * runs)  # type: ignore[misc]
        note(Figure(0, "", name, spent / 1000, "s", "bar of 1 s", 1.0, runs, 0.3))


def restarted(agent: Agent) -> float:
    """How long an agent takes to be ready again that was stopped, in milliseconds: the median of three times."""
    times = []
    for _ in range(3):
        agent.stop()
        times.append(timed(agent.start))
    return statistics.median(times)


def resident(pid: int) -> float:
    """The resident memory of a process, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return int(found) / 1024
