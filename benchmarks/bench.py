"""``tools/bench``: each figure beside a peer's or a floor's, measured in turn in the same run."""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import peers, scene
from tests.lab import Agent, Lab, Namespace, isolation

RULES = 20


@dataclass(frozen=True)
class Figure:
    """One row: ours and the other's, in milliseconds of wall time (medians), and how often each was run."""

    size: int
    row: str
    ours: float
    against: str
    other: float | None
    runs: int

    @property
    def ratio(self) -> float | None:
        return None if not self.other else self.ours / self.other


def timed(function: Callable[[], object]) -> float:
    """Milliseconds that a call takes."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1000


def in_turn(ours: Sequence[Callable[[], object]], other: Sequence[Callable[[], object]]) -> tuple[float, float]:
    """The medians of two things done in turn, so that a busy machine is busy for both."""
    measured = [(timed(a), timed(b)) for a, b in zip(ours, other, strict=True)]
    return statistics.median(a for a, _ in measured), statistics.median(b for _, b in measured)


class Bench:
    """The rows of one size."""

    def __init__(self, lab: Lab, size: int, runs: int) -> None:
        self._lab = lab
        self._size = size
        self._runs = runs
        self.figures: list[Figure] = []

    def run(self) -> None:
        self._cold()
        host = self._host("host")
        agent = self._lab.agent(host, scene.CONFIG)
        agent.state(scene.body(scene.state(self._size, RULES)))
        full = peers.save(host)
        self._note("rules in the kernel", peers.rules(full), "", None, 1)
        self._one_more(host, agent)
        self._one_rule(host, agent)
        self._floating_ip(host, agent)
        self._nothing(host, agent)
        self._restart(agent)
        resident = int(_proc_status(agent.pid)["VmRSS"].split()[0]) / 1024
        self._note("resident memory, MiB", resident, "", None, 1)

    def _host(self, name: str) -> Namespace:
        return self._lab.host(f"{name}-{self._size}-{len(self.figures)}")

    def _note(self, row: str, ours: float, against: str, other: float | None, runs: int) -> None:
        figure = Figure(self._size, row, ours, against, other, runs)
        self.figures.append(figure)
        print(_line(figure), flush=True)

    def _cold(self) -> None:
        """A whole state, from the model in memory to rules in the kernel."""
        ours, theirs = [], []
        for _ in range(self._runs):
            host = self._host("cold")
            ours.append(_in_child(host, _cold_apply, self._size))
            saved = peers.save(host)
            fresh = self._host("peer")
            theirs.append(timed(lambda fresh=fresh, saved=saved: peers.restore(fresh, saved)))  # type: ignore[misc]
        against = "iptables-legacy-restore of the same rules"
        self._note("cold apply", statistics.median(ours), against, statistics.median(theirs), self._runs)

    def _one_more(self, host: Namespace, agent: Agent) -> None:
        first = self._size + 1
        numbers = range(first, first + 2 * self._runs + 1)
        for number in numbers:
            agent.put("security-groups", scene.body(scene.group(number, RULES)))
        before = peers.save(host)
        agent.put("instances", scene.body(scene.instance(first)))
        delta = peers.added(before, peers.save(host))
        other = self._host("peer")
        peers.restore(other, before)
        puts = [lambda n=n: agent.put("instances", scene.body(scene.instance(n))) for n in numbers[1 : self._runs + 1]]
        restores = [lambda: peers.restore(other, delta)] * self._runs
        ours, theirs = in_turn(puts, restores)
        self._note("one instance more, through the API", ours, "iptables-legacy-restore --noflush", theirs, self._runs)
        puts = [lambda n=n: agent.put("instances", scene.body(scene.instance(n))) for n in numbers[self._runs + 1 :]]
        floor = _in_child(other, _floor, self._runs)
        ours = statistics.median(timed(put) for put in puts)
        self._note("the same", ours, "libiptc: init and commit of the four tables", floor, self._runs)
        drops = [lambda n=n: agent.delete("instances", _id(scene.instance(n))) for n in numbers]
        self._note("one instance less", statistics.median(timed(drop) for drop in drops), "", None, len(drops))

    def _one_rule(self, host: Namespace, agent: Agent) -> None:
        chain = f"nova-netagent-sgi-{_id(scene.group(1, 1))[:8]}"
        saved = peers.save(host)
        other = self._host("peer")
        peers.restore(other, saved)
        replace = f"*filter\n-R {chain} 1 -s 203.0.113.0/24 -p tcp -m tcp --dport 9 -j ACCEPT\nCOMMIT\n"
        puts = [
            lambda n=n: agent.put("security-groups", scene.body(scene.group(1, RULES, shift=n)))
            for n in range(1, self._runs + 1)
        ]
        ours, theirs = in_turn(puts, [lambda: peers.restore(other, {4: replace})] * self._runs)
        self._note("a group's rules changed", ours, "iptables-legacy-restore -R of one rule", theirs, self._runs)

    def _floating_ip(self, host: Namespace, agent: Agent) -> None:
        before = peers.save(host)
        body = scene.body(scene.floating_ip())
        agent.put("floating-ips", body)
        delta = peers.added(before, peers.save(host))
        agent.delete("floating-ips", body["id"])
        other = self._host("peer")
        peers.restore(other, before)

        def put() -> None:
            agent.put("floating-ips", body)

        ours, theirs = [], []
        for _ in range(self._runs):
            ours.append(timed(put))
            theirs.append(timed(lambda: peers.restore(other, delta)))
            agent.delete("floating-ips", body["id"])
        against = "iptables-legacy-restore of its rules"
        self._note("one floating IP", statistics.median(ours), against, statistics.median(theirs), self._runs)

    def _nothing(self, host: Namespace, agent: Agent) -> None:
        ours, theirs = in_turn([agent.resync] * self._runs, [lambda: peers.save(host)] * self._runs)
        self._note("resync, nothing changed", ours, "iptables-legacy-save of both families", theirs, self._runs)

    def _restart(self, agent: Agent) -> None:
        """Stopped and started with nothing changed: time to ready, and how many tables were written."""
        times = []
        for _ in range(3):
            agent.stop()
            times.append(timed(agent.start))
        _, text = agent.request("GET", "/metrics")
        writes = sum(
            float(line.rsplit(" ", 1)[1])
            for line in str(text).splitlines()
            if line.startswith("netagent_applies_total{")
        )
        self._note(f"restart to ready ({writes:.0f} tables written)", statistics.median(times), "", None, 3)


def _id(item: Any) -> str:
    return str(item.id)


def _in_child(host: Namespace, function: Callable[[Any], float], argument: Any) -> float:
    """Run something in a process of its own in a namespace: python-iptables knows one thread and one kernel."""
    program = (
        f"import sys; from benchmarks import bench; print(bench.{function.__name__}({argument!r}), file=sys.stdout)"
    )
    done = host.run([sys.executable, "-c", program])
    return float(done.stdout.strip().splitlines()[-1])


def _cold_apply(size: int) -> float:
    from nova_netagent import wiring
    from nova_netagent.cmd.agent import collect_rarely
    from nova_netagent.compile import Compiler
    from nova_netagent.events import Replace, fold
    from nova_netagent.metrics import Metrics
    from nova_netagent.model import DesiredState
    from nova_netagent.reconcile import Reconciler
    from nova_netagent.settings import MetadataSettings, NetworkSettings, Settings

    collect_rarely()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            state_path=folder,
            network=NetworkSettings(("10.0.0.0/8",), "192.0.2.10", "eth0", manage_links=False),
            metadata=MetadataSettings("192.0.2.10"),
        )
        desired = fold(DesiredState(), Replace(scene.state(size, RULES)), 0.0)
        metrics = Metrics()
        store, host = wiring.open_store(settings), wiring.open_host(settings, metrics)
        _floor(1)  # python-iptables looks for its libraries when it is first used
        reconciler = Reconciler(settings.firewall, host, store, metrics)
        return timed(lambda: reconciler.apply(Compiler(settings).compile(desired), verify=True))


def _floor(runs: int) -> float:
    from nova_netagent.backend.iptables.entry import encode
    from nova_netagent.netfilter.rule import RETURN, Rule, TableId

    tables = [TableId(family, table) for family in (4, 6) for table in ("raw", "filter")]

    def once() -> None:
        for table in tables:
            key = encode(Rule(RETURN), table.family, lambda name: 0)
            chain = "PREROUTING" if table.name == "raw" else "FORWARD"
            peers.libiptc([table], chain, key)

    once()
    return statistics.median(timed(once) for _ in range(runs))


def _proc_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}


def _line(figure: Figure) -> str:
    other = "" if figure.other is None else f"{figure.other:10.1f}  {figure.against}"
    ratio = "" if figure.ratio is None else f"{figure.ratio:6.2f}"
    return f"{figure.size:6}  {figure.row:45} {figure.ours:10.1f} {ratio:>6} {other}"


def _markdown(figures: Sequence[Figure], machine: str) -> str:
    lines = [machine, "", "| instances | what | ours | ratio | other | against |", "|--:|---|--:|--:|--:|---|"]
    for each in figures:
        ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
        other = "" if each.other is None else f"{each.other:.1f}"
        lines.append(f"| {each.size} | {each.row} | {each.ours:.1f} | {ratio} | {other} | {each.against} |")
    return "\n".join(lines) + "\n"


def machine() -> str:
    """The machine, for whoever reads the figures later."""
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python"
        f" {platform.python_version()}, {peers.version()}. Milliseconds of wall time, medians; load"
        f" {os.getloadavg()[0]:.1f} at the end."
    )


def main() -> int:
    """Measure, print the table, and write it as JSON and Markdown."""
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__)
    parser.add_argument("--sizes", default="10,100,1000", help="how many instances, comma-separated")
    parser.add_argument("--runs", type=int, default=5, help="how often each thing is measured")
    parser.add_argument("--output", type=Path, default=Path("build"), help="where bench.json and bench.md go")
    arguments = parser.parse_args()
    reason = isolation.enter()
    if reason is not None:
        print(f"tools/bench: {reason}", file=sys.stderr)
        return 1
    figures: list[Figure] = []
    print(f"{'size':>6}  {'what':45} {'ours':>10} {'ratio':>6} {'other':>10}  (milliseconds)")
    for size in (int(each) for each in arguments.sizes.split(",")):
        with tempfile.TemporaryDirectory() as folder, Lab(Path(folder)) as lab:
            bench = Bench(lab, size, arguments.runs)
            bench.run()
            figures += bench.figures
    arguments.output.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine(), "figures": [asdict(each) | {"ratio": each.ratio} for each in figures]}
    (arguments.output / "bench.json").write_text(json.dumps(result, indent=1))
    (arguments.output / "bench.md").write_text(_markdown(figures, machine()))
    print(f"\n{machine()}\nwritten: {arguments.output}/bench.json, {arguments.output}/bench.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
