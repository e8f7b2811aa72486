"""IPv4: what real clients are given, and who is given nothing."""

from typing import Any

import pytest

from nova_netagent.testing import make_instance, make_network, make_vif
from tests.functional.dhcp.clients import Answer, dhclient, dhcpcd, udhcpc
from tests.functional.dhcp.site import Site
from tests.lab import needs

pytestmark = needs("bridge", "veth", "program:dnsmasq", "setgroups", "program:dhclient", "program:busybox")

PLAIN: dict[str, Any] = {"cidr_v6": None, "gateway_v6": None}


def ask(site: Site, *, number: int = 1, network: int = 1, **fields: Any) -> Answer:
    """Describe a network with one instance, and ask as this instance with busybox's client."""
    site.describe(make_network(network, **(PLAIN | fields)), make_instance(number, network=network))
    answer = udhcpc(site.guest(number, network), site.directory)
    assert answer is not None
    return answer


def test_busybox_is_given_all_that_is_described(site: Site) -> None:
    answer = ask(site, mtu=1400)
    assert {name: answer[name] for name in ("ip", "subnet", "mask", "router", "dns", "domain", "hostname")} == {
        "ip": "10.1.0.2",
        "subnet": "255.255.255.0",
        "mask": "24",
        "router": "10.1.0.1",
        "dns": "10.1.0.1",
        "domain": "novalocal",
        "hostname": "vm1",
    }
    assert {name: answer[name] for name in ("lease", "mtu", "broadcast", "serverid")} == {
        "lease": "86400",
        "mtu": "1400",
        "broadcast": "10.1.0.255",
        "serverid": "10.1.0.1",
    }
    assert "staticroutes" not in answer


def test_dhclient_is_given_all_that_is_described(site: Site) -> None:
    site.describe(make_network(1, mtu=1400, **PLAIN), make_instance(1))
    answer = dhclient(site.guest(1), site.directory)
    assert answer is not None
    assert (
        answer.items()
        >= {
            "ip_address": "10.1.0.2",
            "subnet_mask": "255.255.255.0",
            "routers": "10.1.0.1",
            "domain_name_servers": "10.1.0.1",
            "domain_name": "novalocal",
            "host_name": "vm1",
            "interface_mtu": "1400",
            "dhcp_lease_time": "86400",
            "dhcp_server_identifier": "10.1.0.1",
        }.items()
    )


@needs("program:dhcpcd")
def test_dhcpcd_is_given_all_that_is_described(site: Site) -> None:
    site.describe(make_network(1, mtu=1400, **PLAIN), make_instance(1))
    answer = dhcpcd(site.guest(1), site.directory)
    assert answer is not None
    assert (
        answer.items()
        >= {
            "ip_address": "10.1.0.2",
            "subnet_mask": "255.255.255.0",
            "routers": "10.1.0.1",
            "domain_name_servers": "10.1.0.1",
            "domain_name": "novalocal",
            "interface_mtu": "1400",
            "dhcp_lease_time": "86400",
        }.items()
    )


def test_options_of_the_configuration(site: Site) -> None:
    options = {"dhcp_domain": "cloud.example.com", "dhcp_lease_time": 600, "network_device_mtu": 1300}
    site.describe(make_network(1, dns1="192.0.2.53", dns2="192.0.2.54", **PLAIN), make_instance(1), **options)
    answer = udhcpc(site.guest(1), site.directory)
    assert answer is not None
    assert answer.items() >= {
        "domain": "cloud.example.com", "lease": "600", "mtu": "1300", "dns": "192.0.2.53 192.0.2.54",
    }.items()  # fmt: skip


def test_without_an_mtu_none_is_given(site: Site) -> None:
    assert "mtu" not in ask(site)


@pytest.mark.parametrize(
    ("fields", "router", "routes"),
    [
        ({"gateway": None, "dhcp_server": "10.1.0.1"}, None, "169.254.169.254/32 10.1.0.1"),
        (
            {"gateway": "10.1.0.254", "dhcp_server": "10.1.0.1"},
            "10.1.0.254",
            "169.254.169.254/32 10.1.0.1 0.0.0.0/0 10.1.0.254",
        ),
        ({"gateway": "10.1.0.254", "dhcp_server": "10.1.0.1", "multi_host": True}, "10.1.0.1", None),
    ],
    ids=["no gateway", "a gateway elsewhere", "multi_host"],
)
def test_which_router_is_given(site: Site, fields: dict[str, Any], router: str | None, routes: str | None) -> None:
    site.describe(make_network(1, **PLAIN, **fields), make_instance(1))
    answer = udhcpc(site.guest(1), site.directory, "-O", "staticroutes")
    assert answer is not None
    assert answer.get("router") == router
    assert answer.get("staticroutes") == routes
    assert answer["serverid"] == "10.1.0.1"


