"""Names: those of instances, those of the world, and who may ask."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from nova_netagent.testing import make_instance, make_network, make_vif
from tests.functional.dhcp.clients import resolve
from tests.functional.dhcp.site import Site
from tests.lab import Namespace, needs

pytestmark = needs("bridge", "veth", "ipv6", "program:dnsmasq", "setgroups")


@contextmanager
def name_server(place: Namespace, answer: str) -> Iterator[list[str]]:
    """A name server that gives one address to whoever asks; the names that were asked for."""
    server = place.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("0.0.0.0", 53))
    asked: list[str] = []

    def serve() -> None:
        while True:
            try:
                data, client = server.recvfrom(2048)
            except OSError:
                return
            labels, at = [], 12
            while data[at]:
                labels.append(data[at + 1 : at + 1 + data[at]].decode())
                at += 1 + data[at]
            asked.append(".".join(labels))
            record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + socket.inet_aton(answer)
            header = data[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0)
            server.sendto(header + data[12 : at + 5] + record, client)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield asked
    finally:
        server.close()


def test_instances_are_known_by_name(site: Site) -> None:
    site.describe(make_network(1), make_instance(1), make_instance(2, hostname="web_1.example.com"))
    guest = site.guest(1)
    guest.links.add_address("eth0", "10.1.0.2/24")
    guest.links.add_address("eth0", "fd00:1::2/64")
    for server in ("10.1.0.1", "fd00:1::1"):
        for tcp in (False, True):
            assert resolve(guest, server, "vm1.novalocal", tcp=tcp) == ["10.1.0.2"]
            assert resolve(guest, server, "vm1", "AAAA", tcp=tcp) == ["fd00:1::2"]
        assert resolve(guest, server, "web-1-example-com.novalocal") == ["10.1.0.3"]
        assert resolve(guest, server, "2.0.1.10.in-addr.arpa", "PTR") == ["vm1.novalocal"]


def test_every_fixed_ip_has_the_name(site: Site) -> None:
    vif = make_vif(1, fixed_ips=("10.1.0.2", "10.1.0.9"))
    site.describe(make_network(1), make_instance(1, vifs=(vif,)))
    guest = site.guest(1)
    guest.links.add_address("eth0", "10.1.0.2/24")
    found = resolve(guest, "10.1.0.1", "vm1.novalocal")
    assert found is not None
    assert sorted(found) == ["10.1.0.2", "10.1.0.9"]


def test_a_name_follows_its_instance(site: Site) -> None:
    site.describe(make_network(1), make_instance(1), make_instance(2))
    guest = site.guest(1)
    guest.links.add_address("eth0", "10.1.0.2/24")
    assert resolve(guest, "10.1.0.1", "vm2.novalocal") == ["10.1.0.3"]
    with name_server(site.lab.outside, "203.0.113.1"):
        options = {"dns_server": (site.lab.outside.ip4,)}
        site.describe(make_network(1), make_instance(1), make_instance(2, hostname="other"), **options)
        assert resolve(guest, "10.1.0.1", "other.novalocal") == ["10.1.0.3"]


def test_the_rest_of_the_world_is_asked_for(site: Site) -> None:
    site.host.links.add_route("default", via=site.lab.outside.ip4)
    with name_server(site.lab.outside, "203.0.113.80") as asked:
        site.describe(make_network(1), make_instance(1), dns_server=(site.lab.outside.ip4,))
        guest = site.guest(1)
        guest.links.add_address("eth0", "10.1.0.2/24")
        assert resolve(guest, "10.1.0.1", "www.example.com") == ["203.0.113.80"]
        assert asked == ["www.example.com"]
        assert resolve(guest, "10.1.0.1", "vm1.novalocal") == ["10.1.0.2"]
        assert asked == ["www.example.com"]


def test_the_outside_cannot_ask(site: Site) -> None:
    """An open resolver is somebody's weapon: the address of the bridge answers to the bridge only."""
    site.describe(make_network(1), make_instance(1))
    outside = site.lab.outside
    outside.links.add_route("10.1.0.0/24", via=site.host.ip4)
    outside.links.add_route("fd00:1::/64", via=site.host.ip6)
    assert resolve(outside, "10.1.0.1", "vm1.novalocal", within=0.7) is None
    assert resolve(outside, "fd00:1::1", "vm1.novalocal", within=0.7) is None
    assert resolve(outside, "10.1.0.1", "vm1.novalocal", within=0.7, tcp=True) is None
    assert resolve(outside, site.host.ip4, "vm1.novalocal", within=0.7) is None


def test_networks_do_not_know_each_others_names(site: Site) -> None:
    site.bridge(2)
    with name_server(site.lab.outside, "203.0.113.1") as asked:
        options = {"dns_server": (site.lab.outside.ip4,)}
        site.describe(make_network(1), make_network(2), make_instance(1), make_instance(2, network=2), **options)
        guest = site.guest(1)
        guest.links.add_address("eth0", "10.1.0.2/24")
        assert resolve(guest, "10.1.0.1", "vm2.novalocal") == ["203.0.113.1"]
        assert asked == ["vm2.novalocal"]
