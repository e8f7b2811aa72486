"""What it costs, for people to read: run with -s. Nothing is asserted but that it works."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator

import pytest

from nova_netagent.backend.frames import KernelFrames
from nova_netagent.netfilter.frames import Closed, Frames
from tests.functional.frames.site import BridgeSite
from tests.lab import Namespace, frames, needs
from tests.lab.frames import ETH_IPV4, ethernet
from tests.unit.frames.contract import vif

pytestmark = needs("bridge", "veth", "nftables", "br_netfilter")

FRAMES_SENT = 4_000


@pytest.fixture
def kernel(new_namespace: Callable[[str], Namespace]) -> Iterator[KernelFrames]:
    namespace = new_namespace("cost")
    made = KernelFrames("nova-netagent")
    namespace.call(made.read)  # opens its socket in there
    yield made
    made.close()


@pytest.mark.parametrize("count", [100, 1000])
def test_one_vif_more(kernel: KernelFrames, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    known = [vif(number) for number in range(1, count + 1)]
    few, more = Frames(secured=tuple(known)), Frames(secured=(*known, vif(count + 1)))
    costs = {"cold": _cost(lambda: kernel.apply(few))}
    steps: dict[str, list[tuple[float, float]]] = {}
    for _ in range(7):
        steps.setdefault("one more", []).append(_cost(lambda: kernel.apply(more)))
        steps.setdefault("nothing to do", []).append(_cost(lambda: kernel.apply(more)))
        steps.setdefault("one less", []).append(_cost(lambda: kernel.apply(few)))
    costs |= {name: min(each) for name, each in steps.items()}
    with capsys.disabled():
        words = ", ".join(f"{name} {cpu:.2f} ({wall:.2f})" for name, (cpu, wall) in costs.items())
        print(f"\n  {count} vifs, CPU ms (wall): {words}")
    assert kernel.plan(few) == []


def test_a_frame(site: BridgeSite, capsys: pytest.CaptureFixture[str]) -> None:
    others = tuple(vif(number) for number in range(1, 1001))
    secured = tuple(site.secured(each) for each in (site.vm1, site.vm2))
    states = {
        "without a table": None,
        "ports not spoken of": Frames(secured=others),
        "both ports secured": Frames(secured=(*others, *secured)),
        "refused": Frames(secured=others, closed=(Closed(site.tap(site.vm1)),)),
    }
    found: dict[str, list[float]] = {name: [] for name in states}
    for _ in range(5):
        for name, state in states.items():
            site.call(site.frames.remove)
            if state is not None:
                site.let(state)
            found[name].append(_per_frame(site))
    with capsys.disabled():
        print("\n  ns a frame, vm to vm: " + ", ".join(f"{k} {statistics.median(v):.0f}" for k, v in found.items()))


def _per_frame(site: BridgeSite) -> float:
    packet = frames.ip(site.vm1.ip4, site.vm2.ip4, 17, frames.udp(site.vm1.ip4, site.vm2.ip4, 9, 9, bytes(32)))
    frame = ethernet(site.vm2.mac, site.vm1.mac, ETH_IPV4, packet)
    send = site.vm1.wire("eth0").send
    begin = time.process_time()
    for _ in range(FRAMES_SENT):
        send(frame)
    return (time.process_time() - begin) / FRAMES_SENT * 1e9


def _cost(act: Callable[[], object]) -> tuple[float, float]:
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    act()
    return (time.process_time() - cpu) * 1e3, (time.perf_counter() - wall) * 1e3