@pytest.mark.parametrize("length", [16, 24, 29, 30])
def test_ranges_of_all_sizes(site: Site, length: int) -> None:
    site.bridge(4, f"10.4.0.1/{length}")
    answer = ask(site, network=4, cidr=f"10.4.0.0/{length}")
    assert (answer["ip"], answer["mask"]) == ("10.4.0.2", str(length))


def test_of_several_fixed_ips_the_first_is_given(site: Site) -> None:
    vif = make_vif(1, fixed_ips=("10.1.0.77", "10.1.0.2", "10.1.0.3"))
    site.describe(make_network(1, **PLAIN), make_instance(1, vifs=(vif,)))
    answer = udhcpc(site.guest(1), site.directory)
    assert answer is not None
    assert answer["ip"] == "10.1.0.77"


def test_a_client_that_remembers_another_address_is_put_right(site: Site) -> None:
    site.describe(make_network(1, **PLAIN), make_instance(1))
    guest = site.guest(1)
    for wish in ("10.1.0.99", "192.0.2.7"):
        answer = udhcpc(guest, site.directory, "-r", wish)
        assert answer is not None
        assert answer["ip"] == "10.1.0.2"


# --- who is given nothing


def test_a_stranger_is_given_nothing(site: Site) -> None:
    site.describe(make_network(1, **PLAIN), make_instance(1))
    assert udhcpc(site.guest(9), site.directory, tries=2) is None
    assert udhcpc(site.guest(9, mac="fa:16:3e:00:00:99"), site.directory, "-r", "10.1.0.2", tries=2) is None
    assert site.leases() == set()


def test_an_instance_of_another_network_is_a_stranger(site: Site) -> None:
    site.bridge(2)
    site.describe(make_network(1), make_network(2), make_instance(1), make_instance(2, network=2))
    assert udhcpc(site.guest(2, network=1), site.directory, tries=2) is None
    answer = udhcpc(site.guest(2, network=2), site.directory)
    assert answer is not None
    assert (answer["ip"], answer["router"]) == ("10.2.0.3", "10.2.0.1")


def test_a_deleted_instance_is_a_stranger(site: Site) -> None:
    site.describe(make_network(1, **PLAIN), make_instance(1))
    guest = site.guest(1)
    assert udhcpc(guest, site.directory)
    site.describe(make_network(1, **PLAIN))
    assert udhcpc(guest, site.directory, tries=2) is None


def test_without_dhcp_nobody_is_given_anything(site: Site) -> None:
    site.describe(make_network(1, enable_dhcp=False, **PLAIN), make_instance(1))
    assert site.pids() == {}
    assert udhcpc(site.guest(1), site.directory, tries=1) is None


def test_a_client_cannot_name_itself(site: Site) -> None:
    """Its name would be in everybody's DNS: a machine called wpad or gateway is one to be trusted."""
    site.describe(make_network(1, **PLAIN), make_instance(1, hostname=None))
    answer = udhcpc(site.guest(1), site.directory, "-x", "hostname:wpad", "-F", "wpad")
    assert answer is not None
    assert "hostname" not in answer
    assert " wpad " not in (site.networks / "br1.leases").read_text()


# --- two networks on one bridge


def test_networks_that_share_a_bridge(site: Site) -> None:
    site.host.links.add_address("br1", "10.2.0.1/24")
    networks = (make_network(1, mtu=1400, **PLAIN), make_network(2, bridge="br1", dns1="192.0.2.53", **PLAIN))
    site.describe(*networks, make_instance(1), make_instance(2, network=2))
    assert {bridge: len(pids) for bridge, pids in site.pids().items()} == {"br1": 1}
    one = udhcpc(site.guest(1), site.directory / "one")
    other = udhcpc(site.guest(2), site.directory / "other")
    assert one is not None
    assert other is not None
    assert (one["ip"], one["router"], one["dns"], one.get("mtu")) == ("10.1.0.2", "10.1.0.1", "10.1.0.1", "1400")
    assert (other["ip"], other["router"], other["dns"], other.get("mtu")) == (
        "10.2.0.3", "10.2.0.1", "192.0.2.53", None,
    )  # fmt: skip


# --- the operator's own file


def test_what_the_operators_file_says_goes_before(site: Site) -> None:
    """nova: "override the default dnsmasq settings with this file"; the MTU of tunnels was set so."""
    own = site.directory / "own.conf"
    own.write_text(f"log-facility={site.log}\ndhcp-option-force=26,1234\ndhcp-option=option:ntp-server,192.0.2.123\n")
    site.describe(make_network(1, mtu=1400, **PLAIN), make_instance(1), dnsmasq_config_file=str(own))
    answer = udhcpc(site.guest(1), site.directory)
    assert answer is not None
    assert (answer["mtu"], answer["ntpsrv"]) == ("1234", "192.0.2.123")
