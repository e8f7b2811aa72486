"""A link's addresses and routes move to its bridge and back, and nobody who talks through them notices."""

import socket

from nova_netagent.backend.links import holdings
from tests.lab import Flood, Lab, Namespace, connect, needs, ping


def _rtnl(host: Namespace, device: str) -> tuple[list[str], list[str]]:
    """Addresses and routes of a link, as ip(8) tells them, without its name."""
    addresses, routes = [], []
    for family in ("-4", "-6"):
        shown = host.run(["ip", family, "-o", "addr", "show", "dev", device, "scope", "global"]).stdout
        addresses += [line.split(None, 2)[2].split("\\")[0].replace(device, "X") for line in shown.splitlines()]
        shown = host.run(["ip", family, "route", "show", "table", "all", "dev", device]).stdout
        routes += [" ".join(line.split()) for line in shown.splitlines() if "fe80" not in line and "ff00" not in line]
    return sorted(addresses), sorted(line for line in routes if not line.startswith(("local", "broadcast", "anycast")))


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


def _furnish(host: Namespace) -> None:
    """Addresses and routes of every kind that an operator may have."""
    for command in (
        "addr add 192.0.2.77/24 dev eth0 label eth0:1",
        "addr add 10.77.0.1/16 dev eth0 metric 300 valid_lft 5000 preferred_lft 4000",
        "addr add 2001:db8:77::1/64 dev eth0 nodad",
        "addr add 203.0.113.9/32 dev eth0 scope global",
        "route replace default via 192.0.2.1 dev eth0 metric 50 mtu 1400",
        "route add 198.18.0.0/15 via 10.77.0.254 dev eth0 src 192.0.2.77 table 100",
        "route add 198.51.100.0/24 dev eth0",
        "-6 route replace default via 2001:db8:2::1 dev eth0 metric 77",
        "-6 route add 2001:db8:99::/48 via 2001:db8:77::99 dev eth0",
        "route add unreachable 172.31.0.0/16",
    ):
        host.run(["ip", *command.split()])


@needs("program:ip")
def test_everything_arrives_on_the_bridge_and_comes_back(lab: Lab) -> None:
    host = lab.host()
    _furnish(host)
    before = _rtnl(host, "eth0")
    assert len(before[0]) == 6
    _enslave(host)
    assert _rtnl(host, "eth0") == ([], [])
    moved = _rtnl(host, "br0")
    assert moved[1] == before[1]
    assert [each.split(" valid_lft")[0].replace("X:1", "X") for each in moved[0]] == sorted(
        each.split(" valid_lft")[0].replace("X:1", "X") for each in before[0]
    )
    _release(host)
    back = _rtnl(host, "eth0")
    assert back[1] == before[1]
    assert len(back[0]) == len(before[0])


@needs("program:ip")
def test_a_connection_and_a_flood_go_on_through_the_move(lab: Lab) -> None:
    host = lab.host()
    connection = connect(lab.outside, host, 5000)
    connection6 = connect(lab.outside, host, 5001, family=6)
    outward = connect(host, lab.outside, 5002)
    with Flood(lab.outside, host) as flood:
        for _ in range(3):
            _enslave(host)
            assert connection.alive()
            assert connection6.alive()
            assert outward.alive()
            _release(host)
            assert connection.alive()
            assert connection6.alive()
            assert outward.alive()
    assert flood.lost == []
    assert ping(host, lab.outside)
