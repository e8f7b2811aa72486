"""A link's addresses and routes move to its bridge and back, and nobody who talks through them notices."""

import re
import socket

import pytest

from nova_netagent.backend.links import adapter, holdings
from tests.functional.agent.kernel import eventually
from tests.functional.links.held import ROUTER, advertise, furnish, held
from tests.lab import Flood, Lab, Namespace, connect, needs, ping


def _move(host: Namespace, old: str, new: str) -> None:
    def run() -> None:
        first, second = socket.if_nametoindex(old), socket.if_nametoindex(new)
        holdings.move(holdings.read(first), first, second)

    host.call(run)


def _enslave(host: Namespace) -> None:
    mac = host.run(["cat", "/sys/class/net/eth0/address"]).stdout.strip()
    host.run(["ip", "link", "add", "br0", "address", mac, "type", "bridge", "forward_delay", "0", "stp_state", "0"])
    host.run(["ip", "link", "set", "br0", "up"])
    host.run(["ip", "link", "set", "eth0", "master", "br0"])
    _move(host, "eth0", "br0")


def _release(host: Namespace) -> None:
    _move(host, "br0", "eth0")  # first: without its port a bridge leads nowhere
    host.run(["ip", "link", "set", "eth0", "nomaster"])
    host.run(["ip", "link", "del", "br0"])


@needs("program:ip")
def test_everything_arrives_on_the_bridge_and_comes_back(lab: Lab) -> None:
    host = lab.host()
    furnish(host)
    before = held(host, "eth0")
    assert len(before[0]) == 6
    _enslave(host)
    assert held(host, "eth0") == ([], [])
    assert held(host, "br0") == before
    _release(host)
    assert held(host, "eth0") == before


@needs("program:ip")
def test_a_connection_and_a_flood_go_on_through_the_move(lab: Lab) -> None:
    host = lab.host()
    connection = connect(lab.outside, host, 5000)
    connection6 = connect(lab.outside, host, 5001, family=6)
    outward = connect(host, lab.outside, 5002)
    with Flood(lab.outside, host) as flood:
        for _ in range(3):
            _enslave(host)
            assert connection.alive(3.0)
            assert connection6.alive(3.0)
            assert outward.alive(3.0)
            _release(host)
            assert connection.alive(3.0)
            assert connection6.alive(3.0)
            assert outward.alive(3.0)
    # A bridge takes nothing from a port in the instant in which it comes or goes (br_add_if, del_nbp): one
    # in some ten floods loses a packet so, which no order of ours could save.
    assert len(flood.lost) <= 6
    assert ping(host, lab.outside)


# --- IPv6


@needs("program:ip")
def test_an_address_that_was_proved_unique_is_not_proved_again(lab: Lab) -> None:
    """Duplicate address detection would make it deaf for a second."""
    host, address = lab.host(), "2001:db8:2::77"
    host.run(["ip", "addr", "add", f"{address}/64", "dev", "eth0"])
    for name in ("accept_dad", "dad_transmits"):
        host.sysctl(f"net.ipv6.conf.default.{name}", 1)
    _enslave(host)
    (found,) = [each for each in host.links.addresses("br0") if each["address"] == address]
    assert found["flags"] & (0x40 | 0x02) == 0, "neither tentative nor marked for good as one that is not to be proved"
    assert ping(lab.outside, address)


@needs("program:ip")
def test_a_lease_that_is_renewed_on_the_old_link_is_renewed_on_the_new(lab: Lab) -> None:
    host = lab.host()
    for address in ("10.77.0.1/16", "2001:db8:77::1/64"):
        host.run(["ip", "addr", "add", address, "dev", "eth0", "valid_lft", "500", "preferred_lft", "400"])
    _enslave(host)
    for address in ("10.77.0.1/16", "2001:db8:77::1/64"):
        host.run(["ip", "addr", "add", address, "dev", "eth0", "valid_lft", "5000", "preferred_lft", "4000"])
    _move(host, "eth0", "br0")
    shown = host.run(["ip", "addr", "show", "dev", "br0"]).stdout
    assert len(re.findall(r"valid_lft (?:5000|499\d)sec preferred_lft (?:4000|399\d)sec", shown)) == 2


