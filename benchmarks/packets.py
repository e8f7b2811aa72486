"""The packet path: what the rules cost a packet to the last of many instances, routed and bridged.

Beside it the same host with nova's rules (a list of jumps by address), and with none.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import nft, peers, scene
from benchmarks.figures import Figure
from benchmarks.scene import RULES, Scene
from nova_netagent.model import Object
from nova_netagent.testing import make_group, make_rule
from tests.lab import Lab, Namespace

NFTABLES = "ours, nftables"
PORT = 5001
_GATEWAY = "10.1.0.1"
_SECONDS = 0.5

_FLOOD = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], int(sys.argv[2])))
end, count = time.perf_counter() + float(sys.argv[3]), 0
start = time.process_time()
while time.perf_counter() < end:
    for _ in range(200):
        s.send(b"x" * 64)
    count += 200
print((time.process_time() - start) / count * 1e9)
"""
_CONNECT = """
import socket, sys, time
end, count = time.perf_counter() + float(sys.argv[3]), 0
start = time.process_time()
while time.perf_counter() < end:
    socket.create_connection((sys.argv[1], int(sys.argv[2]))).close()
    count += 1
print((time.process_time() - start) / count * 1e9)
"""
_SERVE = """
import socket, sys, threading
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(("", int(sys.argv[1])))
t = socket.create_server(("", int(sys.argv[1])), backlog=4096)
print("ready", flush=True)
while True:
    t.accept()[0].close()
"""
_PROGRAMS = {"UDP packet": _FLOOD, "TCP connection": _CONNECT}


class Place:
    """A host with some rules, the last instance behind it, and who sends to it."""

    def __init__(self, lab: Lab, size: int, name: str) -> None:
        self.size = size
        self.name = name
        self.host = lab.host()
        lab.outside.links.add_route("10.1.0.0/16", via=self.host.ip4)
        self.last = self._guest(lab, size)
        self.neighbour = self._guest(lab, size - 1)
        self.outside = lab.outside

    def _guest(self, lab: Lab, number: int) -> Namespace:
        mac = f"fa:16:3e:00:{number >> 8:02x}:{number & 255:02x}"
        address = f"{scene.address(number)}/16"
        return lab.instance(self.host, tap=scene.device(number), mac=mac, addresses=[address], gateways=[_GATEWAY])

    def bridge(self, lab: Lab) -> None:
        """What the agent makes, made by hand."""
        lab.bridge(self.host, "br1", addresses=(f"{_GATEWAY}/16",))
        for number in (self.size, self.size - 1):
            self.host.links.set(scene.device(number), master="br1")
        self.host.sysctl("net.bridge.bridge-nf-call-iptables", 1)

    def serve(self) -> None:
        """Let the last instance answer."""
        server = self.last.popen([sys.executable, "-c", _SERVE, str(PORT)], stdout=-1)
        assert server.stdout is not None
        server.stdout.readline()

    def measure(self, program: str, bridged: bool) -> float:
        """Nanoseconds of the sender's processor a packet or a connection: the kernel forwards within its send."""
        sender = self.neighbour if bridged else self.outside
        words = [sys.executable, "-c", _PROGRAMS[program], scene.address(self.size), str(PORT), str(_SECONDS)]
        return float(sender.run(words).stdout)


def _open_group(what: Scene, number: int) -> Object:
    """The last instance's group: its last rules let the benchmark in."""
    own = [
        make_rule(number * 1000 + index, protocol="tcp", port_range_min=1000 + index, port_range_max=1000 + index)
        for index in range(RULES - 2)
    ]
    opened = [
        make_rule(number * 1000 + 100 + index, protocol=protocol, port_range_min=PORT, port_range_max=PORT)
        for index, protocol in enumerate(("tcp", "udp"))
    ]
    return make_group(what.group_of(number), *own, *opened)


def _with_ours(lab: Lab, size: int) -> Place:
    return _with_agent(lab, size, "ours", scene.CONFIG)


def _with_nftables(lab: Lab, size: int) -> Place:
    return _with_agent(lab, size, NFTABLES, nft.CONFIG)


def _with_agent(lab: Lab, size: int, name: str, config: dict[str, dict[str, Any]]) -> Place:
    place = Place(lab, size, name)
    agent = lab.agent(place.host, config)
    what = Scene(size)
    agent.request("PUT", "/v1/state", scene.body(what.state()), timeout=300)
    agent.put("security-groups", scene.body(_open_group(what, size)))
    return place


def _with_novas(lab: Lab, size: int) -> Place:
    place = Place(lab, size, "nova's list")
    place.bridge(lab)
    peers.restore(place.host, {4: "\n".join(novas_rules(size))})
    return place


