"""Namespaces, links and the usual topology."""

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.functional.lab.conftest import Bridged
from tests.lab import Icmp, Lab, Namespace, Tcp, arrives, iptables, needs, ping, refused, tcp, veth
from tests.lab.isolation import network_inode
from tests.lab.namespace import free_closed

NewNamespace = Callable[..., Namespace]


# namespaces


def test_nobody_else_is_in_a_new_namespace(new_namespace: NewNamespace) -> None:
    namespace = new_namespace()
    assert namespace.inode != network_inode()
    assert list(namespace.links.all()) == ["lo"]
    assert namespace.links.show("lo")["up"]
    assert namespace.processes() == []


def test_functions_run_in_it_and_the_caller_stays_where_it_is(new_namespace: NewNamespace) -> None:
    namespace, here, directory = new_namespace(), network_inode(), os.getcwd()
    assert namespace.call(network_inode) == namespace.inode
    assert namespace.call(os.listdir, "/sys/class/net") == ["lo"]
    assert namespace.call(os.getcwd) == directory
    assert network_inode() == here
    assert namespace.call(network_inode) == namespace.inode
    assert namespace.call(lambda: int(threading.current_thread() is threading.main_thread())) == 0


def test_what_a_function_raises_is_raised(new_namespace: NewNamespace) -> None:
    with pytest.raises(ZeroDivisionError):
        new_namespace().call(lambda: 1 // 0)


def test_sockets_stay_in_it(new_namespace: NewNamespace) -> None:
    namespace = new_namespace()
    with namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 4711))
        listener.listen()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", 4711), timeout=1)
        namespace.call(socket.create_connection, ("127.0.0.1", 4711), 1).close()


def test_programs_run_in_it(new_namespace: NewNamespace) -> None:
    namespace = new_namespace()
    assert namespace.run(["readlink", "/proc/self/ns/net"]).stdout == f"net:[{namespace.inode}]\n"
    assert namespace.run(["ls", "/sys/class/net"]).stdout == "lo\n"
    assert namespace.run(["cat"], stdin="fed").stdout == "fed"
    assert namespace.run(["false"], check=False).returncode == 1
    with pytest.raises(AssertionError, match="No such file"):
        namespace.run(["ls", "/nowhere"])
    with pytest.raises(subprocess.TimeoutExpired):
        namespace.run(["sleep", "60"], timeout=0.05)


def test_settings_are_its_own(new_namespace: NewNamespace) -> None:
    one, other = new_namespace(), new_namespace()
    assert one.sysctl("net.ipv4.ip_forward", 1) == "1"
    assert other.sysctl("net.ipv4.ip_forward") == "0"
    assert one.sysctl("net/ipv4/conf/lo/rp_filter", 2) == "2"


def test_closing_ends_everything_in_it() -> None:
    namespace = Namespace()
    daemon = namespace.popen(["sh", "-c", "setsid sleep 600 & echo $!"], stdout=subprocess.PIPE, text=True)
    assert daemon.stdout is not None
    left_behind = int(daemon.stdout.readline())
    opened = namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
    namespace.echo.serve("tcp", 4, 80)
    namespace.close()
    assert daemon.poll() is not None
    assert not Path(f"/proc/{left_behind}/ns/net").exists()
    deadline = time.monotonic() + 5
    while opened.fileno() != -1 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert opened.fileno() == -1
    with pytest.raises(RuntimeError, match="closed"):
        namespace.call(os.getpid)
    namespace.close()


def test_descriptors_and_threads_are_given_back(tmp_path: Path) -> None:
    def use() -> None:
        with Lab(tmp_path) as lab:
            host = lab.host()
            lab.bridge(host)
            vm1 = lab.instance(host, bridge="br100")
            tcp(lab.outside, vm1, 80)
            refused(lab.outside, vm1, Tcp(80))

    def settled() -> tuple[int, int]:
        free_closed()
        deadline = time.monotonic() + 5
        while threading.active_count() > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    use()
    before = settled()
    for _ in range(3):
        use()
    assert settled() == before


# links


def test_a_pair_as_described(new_namespace: NewNamespace) -> None:
    here, there = new_namespace("here"), new_namespace("there")
    veth(here, "left", there, "right", mac="fa:16:3e:00:00:01", peer_mac="fa:16:3e:00:00:02", mtu=1400)
    left, right = here.links.show("left"), there.links.show("right")
    assert (left["mac"], left["mtu"], left["kind"], left["up"]) == ("fa:16:3e:00:00:01", 1400, "veth", True)
    assert (right["mac"], right["mtu"]) == ("fa:16:3e:00:00:02", 1400)
    here.links.wait_running("left", "lo")
    here.links.set("left", up=False)
    assert not here.links.show("left")["up"]
    here.links.delete("left")
    assert not there.links.exists("right")
    with pytest.raises(OSError, match="link left"):
        here.links.show("left")


def test_bridges_and_ports(new_namespace: NewNamespace) -> None:
    here, there = new_namespace(), new_namespace()
    here.links.add_bridge("br0", mac="fa:16:3e:00:00:0f")
    veth(here, "port", there, "eth0")
    here.links.set("port", master="br0")
    assert here.links.all()["port"]["master"] == "br0"
    here.links.set("port", master="")
    assert here.links.all()["port"]["master"] is None
    here.links.set("port", up=False, rename="plug", mac="fa:16:3e:00:00:0e", mtu=1300)
    assert here.links.show("plug")["mac"] == "fa:16:3e:00:00:0e"


