"""Taps: on the bridge only while a described vif names them, and never before or after their rules."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nova_netagent.testing import make_group, make_instance, make_network, make_rule, make_vif
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import eventually
from tests.functional.conftest import ON_BOTH, ON_ONE
from tests.lab import Forged, Namespace, Udp, needs, ping, refused, veth
from tests.lab.frames import ETH_IPV4, UDP, ethernet, ip, udp

pytestmark = [needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge"), ON_BOTH]


def master(cloud: Cloud, tap: str = "tap1") -> str | None:
    found: str | None = cloud.host.links.all()[tap]["master"]
    return found


def hairpin(cloud: Cloud, tap: str = "tap1") -> str:
    return cloud.host.call(Path(f"/sys/class/net/{tap}/brport/hairpin_mode").read_text).strip()


@contextmanager
def storm(sender: Namespace, receiver: Namespace, source: str, destination: str) -> Iterator[list[bytes]]:
    """Frames to somebody, one after the other as fast as they go; those that arrived."""
    packet = ip(source, destination, UDP, udp(source, destination, 7, 7, b"STORM"))
    frame = ethernet("ff:ff:ff:ff:ff:ff", sender.mac, ETH_IPV4, packet)
    unicast = ethernet(receiver.mac, sender.mac, ETH_IPV4, packet)
    wire, stop, arrived = sender.wire(), threading.Event(), list[bytes]()

    def send() -> None:
        while not stop.is_set():
            wire.send(frame)
            wire.send(unicast)
            time.sleep(0.0002)

    thread = threading.Thread(target=send)
    with receiver.wire().listening():
        thread.start()
        yield arrived
        stop.set()
        thread.join()
        arrived += [seen.data for seen in receiver.wire().read() if b"STORM" in seen.data]


def test_nothing_gets_in_while_an_instance_comes_and_goes(cloud: Cloud) -> None:
    """Its groups let nothing in: not before its rules are in the kernel, not after they are gone."""
    cloud.network(1)
    sender = cloud.instance(2)
    victim = cloud.guest(1)
    with storm(sender, victim, "10.1.0.3", "10.1.0.2") as arrived:
        for _ in range(25):
            cloud.put(make_instance(1))
            assert master(cloud) == "br1"
            cloud.delete(make_instance(1))
            assert master(cloud) is None, "before DELETE answers"
    assert not arrived


def test_nothing_forged_gets_out_while_an_instance_comes_and_goes(cloud: Cloud) -> None:
    cloud.network(1)
    cloud.put(make_group(1, make_rule(1)))
    victim = cloud.instance(2, (1,))
    liar = cloud.guest(1)
    with storm(liar, victim, "10.1.0.99", "10.1.0.3") as arrived:
        for _ in range(25):
            cloud.put(make_instance(1))
            cloud.delete(make_instance(1))
    assert not arrived


def test_a_tap_that_comes_later_is_joined_at_once(cloud: Cloud) -> None:
    cloud.network(1)
    cloud.put(make_group(1, make_rule(1, protocol="icmp")), make_instance(1, (1,)))
    assert cloud.status(make_instance(1))["state"] == "done", "a link is not an object"
    guest = cloud.guest(1)
    eventually(lambda: master(cloud) == "br1", 1)
    assert ping(cloud.outside, guest)
    eventually(lambda: hairpin(cloud) == "1", 1)


@ON_ONE
def test_a_tap_that_is_down_is_set_up(cloud: Cloud) -> None:
    cloud.network(1)
    cloud.guest(1)
    cloud.host.links.set("tap1", up=False)
    cloud.put(make_instance(1))
    assert cloud.host.links.show("tap1")["up"]


@ON_ONE
def test_a_tap_that_gets_its_name_later(cloud: Cloud) -> None:
    cloud.network(1)
    cloud.put(make_instance(1))
    veth(cloud.outside, "vm1", cloud.host, "vnet0")
    cloud.host.links.set("vnet0", up=False)
    cloud.host.links.set("vnet0", rename="tap1")
    eventually(lambda: master(cloud) == "br1", 1)
    cloud.host.links.set("tap1", up=False)
    cloud.host.links.set("tap1", rename="vnet0")
    cloud.delete(make_instance(1))
    assert not cloud.host.links.exists("tap1")


@ON_ONE
def test_a_tap_that_the_hypervisor_joined_itself(cloud: Cloud) -> None:
    """libvirt puts a tap on the bridge before anybody describes it."""
    cloud.network(1)
    cloud.guest(1)
    cloud.host.links.set("tap1", master="br1")
    cloud.put(make_instance(1))
    assert hairpin(cloud) == "1"
    cloud.delete(make_instance(1))
    assert master(cloud) is None


@ON_ONE
def test_hairpin_mode_that_somebody_switched_off(cloud: Cloud) -> None:
    cloud.network(1)
    cloud.instance(1)
    cloud.host.call(Path("/sys/class/net/tap1/brport/hairpin_mode").write_text, "0")
    cloud.agent.resync()
    assert hairpin(cloud) == "1"


def test_the_tap_of_a_deleted_instance_is_on_no_bridge_when_it_comes_again(cloud: Cloud) -> None:
    cloud.network(1)
    cloud.instance(1)
    cloud.delete(make_instance(1))
    cloud.host.links.delete("tap1")
    cloud.guest(1)
    cloud.guest(2)
    cloud.put(make_instance(2))
    assert master(cloud) is None


def test_an_instance_that_moves_to_another_network_moves_its_tap(cloud: Cloud) -> None:
    cloud.network(1)
    cloud.network(2)
    cloud.instance(1)
    cloud.put(make_instance(1, network=2))
    assert master(cloud) == "br2"
    vif = make_vif(1, devname="other")
    cloud.put(make_instance(1, vifs=(vif,)))
    assert master(cloud) is None


def test_a_tap_waits_for_its_network(cloud: Cloud) -> None:
    cloud.guest(1)
    cloud.put(make_instance(1))
    assert cloud.status(make_instance(1))["state"] == "pending"
    assert master(cloud) is None
    cloud.network(1)
    assert master(cloud) == "br1", "before the network's PUT answers"
    assert cloud.status(make_instance(1))["state"] == "done"
    cloud.delete(make_network(1))
    assert master(cloud) is None


def test_a_port_that_nobody_described_passes_nothing(cloud: Cloud) -> None:
    cloud.network(1)
    cloud.put(make_group(1, make_rule(1)))
    known, stranger = cloud.instance(1, (1,)), cloud.guest(2)
    cloud.host.links.set("tap2", master="br1")
    assert refused(stranger, known, Forged(Udp(7)))
    assert refused(known, stranger, Forged(Udp(7)))
    assert master(cloud, "tap2") == "br1", "it is not ours to take off"


def test_a_tap_of_an_instance_without_port_security_is_joined_too(cloud: Cloud) -> None:
    cloud.network(1)
    first, second = cloud.guest(1), cloud.guest(2)
    cloud.put(make_instance(1, vifs=(make_vif(1, port_security_enabled=False),)), make_instance(2))
    assert master(cloud) == "br1"
    assert ping(second, first)
    assert hairpin(cloud) == "1"


@ON_ONE
def test_hundreds_of_taps_that_come_at_once(cloud: Cloud) -> None:
    count = 100
    cloud.network(1)
    state = cloud.agent.state()
    from nova_netagent.model import document

    state["instances"] = [document(make_instance(number)) for number in range(1, count + 1)]
    cloud.agent.state(state)
    for number in range(1, count + 1):
        veth(cloud.outside, f"vm{number}", cloud.host, f"tap{number}")
    within = eventually(lambda: all(link["master"] == "br1" for name, link in taps(cloud)), 5)
    print(f"{count} taps were joined {within:.2f} s after the last of them came")
    assert len(list(taps(cloud))) == count


def taps(cloud: Cloud) -> list[tuple[str, dict[str, object]]]:
    return [(name, link) for name, link in cloud.host.links.all().items() if name.startswith("tap")]


@ON_ONE
@pytest.mark.parametrize("kind", ["put", "delete"])
def test_a_tap_that_vanishes_just_then_is_no_error(cloud: Cloud, kind: str) -> None:
    cloud.network(1)
    for number in range(1, 20):
        cloud.guest(number)
        if kind == "delete":
            cloud.put(make_instance(number))
        gone = threading.Thread(target=cloud.host.links.delete, args=(f"tap{number}",))
        gone.start()
        if kind == "put":
            cloud.put(make_instance(number))
        else:
            cloud.delete(make_instance(number))
        gone.join()
    assert cloud.agent.request("GET", "/v1/status")[1]["counts"]["error"] == 0
