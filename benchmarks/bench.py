"""``tools/bench``: each figure beside a peer's or a floor's, measured in turn in the same run."""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks import api, control, fetched, machine, packets, scene
from benchmarks.control import Control, programs
from benchmarks.fetched import Fetched
from benchmarks.figures import Figure, markdown
from benchmarks.machine import Machine
from benchmarks.nft import Nft
from benchmarks.rows import Rows
from benchmarks.scene import RULES, Scene
from nova_netagent.cmd.agent import collect_rarely
from tests.lab import Lab, isolation

BESIDE_PEERS = {
    "one_more": api.ONE_MORE,
    "cold": control.COLD,
    "ready": api.READY,
    "memory": api.MEMORY,
    "rules": control.FILTER_RULES,
}
"""By what a peer calls it, the row that is put beside it."""
_PEER_RUNS = 3


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
        legacy = Control(lab, what, arguments.runs, arguments.seconds, report.note)
        legacy.run()
        nft = Nft(lab, what, arguments.runs, arguments.seconds, legacy.rows, report.note)
        nft.run()
        if what.size <= arguments.peer_size:
            for peer, words in arguments.peers.items():
                # nova copies a group's rules into every member's chain: whoever shares it changes nothing.
                found = peer.measure(words, lab.host(), what.size, what.shared, RULES, _PEER_RUNS)
                for figure in beside(peer, found, what.shared, (legacy.rows, nft.rows)):
                    report.note(figure)


def beside(peer: Fetched, found: Mapping[str, float], shared: int, ours: Sequence[Rows]) -> Iterable[Figure]:
    """What was measured of ours beside what a peer has of it."""
    for rows in ours:
        for key, row in BESIDE_PEERS.items():
            figure = rows.find(row)
            if key in found and figure is not None:
                yield figure.beside(peer.name, found[key], _PEER_RUNS, peer.bar(key, shared))


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
