"""The packet path: what the rules cost a packet to the last of many instances, routed and bridged.

Beside it the same host with nova's rules (a list of jumps by address), and with none.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import nft, peers, scene
from benchmarks.figures import Figure
from benchmarks.rows import Rows
from benchmarks.scene import RULES, Scene
from nova_netagent.model import Object
from nova_netagent.testing import make_group, make_rule
from tests.lab import Lab, Namespace

OURS = "ours"
NFTABLES = "ours, nftables"
NOVAS = "nova's list"
NONE = "no rules"
PORT = 5001
_GATEWAY = "10.1.0.1"
_SECONDS = 0.5
_OURS = ((OURS, ""), (NFTABLES, nft.KIND))
"""Our places, and the kind of their rows."""

_FLOOD = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], int(sys.argv[2])))
began, start, count = time.perf_counter(), time.process_time(), 0
end = began + float(sys.argv[3])
while time.perf_counter() < end:
    for _ in range(200):
        s.send(b"x" * 64)
    count += 200
print((time.process_time() - start) / count * 1e9, count / (time.perf_counter() - began))
"""
_CONNECT = """
import socket, sys, time
began, start, count = time.perf_counter(), time.process_time(), 0
end = began + float(sys.argv[3])
while time.perf_counter() < end:
    socket.create_connection((sys.argv[1], int(sys.argv[2]))).close()
    count += 1
print((time.process_time() - start) / count * 1e9, count / (time.perf_counter() - began))
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


class Pace(NamedTuple):
    """What a packet or a connection costs, and how many of them there are in a second."""

    nanoseconds: float
    """Of the sender's processor: the kernel forwards within its send."""
    rate: float
    """By the clock on the wall."""

    def better(self, other: "Pace") -> "Pace":
        """The less disturbed of each: noise only ever adds to what is spent."""
        return Pace(min(self.nanoseconds, other.nanoseconds), max(self.rate, other.rate))


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

    def measure(self, program: str, bridged: bool) -> Pace:
        """Send for a while."""
        sender = self.neighbour if bridged else self.outside
        words = [sys.executable, "-c", _PROGRAMS[program], scene.address(self.size), str(PORT), str(_SECONDS)]
        spent, rate = map(float, sender.run(words).stdout.split())
        return Pace(spent, rate)


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
    return _with_agent(lab, size, OURS, scene.CONFIG)


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
    place = Place(lab, size, NOVAS)
    place.bridge(lab)
    peers.restore(place.host, {4: "\n".join(novas_rules(size))})
    return place


def _with_none(lab: Lab, size: int) -> Place:
    place = Place(lab, size, NONE)
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
    OURS: _with_ours,
    NFTABLES: _with_nftables,
    NOVAS: _with_novas,
    NONE: _with_none,
}


def measure(sizes: list[int], runs: int, note: Callable[[Figure], None]) -> None:
    """Everything, in turn: a busy machine is busy for all of them."""
    found: dict[tuple[str, bool], dict[tuple[str, int], Pace]] = {}
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
                for traffic in product(_PROGRAMS, (False, True)):
                    best = found.setdefault(traffic, {})
                    pace, at = place.measure(*traffic), (place.name, place.size)
                    best[at] = pace.better(best.get(at, pace))
    for (program, bridged), paces in found.items():
        _Traffic(program, bridged, paces, sizes, runs, note).note()


class _Traffic:
    """The rows of one kind of traffic."""

    def __init__(
        self,
        program: str,
        bridged: bool,
        paces: Mapping[tuple[str, int], Pace],
        sizes: list[int],
        runs: int,
        note: Callable[[Figure], None],
    ) -> None:
        way = "bridged" if bridged else "routed"
        self._spent = f"CPU ns a {program}, {way}"
        self._rate = f"{program}s a second, {way}"
        self._paces = paces
        self._none = paces[NONE, sizes[0]]
        self._sizes = sizes
        self._rows = {(name, size): Rows(Scene(size), runs, note, kind) for name, kind in _OURS for size in sizes}

    def note(self) -> None:
        """Note them all."""
        for size in self._sizes:
            for name, _ in _OURS:
                self._costs(name, size)
                self._rates(name, size)
            spent, other = (self._paces[name, size].nanoseconds for name in (NFTABLES, OURS))
            self._rows[NFTABLES, size].add(self._spent, spent, "the iptables backend", other, unit="ns")
        if len(self._sizes) > 1:
            for name, _ in _OURS:
                self._growth(name, self._sizes[0], self._sizes[-1])

    def _costs(self, name: str, size: int) -> None:
        spent, novas = (self._paces[each, size].nanoseconds for each in (name, NOVAS))
        self._rows[name, size].add(self._spent, spent, NONE, self._none.nanoseconds, unit="ns")
        self._rows[name, size].add(self._spent, spent, NOVAS, novas, unit="ns")

    def _rates(self, name: str, size: int) -> None:
        rate, novas = (self._paces[each, size].rate for each in (name, NOVAS))
        self._rows[name, size].add(self._rate, rate, NONE, self._none.rate, unit="")
        self._rows[name, size].add(self._rate, rate, NOVAS, novas, unit="")

    def _growth(self, name: str, first: int, last: int) -> None:
        """To the last of many instances beside the last of few, and what the rules alone cost there."""
        near, far = (self._paces[name, size].nanoseconds for size in (first, last))
        novas = self._paces[NOVAS, last].nanoseconds
        rows = self._rows[name, last]
        rows.add(self._spent, far, f"to the last of {first}", near, unit="ns", bar=1.15)
        own, list_ = (_own(spent, self._none.nanoseconds) for spent in (far, novas))
        rows.add(f"rules' own {self._spent}", own, NOVAS, list_, unit="ns", bar=1 / 3)


def _own(spent: float, none: float) -> float:
    """What the rules add; less than the noise is the noise."""
    return max(spent - none, statistics.fmean((spent, none)) * 0.01)
