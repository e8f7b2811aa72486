"""What an agent is asked for through its API, and how long that takes, whatever filters its packets."""

import statistics
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks import peers, scene
from benchmarks.figures import median, timed
from benchmarks.rows import Rows
from benchmarks.scene import RULES, Scene
from tests.lab import Agent

ONE_MORE = "one instance more, through the API"
ONE_LESS = "one instance less"
GROUP_CHANGED = f"a group's {RULES} rules changed"
FLOATING_IP = "one floating IP"
RESYNC = "resync, nothing changed"
REPLACED = "whole state replaced, through the API"
READY = "start to ready, nothing in the kernel"
MEMORY = "resident memory"
MEMORY_AFTER = "resident memory after all these changes"
STORM = 50
RATE = 8
"""Changes a second, in the stream."""
STARTS = 3

Call = Callable[[], object]


class Api:
    """An agent that has a whole scene: calls to be timed, and the rows that need nothing else beside them.

    :param seconds: how long the stream of changes lasts.
    """

    def __init__(self, agent: Agent, what: Scene, rows: Rows, seconds: float) -> None:
        self.agent = agent
        self._scene = what
        self._rows = rows
        self._seconds = seconds

    # calls to be timed

    def describe_groups(self, numbers: Iterable[int]) -> None:
        """Describe the groups of instances that come later."""
        for group in sorted({self._scene.group_of(number) for number in numbers}):
            self.put_group(group)

    def put_group(self, number: int, shift: int = 0, shifted: int = RULES) -> None:
        """Describe a group."""
        self.agent.put("security-groups", scene.body(self._scene.group(number, shift, shifted)))

    def put(self, number: int) -> None:
        """Describe an instance."""
        self.agent.put("instances", scene.body(self._scene.instance(number)))

    def delete(self, number: int) -> None:
        """Take an instance away."""
        self.agent.delete("instances", str(self._scene.instance(number).id))

    def group_changes(self, count: int) -> list[Call]:
        """Every rule of the first group becomes another one, so many times."""
        return [partial(self.put_group, 1, shift) for shift in range(1, count + 1)]

    def put_members(self, count: int) -> None:
        """Describe the first group as one that lets its members in, with so many remote ones."""
        members = tuple(f"192.0.2.{index}" for index in range(1, count + 1))
        remote = Scene(self._scene.size, self._scene.shared, remote=True)
        self.agent.put("security-groups", scene.body(remote.group(1, members=members)))

    def put_floating_ip(self) -> None:
        """Describe the floating IP."""
        self.agent.put("floating-ips", scene.body(scene.floating_ip()))

    def delete_floating_ip(self) -> None:
        """Take the floating IP away."""
        self.agent.delete("floating-ips", str(scene.floating_ip().id))

    def replacements(self, count: int) -> list[Call]:
        """Every group's rules become others, in one request, so many times."""
        bodies = [scene.body(self._scene.state(shift=shift)) for shift in range(1, count + 1)]
        return [partial(self.agent.request, "PUT", "/v1/state", body, timeout=120) for body in bodies]

    # rows

    def storm(self) -> None:
        """Many instances described at once, by as many callers."""
        first = self._scene.size + 1000
        numbers = range(first, first + STORM)
        self.describe_groups((first - 1, *numbers))
        alone, together = [], []
        with ThreadPoolExecutor(STORM) as pool:
            for _ in range(self._rows.runs):
                alone.append(timed(lambda: self.put(first - 1)))
                together.append(timed(lambda: list(pool.map(self.put, numbers))))
                for number in (first - 1, *numbers):
                    self.delete(number)
        one, all_ = statistics.median(alone), statistics.median(together)
        self._rows.add(f"{STORM} instances at once", all_, "one alone", one, bar=2)

    def stream(self) -> None:
        """Changes at a steady rate, whoever waits: when does the caller know that the kernel has it?"""
        first = self._scene.size + 100
        self.describe_groups(first + number for number in range(RATE))
        lone = median([partial(self._come_or_go, first, n) for n in range(4 * RATE)])
        latencies: list[float] = []
        failed: list[BaseException] = []

        def change(number: int, due: float) -> None:
            try:
                self._come_or_go(first, number)
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
        self._rows.add(f"{row}: p50", p50, "a lone change", lone, runs=len(latencies))
        self._rows.add(f"{row}: p99", p99, "a lone change", lone, runs=len(latencies), bar=3)
        self._rows.add("of these lost", len(failed), unit="", runs=len(threads))

    def _come_or_go(self, first: int, number: int) -> None:
        """Instances come in one second and go in the next."""
        change = self.delete if number // RATE % 2 else self.put
        change(first + number % RATE)

    def requests(self) -> None:
        """Requests that change nothing, one caller after another."""
        path = f"/v1/instances/{self._scene.instance(1).id}"
        body = scene.body(self._scene.instance(1))
        count = 20 * self._rows.runs
        for name, ask in (
            ("GET of an instance", partial(self.agent.request, "GET", path)),
            ("PUT of an unchanged instance", partial(self.agent.request, "PUT", path, body)),
        ):
            spent = sum(timed(ask) for _ in range(count))
            self._rows.add(f"API requests a second: {name}", count / spent * 1000, unit="", runs=count)

    def restarts(self) -> None:
        """Stopped and started with nothing changed: time to ready."""
        self._rows.add("restart to ready", self._started(lambda: None), runs=STARTS)

    def starts(self) -> None:
        """Stopped, everything taken out of the kernel, and started: time to ready."""
        self._rows.add(READY, self._started(lambda: peers.empty(self.agent.namespace)), runs=STARTS)

    def _started(self, between: Call) -> float:
        """How long it takes to be ready again, in milliseconds."""
        times = []
        for _ in range(STARTS):
            self.agent.stop()
            between()
            times.append(timed(self.agent.start))
        return statistics.median(times)

    def memory(self, row: str) -> None:
        """The agent's resident memory, as it is now."""
        self._rows.add(row, _resident(self.agent.pid), unit="MiB", runs=1)


def _resident(pid: int) -> float:
    """The resident memory of a process, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return int(found) / 1024