def test_addresses_routes_neighbours(new_namespace: NewNamespace) -> None:
    here, there = new_namespace(), new_namespace()
    veth(here, "eth0", there, "eth0")
    for address in ("192.0.2.1/24", "2001:db8::1/64"):
        here.links.add_address("eth0", address)
        assert here.links.has_address("eth0", address)
    assert not here.links.has_address("eth0", "192.0.2.1/32")
    assert {known["address"] for known in here.links.addresses("eth0") if known["scope"] == "global"} == {
        "192.0.2.1",
        "2001:db8::1",
    }
    here.links.add_route("default", via="192.0.2.254")
    here.links.add_route("203.0.113.0/24", device="eth0")
    here.links.add_route("default6", via="2001:db8::fe")
    assert {"destination": "default", "via": "192.0.2.254", "device": "eth0"} in here.links.routes()
    assert {"destination": "203.0.113.0/24", "via": None, "device": "eth0"} in here.links.routes()
    assert {"destination": "default", "via": "2001:db8::fe", "device": "eth0"} in here.links.routes(6)
    here.links.delete_route("default", via="192.0.2.254")
    assert "default" not in {route["destination"] for route in here.links.routes()}
    here.links.add_neighbour("eth0", "192.0.2.9", "fa:16:3e:00:00:09")
    known = {"device": "eth0", "address": "192.0.2.9", "mac": "fa:16:3e:00:00:09", "state": "permanent"}
    assert known in here.links.neighbours("eth0")
    here.links.delete_neighbour("eth0", "192.0.2.9")
    assert known not in here.links.neighbours()
    here.links.delete_address("eth0", "192.0.2.1/24")
    assert not here.links.has_address("eth0", "192.0.2.1/24")
    with pytest.raises(OSError, match=r"delete 192\.0\.2\.1/24 of eth0"):
        here.links.delete_address("eth0", "192.0.2.1/24")


# the usual topology


def test_everybody_reaches_everybody(bridged: Bridged, family: int) -> None:
    everybody = (bridged.outside, bridged.host, bridged.vm1, bridged.vm2)
    for source in everybody:
        for destination in everybody:
            assert ping(source, destination, family=family), f"{source} to {destination}"


def test_nobody_is_reached_without_forwarding(bridged: Bridged) -> None:
    bridged.host.sysctl("net.ipv4.ip_forward", 0)
    bridged.host.sysctl("net.ipv6.conf.all.forwarding", 0)
    for family in (4, 6):
        assert refused(bridged.outside, bridged.vm1, Icmp(family=family))
        assert ping(bridged.vm2, bridged.vm1, family=family)


def test_two_hosts_with_a_network_over_their_uplinks(lab: Lab, family: int) -> None:
    hosts = [lab.host(uplinks={"eth1": "physical"}) for _ in range(2)]
    for host in hosts:
        lab.bridge(host, addresses=(), ports=["eth1"])
    here, there = (lab.instance(host, bridge="br100") for host in hosts)
    assert tcp(here, there, 80, family=family)
    assert tcp(hosts[0], hosts[1], 80, family=family)
    iptables(hosts[1], "-A FORWARD -j DROP", family=family)  # type: ignore[arg-type]
    assert refused(here, there, Tcp(80, family=family))
    assert hosts[1].ip4 == "192.0.2.11"


def test_an_instance_as_told(lab: Lab) -> None:
    host = lab.host()
    guest = lab.instance(
        host, "guest", tap="tap123", mac="fa:16:3e:01:02:03", addresses=["203.0.113.9/24"], gateways=["203.0.113.1"]
    )
    assert (guest.name, guest.ip4, guest.ip6, guest.mac) == ("guest", "203.0.113.9", "", "fa:16:3e:01:02:03")
    assert host.links.all()["tap123"]["master"] is None
    assert {"destination": "default", "via": "203.0.113.1", "device": "eth0"} in guest.links.routes()


def test_a_floating_address_is_looked_for_on_the_segment(lab: Lab) -> None:
    host = lab.host()
    host.links.add_address("eth0", "203.0.113.7/32")
    assert tcp(lab.outside, "203.0.113.7", 80, server=host)


@needs("br_netfilter")
def test_the_switch_filters_nothing(lab: Lab) -> None:
    hosts = [lab.host(), lab.host()]
    iptables(lab.segment(), "-A FORWARD -j DROP")
    assert tcp(hosts[0], hosts[1], 80)


def test_a_link_that_was_down_or_made_anew_is_seen_again(bridged: Bridged) -> None:
    assert arrives(bridged.outside, bridged.vm1, Tcp(80))
    bridged.vm1.links.set("eth0", up=False)
    assert refused(bridged.outside, bridged.vm1, Tcp(80), within=0.05)
    bridged.vm1.links.set("eth0", up=True)
    bridged.vm1.links.wait_running("eth0")
    bridged.host.links.wait_running("tap-vm1")
    bridged.vm1.links.add_route("default", via="198.51.100.1")
    assert arrives(bridged.outside, bridged.vm1, Tcp(80))
    bridged.vm1.links.delete("eth0")
    veth(bridged.vm1, "eth0", bridged.host, "tap-new", mac=bridged.vm1.mac)
    bridged.host.links.set("tap-new", master="br100")
    bridged.host.links.wait_running("tap-new")
    bridged.vm1.links.add_address("eth0", f"{bridged.vm1.ip4}/24")
    bridged.vm1.links.add_route("default", via="198.51.100.1")
    assert arrives(bridged.outside, bridged.vm1, Tcp(80))


def test_a_lab_is_freed_when_its_test_fails() -> None:
    with contextlib.suppress(ZeroDivisionError), Lab() as lab:
        process = lab.host().popen(["sleep", "600"])
        raise ZeroDivisionError
    assert process.poll() is not None
