"""The nftables backend, beside the system calls that its changes are made of and beside the other backend."""

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import api, inside, scene
from benchmarks.api import Api
from benchmarks.figures import Figure, median, timed
from benchmarks.rows import Rows
from benchmarks.scene import Scene
from nova_netagent.backend.nft import Netlink
from tests.lab import Agent, Lab, Namespace

CONFIG = {**scene.CONFIG, "firewall": {**scene.CONFIG["firewall"], "backend": "nftables"}}
KIND = "nftables"
_MEMBERS = 50


class Nft:
    """The rows of one scene, kept in ``rows`` for what is measured elsewhere.

    :param seconds: how long the stream of changes lasts.
    :param beside: the rows of the other backend.
    """

    def __init__(
        self, lab: Lab, what: Scene, runs: int, seconds: float, beside: Rows, note: Callable[[Figure], None]
    ) -> None:
        self.rows = Rows(what, runs, note, KIND, beside)
        self._lab = lab
        self._scene = what
        self._runs = runs
        self._seconds = seconds

    def run(self) -> None:
        """Measure everything."""
        self._inside()
        host = self._lab.host(f"nft-{self._scene.size}")
        agent = self._lab.agent(host, CONFIG)
        agent.state(scene.body(self._scene.state()))
        asked = Api(agent, self._scene, self.rows, self._seconds)
        self._one_more(asked)
        asked.storm()
        self._group_changed(asked)
        self._member(asked)
        self._floating_ip(asked)
        asked.stream()
        asked.requests()
        self._nothing(host, agent)
        self.rows.add(api.REPLACED, median(asked.replacements(3)), runs=3)
        asked.memory(api.MEMORY_AFTER)
        self._restarts(host, asked)
        asked.starts()
        asked.memory(api.MEMORY)
        agent.close()

    def _inside(self) -> None:
        host = self._lab.host(f"nft-inside-{self._scene.size}")
        found = inside.run(host, "nft", self._scene.size, self._scene.shared, self._runs)
        bare = "the bare send of the same batch"
        self.rows.add("whole state, model in memory to kernel, CPU", found["cold"][0], bare, found["cold"][1], bar=1.4)
        self.rows.add("one instance more, in the agent, CPU", found["more"][0], bare, found["more"][1], bar=1.3)

    def _one_more(self, asked: Api) -> None:
        first = self._scene.size + 1
        numbers = range(first, first + self._runs + 1)
        asked.describe_groups(numbers)
        asked.put(first)
        self.rows.add(api.ONE_MORE, median(partial(asked.put, n) for n in numbers[1:]), bar=0.1)
        drops = median(partial(asked.delete, n) for n in numbers)
        self.rows.add(api.ONE_LESS, drops, runs=len(numbers))

    def _group_changed(self, asked: Api) -> None:
        self.rows.add(api.GROUP_CHANGED, median(asked.group_changes(self._runs)))

    def _member(self, asked: Api) -> None:
        """The processor time of all threads of the agent."""
        asked.put_members(1)
        spent = []
        for count in range(2, _MEMBERS + 2):
            before = _processor_time(asked.agent.pid)
            asked.put_members(count)
            spent.append(_processor_time(asked.agent.pid) - before)
        row = "one remote member more, CPU of the agent"
        self.rows.add(row, statistics.median(spent), "bar of 2 ms", 2.0, bar=1, runs=_MEMBERS)
        asked.put_group(1)

    def _floating_ip(self, asked: Api) -> None:
        spent = []
        for _ in range(self._runs):
            spent.append(timed(asked.put_floating_ip))
            asked.delete_floating_ip()
        self.rows.add(api.FLOATING_IP, statistics.median(spent))

    def _nothing(self, host: Namespace, agent: Agent) -> None:
        agent.resync()
        before = host.call(_generation)
        self.rows.add(api.RESYNC, median([agent.resync] * self._runs))
        self.rows.add("transactions written by a resync", host.call(_generation) - before, unit="")

    def _restarts(self, host: Namespace, asked: Api) -> None:
        before = host.call(_generation)
        asked.restarts()
        written = (host.call(_generation) - before) / api.STARTS
        self.rows.add("transactions written by a restart", written, unit="", runs=api.STARTS)


def _generation() -> int:
    """How many transactions this namespace's nf_tables have taken, whoever sent them."""
    netlink = Netlink()
    try:
        return netlink.generation()
    finally:
        netlink.close()


def _processor_time(pid: int) -> float:
    """Milliseconds that the threads of a process have run (proc(5), schedstat)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6