@needs("program:ip")
def test_routes_to_its_own_networks_that_a_program_made_itself(lab: Lab) -> None:
    """NetworkManager and systemd-networkd have the kernel make none, and call theirs the kernel's."""
    host = lab.host()
    host.run(["ip", "addr", "flush", "dev", "eth0"])
    for command in (
        "-4 addr add 192.0.2.10/24 dev eth0 noprefixroute",
        "-4 route add 192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.10 metric 100",
        "-4 route add default via 192.0.2.1 dev eth0 proto dhcp src 192.0.2.10 metric 100",
        "-4 addr add 169.254.7.7/16 dev eth0 scope link noprefixroute",
        "-4 route add 169.254.0.0/16 dev eth0 proto kernel scope link src 169.254.7.7 metric 100",
        "-6 addr add 2001:db8:2::10/64 dev eth0 noprefixroute nodad",
        "-6 route add 2001:db8:2::/64 dev eth0 proto kernel metric 100",
        "-6 route add default via 2001:db8:2::1 dev eth0 proto ra metric 100",
        "-6 addr add fe80::7/64 dev eth0 noprefixroute nodad",
        "-6 route add fe80::/64 dev eth0 proto kernel metric 1024",
    ):
        host.run(["ip", *command.split()])
    before, leads = held(host, "eth0"), _kernels_routes(host, "eth0")
    near = {route for route in leads if route.startswith(("169.254.", "fe80:"))}
    assert len(near) == 2
    _enslave(host)
    assert held(host, "br0") == before
    assert _kernels_routes(host, "eth0") == near, "what is for the link itself stays"
    assert _kernels_routes(host, "br0") >= leads - near
    assert ping(lab.outside, host)
    assert ping(lab.outside, host.ip6)
    _release(host)
    assert held(host, "eth0") == before
    assert _kernels_routes(host, "eth0") == leads


def _kernels_routes(host: Namespace, device: str) -> set[str]:
    """The routes of a link that the kernel is said to have made, without times."""
    shown = [host.run(["ip", f"-{family}", "route", "show", "dev", device]).stdout for family in (4, 6)]
    found = (line.strip() for text in shown for line in text.splitlines() if "proto kernel" in line)
    return {re.sub(r"expires \d+sec", "expires", line) for line in found}


@needs("program:ip")
@pytest.mark.parametrize("lifetime", [600, 0xFFFFFFFF])
@pytest.mark.parametrize("autonomous", [True, False])
def test_the_route_to_a_prefix_that_a_router_advertised(lab: Lab, lifetime: int, autonomous: bool) -> None:
    """The kernel does not take it along with the address that it made itself; and one may be without an address."""
    host, router = lab.host(), lab.outside
    host.sysctl("net.ipv6.conf.default.accept_ra", 2)
    router.links.add_address("eth0", "2001:db8:77::99/64")
    advertise(router, prefix="2001:db8:77::", valid=lifetime, autonomous=autonomous)
    prefix = f"2001:db8:77::/64 proto kernel metric 256 {'expires' if lifetime == 600 else ''}".strip()
    eventually(lambda: any(prefix in each for each in _kernels_routes(host, "eth0")), 2)
    leads = _kernels_routes(host, "eth0")
    _enslave(host)
    assert not any("2001:db8" in each for each in _kernels_routes(host, "eth0"))
    assert any(prefix in each for each in _kernels_routes(host, "br0"))
    assert ping(host, "2001:db8:77::99")
    _release(host)
    assert _kernels_routes(host, "eth0") == leads


