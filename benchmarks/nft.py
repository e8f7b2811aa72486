"""The nftables backend, beside the system calls that its changes are made of and beside the other backend."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import inside, scene
from benchmarks.control import resident, restarted
from benchmarks.figures import Figure, median
from benchmarks.scene import Scene
from tests.lab import Agent, Lab

CONFIG = {**scene.CONFIG, "firewall": {**scene.CONFIG["firewall"], "backend": "nftables"}}
_MEMBERS = 50


class Nft:
    """The rows of one scene.

    :param one_more: milliseconds that one instance more takes through the API of the other backend.
    """

    def __init__(self, lab: Lab, what: Scene, runs: int, one_more: float, note: Callable[[Figure], None]) -> None:
        self._lab = lab
        self._scene = what
        self._runs = runs
        self._one_more = one_more
        self._note = note
        self.one_more = 0.0
        """Milliseconds, for the peers that are measured elsewhere."""

    def run(self) -> None:
        """Measure everything."""
        self._inside()
        agent = self._lab.agent(self._lab.host(f"nft-{self._scene.size}"), CONFIG)
        agent.state(scene.body(self._scene.state()))
        self._through_the_api(agent)
        self._member(agent)
        agent.resync()
        self._add("resync, nothing changed", median([agent.resync] * self._runs))
        self._add("resident memory", resident(agent.pid), unit="MiB")
        self._add("restart to ready", restarted(agent), runs=3)
        agent.close()

    def _add(self, row: str, ours: float, against: str = "", other: float | None = None, **rest: Any) -> None:
        rest = {"runs": self._runs} | rest
        self._note(
            Figure(self._scene.size, self._scene.groups, f"nftables: {row}", ours, against=against, other=other, **rest)
        )

    def _inside(self) -> None:
        host = self._lab.host(f"nft-inside-{self._scene.size}")
        found = inside.run(host, "nft", self._scene.size, self._scene.shared, self._runs)
        bare = "the bare send of the same batch"
        self._add("whole state, model in memory to kernel, CPU", found["cold"][0], bare, found["cold"][1], bar=1.4)
        self._add("one instance more, in the agent, CPU", found["more"][0], bare, found["more"][1], bar=1.3)

    def _through_the_api(self, agent: Agent) -> None:
        numbers = range(self._scene.size + 1, self._scene.size + 1 + self._runs + 1)
        for group in sorted({self._scene.group_of(number) for number in numbers}):
            agent.put("security-groups", scene.body(self._scene.group(group)))
        puts = [lambda n=n: agent.put("instances", scene.body(self._scene.instance(n))) for n in numbers]
        puts[0]()
        self.one_more = median(puts[1:])
        against = "the iptables backend"
        self._add("one instance more, through the API", self.one_more, against, self._one_more, bar=0.1)

    def _member(self, agent: Agent) -> None:
        """The processor time of all threads of the agent."""
        remote = Scene(self._scene.size, self._scene.shared, remote=True)

        def put(count: int) -> None:
            members = tuple(f"192.0.2.{index}" for index in range(1, count + 1))
            agent.put("security-groups", scene.body(remote.group(1, members=members)))

        put(1)
        spent = []
        for count in range(2, _MEMBERS + 2):
            before = _processor_time(agent.pid)
            put(count)
            spent.append(_processor_time(agent.pid) - before)
        self._add("one remote member more, CPU of the agent", statistics.median(spent), "bar of 2 ms", 2.0, bar=1)


def _processor_time(pid: int) -> float:
    """Milliseconds that the threads of a process have run (proc(5), schedstat)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6
