"""The control plane: from an event to the kernel, at one size of host, with legacy tables and what they cost others."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import api, inside, peers, scene
from benchmarks.api import Api, Call
from benchmarks.figures import Figure, in_turn, median, timed
from benchmarks.rows import Rows
from benchmarks.scene import Scene
from tests.lab import Agent, Lab, Namespace
from tests.lab.agent import daemon_command

RESTORE = "iptables-legacy-restore"
COLD = "whole state: model in memory to kernel"
FILTER_RULES = "rules in the filter table, IPv4"
_BARE = "the same by bare system calls"


class Control:
    """The rows of one scene, kept in ``rows`` for what is measured elsewhere.

    :param seconds: how long the stream of changes lasts.
    """

    def __init__(self, lab: Lab, what: Scene, runs: int, seconds: float, note: Callable[[Figure], None]) -> None:
        self.rows = Rows(what, runs, note)
        self._lab = lab
        self._scene = what
        self._runs = runs
        self._seconds = seconds
        self._hosts = 0

    def run(self) -> None:
        """Measure everything."""
        self._cold()
        host = self._host("host")
        agent = self._lab.agent(host, scene.CONFIG)
        agent.state(scene.body(self._scene.state()))
        asked = Api(agent, self._scene, self.rows, self._seconds)
        self._rules(host)
        self._one_more(host, asked)
        asked.storm()
        self._group_changed(host, asked)
        self._member(asked)
        self._floating_ip(host, asked)
        asked.stream()
        asked.requests()
        self._nothing(host, agent)
        self._replaced(host, asked)
        asked.memory(api.MEMORY_AFTER)
        asked.restarts()
        self.rows.add("tables written by a restart", _written(agent), unit="")
        asked.starts()
        asked.memory(api.MEMORY)

    def _host(self, name: str) -> Namespace:
        self._hosts += 1
        return self._lab.host(f"{name}-{self._scene.size}-{self._hosts}")

    def _peer(self, host: Namespace, saved: peers.Saved | None = None) -> Namespace:
        """A host for a peer, with the sets of another one, and rules."""
        peer = self._host("peer")
        peers.copy_sets(host, peer)
        peers.restore(peer, saved or {})
        return peer

    def _cold(self) -> None:
        ours, theirs, bare = [], [], []
        for _ in range(self._runs):
            host = self._host("cold")
            spent, replaced = inside.run(host, "cold", self._scene.size, self._scene.shared)
            ours.append(spent)
            bare.append(replaced)
            saved = peers.save(host)
            fresh = self._peer(host)
            theirs.append(timed(partial(peers.restore, fresh, saved)))
        spent = statistics.median(ours)
        self.rows.add(COLD, spent, "bare replace of the same tables", statistics.median(bare))
        self.rows.add(COLD, spent, f"{RESTORE} of the same rules", statistics.median(theirs), bar=0.45)

    def _rules(self, host: Namespace) -> None:
        saved = peers.save(host)
        self.rows.add("rules in the kernel", peers.rules(saved), unit="", runs=1)
        self.rows.add(FILTER_RULES, peers.filter_rules(saved), unit="", runs=1)

    def _one_more(self, host: Namespace, asked: Api) -> None:
        first, runs = self._scene.size + 1, self._runs
        numbers = range(first, first + 3 * runs + 1)
        asked.describe_groups(numbers)
        before = peers.save(host)
        asked.put(first)
        delta = peers.added(before, peers.save(host))
        other = self._peer(host, before)
        puts = [partial(asked.put, number) for number in numbers[1:]]
        ours, theirs = in_turn(puts[:runs], [partial(peers.restore, other, delta)] * runs)
        self.rows.add(api.ONE_MORE, ours, f"{RESTORE} --noflush of its rules", theirs)
        ours, floor = self._beside(puts[runs : 2 * runs], other, "libiptc_commit")
        self.rows.add(api.ONE_MORE, ours, "libiptc: read and commit the 4 tables", floor, bar=1.35)
        ours, bare = self._beside(puts[2 * runs :], other, "bare_commit")
        self.rows.add(api.ONE_MORE, ours, _BARE, bare)
        self._one_less(host, asked, numbers)

    def _one_less(self, host: Namespace, asked: Api, numbers: Sequence[int]) -> None:
        """The peer follows, a deletion after the other: it takes away what we took away."""
        saved = peers.save(host)
        other = self._peer(host, saved)
        ours, theirs = [], []
        for number in numbers[: self._runs]:
            ours.append(timed(partial(asked.delete, number)))
            before, saved = saved, peers.save(host)
            delta = peers.changed(before, saved)
            theirs.append(timed(partial(peers.restore, other, delta)))
        for number in numbers[self._runs :]:
            asked.delete(number)
        against = f"{RESTORE} --noflush, -D and -X of its rules"
        self.rows.add(api.ONE_LESS, statistics.median(ours), against, statistics.median(theirs))

    def _beside(
        self, ours: Sequence[Call], host: Namespace, floor: str, tables: Sequence[peers.TableName] | None = None
    ) -> tuple[float, float]:
        """The medians of something of ours and of a floor, which is measured inside another host, in turn."""
        arguments = () if tables is None else (tables,)
        measured = [(timed(each), float(inside.run(host, floor, 1, *arguments))) for each in ours]
        return statistics.median(a for a, _ in measured), statistics.median(b for _, b in measured)

    def _group_changed(self, host: Namespace, asked: Api) -> None:
        first, *others = asked.group_changes(self._runs + 1)
        before = peers.save(host)
        first()
        delta = peers.replaced(before, peers.save(host))
        other = self._peer(host, before)
        ours, theirs = in_turn(others, [partial(peers.restore, other, delta)] * self._runs)
        self.rows.add(api.GROUP_CHANGED, ours, f"{RESTORE} -R of the same rules", theirs)

    def everybodys_rule(self) -> None:
        """One rule of a group that all instances share beside one of a group with one member."""
        everybody = Scene(self._scene.size, self._scene.size)
        agent = self._lab.agent(self._host("everybody"), scene.CONFIG)
        agent.state(scene.body(everybody.state()))
        asked = Api(agent, everybody, self.rows, self._seconds)
        one_more = everybody.size + 1
        asked.describe_groups([one_more])
        asked.put(one_more)

        def changes(group: int) -> list[Call]:
            return [partial(asked.put_group, group, shift, shifted=1) for shift in range(1, self._runs + 1)]

        ours, theirs = in_turn(changes(1), changes(everybody.group_of(one_more)))
        self.rows.add("a rule of a group that all share", ours, "of a group with one member", theirs, bar=1.3)
        agent.close()

    def _member(self, asked: Api) -> None:
        found = inside.run(self._host("member"), "member", self._scene.size, self._scene.shared, self._runs)
        against = "read and commit of the filter table"
        row = "one remote member more, in the agent"
        self.rows.add(row, found["ours"], against, found["read"] + found["commit"])
        self.rows.add(row, found["ours"], "one table commit", found["commit"], bar=0.02)
        asked.put_members(1)
        through = median(partial(asked.put_members, count) for count in range(2, self._runs + 2))
        row = "one remote member more, through the API"
        self.rows.add(row, through, against, found["read"] + found["commit"])
        asked.put_group(1)

    def _floating_ip(self, host: Namespace, asked: Api) -> None:
        before = peers.save(host)
        asked.put_floating_ip()
        after = peers.save(host)
        asked.delete_floating_ip()
        delta, tables = peers.added(before, after), peers.differing(before, after)
        other = self._peer(host, before)
        ours, theirs, bare = [], [], []
        for _ in range(self._runs):
            ours.append(timed(asked.put_floating_ip))
            theirs.append(timed(partial(peers.restore, other, delta)))
            bare.append(inside.run(other, "bare_commit", 1, tables))
            asked.delete_floating_ip()
        spent = statistics.median(ours)
        self.rows.add(api.FLOATING_IP, spent, f"{RESTORE} of its rules", statistics.median(theirs))
        self.rows.add(api.FLOATING_IP, spent, _BARE, statistics.median(bare))

    def _nothing(self, host: Namespace, agent: Agent) -> None:
        agent.resync()
        before = _written(agent)
        ours, theirs = in_turn([agent.resync] * self._runs, [partial(peers.save, host)] * self._runs)
        self.rows.add(api.RESYNC, ours, "iptables-legacy-save, both families", theirs)
        ours, bare = self._beside([agent.resync] * self._runs, host, "bare_read")
        self.rows.add(api.RESYNC, ours, "bare read of all tables", bare, bar=1.5)
        self.rows.add("tables written by a resync", _written(agent) - before, unit="", runs=2 * self._runs)

    def _replaced(self, host: Namespace, asked: Api) -> None:
        before = peers.save(host)
        ours, theirs, bare = [], [], []
        for replace in asked.replacements(3):
            ours.append(timed(replace))
            saved = peers.save(host)
            other = self._peer(host)
            theirs.append(timed(partial(peers.restore, other, saved)))
            bare.append(inside.run(other, "bare_commit", 1, peers.differing(before, saved)))
            before = saved
        spent = statistics.median(ours)
        self.rows.add(api.REPLACED, spent, f"{RESTORE} of all rules", statistics.median(theirs), runs=3)
        self.rows.add(api.REPLACED, spent, _BARE, statistics.median(bare), runs=3)


def programs(agent: Agent, runs: int, note: Callable[[Figure], None]) -> None:
    """How long the programs take to say the least."""
    daemon = daemon_command()
    ctl = [str(Path(daemon[0]).with_name("netagentctl")), "--socket", str(agent.socket), "status"]
    for name, words in (("nova-netagent --version", [*daemon, "--version"]), ("netagentctl status", ctl)):
        spent = median([partial[Any](agent.namespace.run, words)] * runs)
        note(Figure(0, "", name, spent / 1000, "s", "bar of 1 s", 1.0, runs, 0.3))


def _written(agent: Agent) -> float:
    """How many tables this process has committed."""
    _, text = agent.request("GET", "/metrics")
    lines = [line for line in str(text).splitlines() if line.startswith("netagent_applies_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