@needs("program:ip")
def test_a_default_route_that_a_router_advertised_stays_the_kernels_own(lab: Lab) -> None:
    """So that the next advertisement renews it, and one with no lifetime withdraws it."""
    host, router = lab.host(), lab.outside
    host.links.delete_route("default6", via=router.ip6)
    host.sysctl("net.ipv6.conf.default.accept_ra", 2)

    def lifetimes() -> list[int]:
        shown = host.run(["ip", "-6", "route", "show", "default"]).stdout
        return [int(found) for found in re.findall(rf"via {ROUTER} dev br0 .*expires (\d+)sec", shown)]

    def after(lifetime: int) -> list[int]:
        advertise(router, lifetime)
        return lifetimes()

    advertise(router, 900)
    eventually(lambda: any(each["via"] == ROUTER for each in host.links.routes(6)), 1)
    _enslave(host)
    assert [900 - each < 5 for each in lifetimes()] == [True]
    eventually(lambda: after(1800)[0] > 1700, 2)
    assert len(lifetimes()) == 1
    eventually(lambda: after(0) == [], 2)
    advertise(router, 900)
    eventually(lambda: lifetimes(), 1)
    _release(host)
    (route,) = [each for each in host.links.routes(6) if each["via"] == ROUTER]
    assert route["device"] == "eth0"


@needs("program:ip")
def test_routes_of_a_link_without_a_carrier(lab: Lab) -> None:
    """The kernel marks them, and takes nothing back that is marked."""
    host = lab.host()
    _, peer = host.peers["eth0"]
    host.peers["eth0"][0].links.set(peer, up=False)
    furnish(host)
    before = held(host, "eth0")
    eventually(lambda: "linkdown" in host.run(["ip", "route"]).stdout, 1)
    _enslave(host)
    assert held(host, "br0") == before
    _release(host)
    assert held(host, "eth0") == before


@needs("program:ip")
def test_routes_by_nexthop_objects(lab: Lab) -> None:
    """As FRR makes them: such an object is of one link, so that they come to be without it."""
    host = lab.host()
    for command in (
        "nexthop add id 7 via 192.0.2.1 dev eth0",
        "nexthop add id 8 via 2001:db8:2::1 dev eth0",
        "nexthop add id 9 via 192.0.2.9 dev eth0",
        "nexthop add id 10 group 7/9",
        "-4 route add 198.18.0.0/24 nhid 7 proto bgp metric 20",
        "-4 route add 198.18.1.0/24 nhid 10 proto bgp metric 20",
        "-6 route add 2001:db8:99::/48 nhid 8 proto bgp metric 20",
    ):
        host.run(["ip", *command.split()])
    shown = [re.sub(r"nhid \d+ ", "", each) for each in held(host, "eth0")[1]]
    _enslave(host)
    assert held(host, "eth0") == ([], [])
    assert sorted(held(host, "br0")[1]) == sorted(shown)
    _release(host)
    assert sorted(held(host, "eth0")[1]) == sorted(shown)


@needs("program:ip")
def test_addresses_with_a_peer(lab: Lab) -> None:
    """Of a peer of zeros, as some tunnels' programs give it, the kernel tells nothing."""
    host = lab.host()
    for pair in ("10.9.9.9 peer 0.0.0.0", "10.8.8.8 peer 10.8.8.9", "fd01::1 peer fd01::2"):
        host.run(["ip", "addr", "add", *pair.split(), "dev", "eth0"])
    before = held(host, "eth0")
    _enslave(host)
    assert (held(host, "eth0"), held(host, "br0")) == (([], []), before)
    _release(host)
    assert held(host, "eth0") == before


def _outlive(host: Namespace, seconds: float) -> None:
    """eth0 is deleted, and a bridge given what of it is left after a while."""
    host.run(["ip", "link", "add", "br0", "type", "bridge"])
    host.run(["ip", "link", "set", "br0", "up"])
    index = host.links.index("eth0")
    found = host.call(holdings.read, index)
    host.links.delete("eth0")
    host.call(holdings.give, found.aged(seconds), index, host.links.index("br0"))


