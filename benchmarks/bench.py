"""``tools/bench``: each figure beside a peer's or a floor's, measured in turn in the same run."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks import fetched, machine, packets, scene
from benchmarks.control import Control, programs
from benchmarks.figures import Figure, markdown
from benchmarks.machine import Machine
from benchmarks.nft import Nft
from benchmarks.scene import RULES, Scene
from nova_netagent.cmd.agent import collect_rarely
from tests.lab import Lab, isolation


class Report:
    """Figures, printed as they come and written after each: a long run that ends early has said what it knew."""

    def __init__(self, output: Path, machine: Machine) -> None:
        self._output = output
        self._machine = machine
        self._figures: list[Figure] = []
        output.mkdir(parents=True, exist_ok=True)

    def note(self, figure: Figure) -> None:
        """One figure more."""
        self._figures.append(figure)
        print(figure.line(), flush=True)
        here = machine.under_load(self._machine)
        plain = {"machine": here, "figures": [each.plain() for each in self._figures]}
        (self._output / "bench.json").write_text(json.dumps(plain, indent=1))
        (self._output / "bench.md").write_text(f"{machine.line(here)}\n\n{markdown(self._figures)}")

    def end(self) -> str:
        """What is said at the end."""
        here = machine.line(machine.under_load(self._machine))
        return f"{here}\nwritten: {self._output}/bench.json, {self._output}/bench.md"


def measure(what: Scene, arguments: argparse.Namespace, report: Report) -> None:
    """One size, one kind of groups, and the peers beside it."""
    with tempfile.TemporaryDirectory() as folder, Lab(Path(folder)) as lab:
        control = Control(lab, what, arguments.runs, arguments.seconds, report.note)
        control.run()
        nft = Nft(lab, what, arguments.runs, control.one_more, report.note)
        nft.run()
        if what.size <= arguments.peer_size:
            ours = {
                "one_more": ("one instance more, through the API", "ms", control.one_more),
                "cold": ("whole state: model in memory to kernel", "ms", control.cold),
                "ready": ("start to ready, nothing in the kernel", "ms", control.ready),
                "memory": ("resident memory", "MiB", control.memory),
                "rules": ("rules in the filter table, IPv4", "", control.filter_rules),
            }
            for peer, words in arguments.peers.items():
                # nova copies a group's rules into every member's chain: whoever shares it changes nothing.
                found = peer.measure(words, lab.host(), what.size, what.shared, RULES, 3)
                for key, (row, unit, value) in ours.items():
                    if key in found:
                        bar = peer.bar(key, what.shared)
                        report.note(Figure(what.size, what.groups, row, value, unit, peer.name, found[key], 3, bar))
                row = "nftables: one instance more, through the API"
                report.note(Figure(what.size, what.groups, row, nft.one_more, "ms", peer.name, found["one_more"], 3))


def main() -> int:
    """Measure, print the table, and write it as JSON and Markdown."""
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100 instances, a few runs of each: a minute")
    parser.add_argument("--sizes", help="how many instances, comma-separated (10,100,1000,5000)")
    parser.add_argument("--shared", help="by how many instances a group is shared, comma-separated (1,20)")
    parser.add_argument("--runs", type=int, help="how often each thing is measured (5)")
    parser.add_argument("--seconds", type=float, help="how long the stream of changes lasts (60)")
    parser.add_argument("--only", choices=("control", "packets"), help="one half of it")
    parser.add_argument("--peers", type=Path, help="also measure nova, neutron and firewalld; they are fetched to here")
    parser.add_argument("--peer-size", type=int, default=1000, help="up to how many instances (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("build"), help="where bench.json and bench.md go")
    arguments = parser.parse_args()
    quick = arguments.quick
    sizes = [int(each) for each in (arguments.sizes or ("100" if quick else "10,100,1000,5000")).split(",")]
    shared = [int(each) for each in (arguments.shared or ("1" if quick else "1,20")).split(",")]
    arguments.runs = arguments.runs or (3 if quick else 5)
    arguments.seconds = arguments.seconds or (3 if quick else 60)
    chosen = fetched.PEERS if arguments.peers else ()
    folder_of_peers = arguments.peers
    arguments.peers = {peer: peer.fetch(folder_of_peers) for peer in chosen}
    reason = isolation.enter()
    if reason is not None:
        print(f"tools/bench: {reason}", file=sys.stderr)
        return 1
    collect_rarely()  # callers are in this process: a pause of theirs would be measured as the agent's
    report = Report(arguments.output, machine.look(peer.version(folder_of_peers) for peer in chosen))
    if arguments.only != "packets":
        for size in sizes:
            for by in shared:
                measure(Scene(size, by), arguments, report)
        with tempfile.TemporaryDirectory() as folder, Lab(Path(folder)) as lab:
            Control(lab, Scene(sizes[-1]), arguments.runs, arguments.seconds, report.note).everybodys_rule()
            programs(lab.agent(lab.host(), scene.CONFIG), arguments.runs, report.note)
    if arguments.only != "control":
        packets.measure(sizes, arguments.runs, report.note)
    print(f"\n{report.end()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
