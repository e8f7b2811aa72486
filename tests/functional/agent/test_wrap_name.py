"""``[firewall] wrap_name`` is not what it was at the last start: rules of the new name take the place of the old."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from nova_netagent.testing import make_group, make_instance, make_provider_rule, make_rule
from tests.functional.agent.cloud import CONFIG
from tests.functional.agent.kernel import cleanup, eventually, kernel, lock_held, metric, run_ctl
from tests.functional.agent.nft import W
from tests.functional.agent.test_backends import OTHER, forbidden, knocking, owned_leftover, transfer
from tests.functional.agent.test_life_restart import Town
from tests.functional.conftest import BESIDE_EACH_OTHER
from tests.lab import Lab, Tcp, connect, needs, refused

pytestmark = [
    needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge", "nftables", "program:nft"),
    BESIDE_EACH_OTHER,
]

NEW = "renamed"


def named(backend: str, name: str) -> dict[str, Any]:
    return {**CONFIG, "firewall": {"backend": backend, "wrap_name": name}}


def text(town: Town) -> str:
    return str(kernel(town.host)).replace("nova-netagent: what may pass", "")  # what our tables' comment says


def warnings(town: Town) -> list[str]:
    report: dict[str, Any] = town.agent.request("GET", "/v1/status")[1]
    return list(report["warnings"])


@pytest.mark.parametrize("then", ["the same", "the other"])
@pytest.mark.parametrize("first", ["iptables", "nftables"])
def test_the_new_one_takes_its_place_without_losing_a_packet(lab: Lab, first: str, then: str) -> None:
    town = Town(lab, firewall={"backend": first})
    before = text(town)
    backend = first if then == "the same" else OTHER[first]
    routed, bridged = transfer(town.vm1, town.outside), transfer(town.vm1, town.vm2)
    with town.traffic(), routed, bridged, knocking(*forbidden(town)):
        town.agent.restart(named(backend, NEW))
        eventually(lambda: W not in text(town), 5)
    assert f"wrap_name was {W}: " in town.agent.log
    town.put(make_provider_rule(1))
    town.delete(make_provider_rule(1))
    assert metric(town.agent, "drift_repairs_total") == 0
    assert town.agent.resync()["repaired"] == []
    assert warnings(town) == []
    town.agent.restart(named(first, W))
    eventually(lambda: NEW not in text(town), 5)
    assert sorted(text(town)) == sorted(before)


@pytest.mark.parametrize("first", ["iptables", "nftables"])
def test_killed_at_any_instant_it_goes_on(lab: Lab, first: str) -> None:
    town = Town(lab, firewall={"backend": first})
    with town.traffic(), knocking(*forbidden(town)):
        for number, delay in enumerate((0.0, 0.01, 0.02, 0.04, 0.08, 0.16)):
            name, old = ((NEW, W), (W, NEW))[number % 2]
            town.agent.stop()
            town.agent.configure(named(first, name))
            town.agent.start(ready=False)
            eventually(lambda name=name: name in text(town), 10)  # type: ignore[misc]
            time.sleep(delay)
            town.agent.kill9()
            town.agent.start()
            eventually(lambda old=old: old not in text(town), 5)  # type: ignore[misc]


@pytest.mark.parametrize("first", ["iptables", "nftables"])
def test_what_was_cut_stays_cut(lab: Lab, first: str) -> None:
    town = Town(lab, firewall={"backend": first})
    web = make_rule(5, protocol="tcp", port_range_min=80, port_range_max=80)
    town.put(make_group(2, web), make_group(3, make_rule(6)), make_instance(1, (2,)), make_instance(2, (3,)))
    with connect(town.vm2, town.vm1, 80) as connection:
        assert connection.alive()
        town.put(make_group(2))
        assert connection.dead()
        for backend in (first, OTHER[first]):
            name, old = (NEW, W) if backend == first else (W, NEW)
            town.agent.restart(named(backend, name))
            eventually(lambda old=old: old not in text(town), 5)  # type: ignore[misc]
            assert connection.dead()
            assert refused(town.vm2, town.vm1, Tcp(80))


@pytest.mark.parametrize("first", ["iptables", "nftables"])
def test_a_cleanup_takes_those_of_either_name(lab: Lab, first: str) -> None:
    town = Town(lab, firewall={"backend": first})
    town.agent.stop()
    town.agent.configure(named(first, NEW))
    cleanup(town.agent)
    assert W not in text(town)
    town.agent.start()
    assert W not in text(town)
    town.agent.stop()
    cleanup(town.agent)
    assert NEW not in text(town)


@contextmanager
def renamed_and_hindered(lab: Lab, first: str) -> Iterator[Town]:
    """An agent that was given another name, and cannot sweep what it made under the one before."""
    town = Town(lab, firewall={"backend": first})
    town.agent.stop()
    town.agent.configure(named(OTHER[first], NEW))
    with lock_held() if first == "iptables" else owned_leftover(town.host):
        town.agent.start(within=60)
        yield town


@pytest.mark.parametrize("first", ["iptables", "nftables"])
def test_what_cannot_be_swept_is_told_and_tried_again(lab: Lab, first: str) -> None:
    with renamed_and_hindered(lab, first) as town:
        told = f"[firewall] wrap_name was {W}: what is left of ours in {first} is swept later"
        eventually(lambda: any(each.startswith(told) for each in warnings(town)), 5)
    town.agent.resync()
    assert W not in text(town)
    assert warnings(town) == []


@pytest.mark.parametrize("first", ["iptables", "nftables"])
def test_a_cleanup_that_cannot_sweep_one_tells_what_it_took_and_what_is_left(lab: Lab, first: str) -> None:
    with renamed_and_hindered(lab, first) as town:
        town.agent.stop()
        said = run_ctl(town.agent, "cleanup", check=False)
    assert said.returncode == 1
    assert NEW in said.stdout
    assert said.stderr.startswith(f"netagentctl: [firewall] wrap_name was {W}: ")
    assert NEW not in text(town)
    assert W in cleanup(town.agent)