@needs("program:ip")
def test_what_is_left_after_some_time(lab: Lab) -> None:
    host = lab.host()
    for address, valid, preferred in (
        ("10.77.0.1/16", 500, 400),
        ("2001:db8:77::1/64", 500, 50),
        ("10.78.0.1/16", 90, 90),
    ):
        lifetimes = f"valid_lft {valid} preferred_lft {preferred}"
        host.run(["ip", "addr", "add", address, "dev", "eth0", *lifetimes.split()])
    for expires in ("90", "500"):
        host.run(f"ip -6 route add 2001:db8:{expires}::/48 via 2001:db8:2::1 dev eth0 expires {expires}".split())
    _outlive(host, 100)
    shown = host.run(["ip", "addr", "show", "dev", "br0"]).stdout
    assert "10.78.0.1" not in shown
    assert len(re.findall(r"valid_lft (?:400|39\d)sec preferred_lft (?:300|29\d|0)sec", shown)) == 2
    shown = host.run(["ip", "-6", "route", "show", "dev", "br0"]).stdout
    assert re.search(r"2001:db8:500::/48 .*expires (?:400|39\d)sec", shown)
    assert "2001:db8:90::" not in shown


@needs("program:ip")
def test_a_route_through_a_network_whose_lease_has_ended_costs_no_other_its_way(lab: Lab) -> None:
    host = lab.host()
    rest = held(host, "eth0")
    host.run(["ip", "addr", "add", "10.77.0.1/16", "dev", "eth0", "valid_lft", "50", "preferred_lft", "50"])
    for network in ("0.0.0.0/1", "128.0.0.0/1"):
        host.run(f"ip route add {network} via 10.77.0.254 dev eth0".split())
    with pytest.raises(holdings.MoveFailed, match=r"^a route cannot be moved: ENETUNREACH$"):
        _outlive(host, 100)
    assert held(host, "br0") == rest


def test_a_link_lacks_only_what_it_has_not(lab: Lab) -> None:
    """What it has may have been renewed since it was remembered."""
    host = lab.host()
    index = host.links.index("eth0")
    found = host.call(holdings.read, index)
    known = adapter._Remembered(index, found, adapter._since_boot(), None)
    assert found.addresses
    assert known.lacked_by(holdings.Holdings()) == found
    assert known.lacked_by(found) == holdings.Holdings()


def test_a_link_that_is_gone_holds_nothing(lab: Lab) -> None:
    assert not lab.host().call(holdings.read, 9999)


@needs("program:ip")
def test_what_the_kernel_refuses_is_told_and_nothing_is_lost(lab: Lab) -> None:
    host = lab.host()
    before = held(host, "eth0")

    def run() -> None:
        index = socket.if_nametoindex("eth0")
        with pytest.raises(holdings.MoveFailed, match="ENODEV"):
            holdings.move(holdings.read(index), index, 9999)

    host.call(run)
    assert held(host, "eth0") == before


@needs("program:ip")
def test_a_route_by_several_links_changes_in_the_one_that_is_moved(lab: Lab) -> None:
    host = lab.host(uplinks={"eth1": "elsewhere"})
    for address in ("203.0.113.10/24", "2001:db8:203::10/64"):
        host.links.add_address("eth1", address)
    ways = (
        ("-4 route add 198.18.0.0/15", "192.0.2.1", "203.0.113.1"),
        (
            "-6 route add 2001:db8:99::/48",
            "2001:db8:2::1",
            "2001:db8:203::1",
        ),
    )
    for command, first, second in ways:
        hops = f"nexthop via {first} dev eth0 weight 3 nexthop via {second} dev eth1 weight 2"
        host.run(["ip", *command.split(), *hops.split()])

    def hops_of() -> list[list[tuple[str, str, str]]]:
        shown = [host.run(["ip", f"-{family}", "route"]).stdout for family in (4, 6)]
        return [sorted(re.findall(r"nexthop via (\S+) dev (\S+) weight (\d)", each)) for each in shown]

    before = hops_of()
    assert [len(each) for each in before] == [2, 2]
    _enslave(host)
    assert hops_of() == [sorted((via, dev.replace("eth0", "br0"), n) for via, dev, n in each) for each in before]
    _release(host)
    assert hops_of() == before