def _with_none(lab: Lab, size: int) -> Place:
    place = Place(lab, size, "no rules")
    place.bridge(lab)
    return place


def novas_rules(size: int) -> Iterator[str]:
    """The chains of nova-network's compute driver: an instance a jump, by address, and its rules in its chain."""
    yield "*filter"
    for name in ("FORWARD", "local", "sg-fallback", *(f"inst-{n}" for n in range(1, size + 1))):
        yield f":nova-compute-{name} - [0:0]"
    yield ":nova-filter-top - [0:0]"
    yield "-A FORWARD -j nova-filter-top"
    yield "-A nova-filter-top -j nova-compute-local"
    yield "-A nova-compute-sg-fallback -j DROP"
    for number in range(1, size + 1):
        chain = f"nova-compute-inst-{number}"
        yield f"-A nova-compute-local -d {scene.address(number)}/32 -j {chain}"
        yield f"-A {chain} -m state --state INVALID -j DROP"
        yield f"-A {chain} -m state --state RELATED,ESTABLISHED -j ACCEPT"
        yield f"-A {chain} -s {_GATEWAY}/32 -p udp -m udp --sport 67 --dport 68 -j ACCEPT"
        for index in range(RULES - 2):
            yield f"-A {chain} -p tcp -m tcp --dport {1000 + index} -j ACCEPT"
        for protocol in ("tcp", "udp"):
            yield f"-A {chain} -p {protocol} -m {protocol} --dport {PORT} -j ACCEPT"
        yield f"-A {chain} -j nova-compute-sg-fallback"
    yield "COMMIT\n"


_PLACES: Mapping[str, Callable[[Lab, int], Place]] = {
    "ours": _with_ours,
    NFTABLES: _with_nftables,
    "nova's list": _with_novas,
    "no rules": _with_none,
}


def measure(sizes: list[int], runs: int, note: Callable[[Figure], None]) -> None:
    """Everything, in turn: a busy machine is busy for all of them."""
    found: dict[tuple[str, int, str, bool], list[float]] = {}
    with ExitStack() as stack:
        places = []
        for size in sizes:
            for make in _PLACES.values() if size == sizes[0] else (_with_ours, _with_nftables, _with_novas):
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                lab = stack.enter_context(Lab(Path(folder)))
                places.append(make(lab, size))
                places[-1].serve()
        for _ in range(runs):
            for place in places:
                for program in _PROGRAMS:
                    for bridged in (False, True):
                        spent = place.measure(program, bridged)
                        found.setdefault((place.name, place.size, program, bridged), []).append(spent)
    # The least disturbed one of each: noise only ever adds.
    best = {key: min(spent) for key, spent in found.items()}
    for program in _PROGRAMS:
        for bridged in (False, True):
            _note(best, sizes, program, bridged, runs, note)


def _note(
    best: Mapping[tuple[str, int, str, bool], float],
    sizes: list[int],
    program: str,
    bridged: bool,
    runs: int,
    note: Callable[[Figure], None],
) -> None:
    way = "bridged" if bridged else "routed"
    none = best["no rules", sizes[0], program, bridged]
    for size in sizes:
        ours, novas = (best[name, size, program, bridged] for name in ("ours", "nova's list"))
        row = f"CPU ns a {program}, {way}"
        note(Figure(size, "private", row, ours, "ns", "no rules", none, runs))
        note(Figure(size, "private", row, ours, "ns", "nova's list", novas, runs))
        note(
            Figure(
                size,
                "private",
                f"nftables: {row}",
                best[NFTABLES, size, program, bridged],
                "ns",
                "the iptables backend",
                ours,
                runs,
            )
        )
    if len(sizes) > 1:
        near, far = (best[NFTABLES, size, program, bridged] for size in (sizes[0], sizes[-1]))
        row = f"nftables: CPU ns a {program}, {way}"
        note(Figure(sizes[-1], "private", row, far, "ns", f"to the last of {sizes[0]}", near, runs, 1.15))
        first, last = (best["ours", size, program, bridged] for size in (sizes[0], sizes[-1]))
        against = f"to the last of {sizes[0]}"
        note(Figure(sizes[-1], "private", f"CPU ns a {program}, {way}", last, "ns", against, first, runs, 1.15))
        novas = best["nova's list", sizes[-1], program, bridged]
        note(
            Figure(
                sizes[-1],
                "private",
                f"rules' own CPU ns a {program}, {way}",
                _own(last, none),
                "ns",
                "nova's list",
                _own(novas, none),
                runs,
                1 / 3,
            )
        )


def _own(spent: float, none: float) -> float:
    """What the rules add; less than the noise is the noise."""
    return max(spent - none, statistics.fmean((spent, none)) * 0.01)
