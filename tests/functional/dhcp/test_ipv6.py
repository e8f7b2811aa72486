"""IPv6: what is advertised, who makes his address and who is given one."""

from typing import Any

import pytest

from nova_netagent.testing import make_instance, make_network, make_vif
from tests.functional.dhcp.clients import Prefix, dhclient, dhcpcd, resolve, solicit
from tests.functional.dhcp.site import Site, eventually
from tests.lab import Namespace, needs
from tests.unit.dhcp.test_services import eui64, slaac_vif

pytestmark = needs("bridge", "veth", "ipv6", "program:dnsmasq", "setgroups", "program:dhclient")


def slaac(number: int = 1, network: int = 1) -> Any:
    """An instance whose address is that of its MAC."""
    return make_instance(number, vifs=(slaac_vif(number, network),))


def autoconfigure(guest: Namespace) -> None:
    """Have the guest's kernel do what it does by default when its link comes up."""
    guest.sysctl("net.ipv6.conf.eth0.accept_ra", 1)
    guest.sysctl("net.ipv6.conf.eth0.autoconf", 1)
    guest.links.set("eth0", up=False)
    guest.links.set("eth0", up=True)


def global_addresses(guest: Namespace) -> set[str]:
    found = guest.links.addresses("eth0")
    return {each["address"] for each in found if each["family"] == 6 and each["scope"] == "global"}


def router_of(site: Site) -> str:
    """The link-local address of the bridge: that of the MAC that it had when it was made."""
    (found,) = (each["address"] for each in site.host.links.addresses("br1") if each["scope"] == "link")
    return str(found)


# --- router advertisements


def test_what_is_advertised_where_instances_make_their_address(site: Site) -> None:
    site.describe(make_network(1, mtu=1400), slaac())
    found = solicit(site.guest(1))
    assert found is not None
    assert (found.managed, found.other, found.lifetime, found.mtu) == (False, True, 1800, 1400)
    assert found.prefixes == [Prefix("fd00:1::/64", on_link=True, autonomous=True, valid=86400, preferred=86400)]
    assert (found.name_servers, found.search) == (["fd00:1::1"], ["novalocal"])
    assert found.source == router_of(site)
    assert found.link_address == site.host.links.mac("br1")


def test_what_is_advertised_where_dhcpv6_gives_the_address(site: Site) -> None:
    site.describe(make_network(1), make_instance(1), dhcp_lease_time=7200)
    found = solicit(site.guest(1))
    assert found is not None
    assert (found.managed, found.other, found.lifetime) == (True, True, 1800)
    assert found.prefixes == [Prefix("fd00:1::/64", on_link=True, autonomous=False, valid=7200, preferred=7200)]
    assert found.mtu == 1500, "the bridge's own"


def test_what_is_advertised_without_dhcp(site: Site) -> None:
    site.describe(make_network(1, enable_dhcp=False), slaac())
    guest = site.guest(1)
    found = solicit(guest)
    assert found is not None
    assert (found.managed, found.other, found.lifetime) == (False, False, 1800)
    assert [(each.prefix, each.autonomous) for each in found.prefixes] == [("fd00:1::/64", True)]
    assert found.name_servers == []
    guest.links.add_address("eth0", "10.1.0.2/24")
    assert resolve(guest, "10.1.0.1", "vm1.novalocal", within=0.5) is None


def test_a_longer_prefix(site: Site) -> None:
    site.bridge(4, "fd00:4::1/112")
    vif = make_vif(1, 4, fixed_ips=("fd00:4::2",))
    network = make_network(4, cidr=None, gateway=None, cidr_v6="fd00:4::/112", gateway_v6="fd00:4::1")
    site.describe(network, make_instance(1, vifs=(vif,)))
    guest = site.guest(1, 4)
    found = solicit(guest)
    assert found is not None
    assert [(each.prefix, each.autonomous) for each in found.prefixes] == [("fd00:4::/112", False)]
    answer = dhclient(guest, site.directory, family=6)
    assert answer is not None
    assert answer["ip6_address"] == "fd00:4::2"


def test_a_shorter_prefix_is_served_where_the_host_is(site: Site) -> None:
    site.bridge(4, "fd00:4:0:5::1/48")
    vif = make_vif(1, 4, fixed_ips=("fd00:4:0:5::2",))
    network = make_network(4, cidr=None, gateway=None, cidr_v6="fd00:4::/48", gateway_v6="fd00:4:0:5::1")
    site.describe(network, make_instance(1, vifs=(vif,)))
    guest = site.guest(1, 4)
    found = solicit(guest)
    assert found is not None
    assert [each.prefix for each in found.prefixes] == ["fd00:4:0:5::/64"]
    answer = dhclient(guest, site.directory, family=6)
    assert answer is not None
    assert answer["ip6_address"] == "fd00:4:0:5::2"


def test_a_link_local_gateway(site: Site) -> None:
    """The host needs an address in the range as well: nova gave it the first."""
    site.bridge(4, "10.4.0.1/24", "fe80::1/64", "fd00:4::/64")
    site.describe(make_network(4, gateway_v6="fe80::1"), slaac(1, 4))
    guest = site.guest(1, 4)
    found = solicit(guest)
    assert found is not None
    assert [each.prefix for each in found.prefixes] == ["fd00:4::/64"]
    assert found.name_servers == ["fe80::1"]
    assert found.source.startswith("fe80:")


@pytest.mark.parametrize(
    "fields", [{"gateway_v6": None}, {"cidr_v6": None, "gateway_v6": None}, {"enable_dhcp": False}]
)
def test_nothing_is_advertised_where_we_are_not_the_router_or_have_nothing_to_say(
    site: Site, fields: dict[str, Any]
) -> None:
    site.describe(make_network(1, **fields), make_instance(1, vifs=(make_vif(1, fixed_ips=("10.1.0.2",)),)))
    assert solicit(site.guest(1), within=0.5) is None


def test_nothing_is_advertised_once_somebody_else_is_the_router(site: Site) -> None:
    site.describe(make_network(1), slaac())
    guest = site.guest(1)
    assert solicit(guest)
    site.describe(make_network(1, gateway_v6=None), slaac())
    assert solicit(guest, within=0.5) is None


# --- addresses


def test_a_guest_makes_its_address_and_learns_its_router(site: Site) -> None:
    site.describe(make_network(1, mtu=1400), slaac())
    guest = site.guest(1)
    autoconfigure(guest)
    eventually(lambda: global_addresses(guest) == {eui64(1)}, within=8)
    router = router_of(site)
    eventually(lambda: any(r["destination"] == "default" and r["via"] == router for r in guest.links.routes(6)))
    assert guest.sysctl("net.ipv6.conf.eth0.mtu") == "1400"


def test_a_guest_makes_no_address_where_dhcpv6_gives_it(site: Site) -> None:
    site.describe(make_network(1), make_instance(1))
    guest = site.guest(1)
    autoconfigure(guest)
    router = router_of(site)
    eventually(lambda: any(r["destination"] == "default" and r["via"] == router for r in guest.links.routes(6)), 8)
    assert global_addresses(guest) == set()


def test_dhclient_is_given_all_that_is_described(site: Site) -> None:
    site.describe(make_network(1), make_instance(1))
    answer = dhclient(site.guest(1), site.directory, family=6)
    assert answer is not None
    assert (
        answer.items()
        >= {
            "ip6_address": "fd00:1::2",
            "dhcp6_name_servers": "fd00:1::1",
            "dhcp6_domain_search": "novalocal.",
            "fqdn_fqdn": "vm1.novalocal",
        }.items()
    )


@needs("program:dhcpcd")
def test_dhcpcd_hears_the_advertisement_and_asks(site: Site) -> None:
    site.describe(make_network(1), make_instance(1))
    guest = site.guest(1)
    dhcpcd(guest, site.directory, family=6)
    assert "fd00:1::2" in site.leases()


def test_who_makes_its_address_is_told_the_rest(site: Site) -> None:
    site.describe(make_network(1, dns1="2001:db8::53"), slaac())
    answer = dhclient(site.guest(1), site.directory, "-S", family=6)
    assert answer is not None
    assert answer["dhcp6_name_servers"] == "2001:db8::53"
    assert "ip6_address" not in answer


def test_once_one_needs_it_all_are_given_theirs(site: Site) -> None:
    site.describe(make_network(1), slaac(), make_instance(2))
    for number, address in ((1, eui64(1)), (2, "fd00:1::3")):
        answer = dhclient(site.guest(number), site.directory / str(number), family=6)
        assert answer is not None
        assert answer["ip6_address"] == address


def test_of_several_fixed_ips_the_first_is_given(site: Site) -> None:
    vif = make_vif(1, fixed_ips=("fd00:1::77", "fd00:1::2"))
    site.describe(make_network(1), make_instance(1, vifs=(vif,)))
    answer = dhclient(site.guest(1), site.directory, family=6)
    assert answer is not None
    assert answer["ip6_address"] == "fd00:1::77"


def test_a_stranger_is_given_nothing(site: Site) -> None:
    site.describe(make_network(1), make_instance(1))
    assert dhclient(site.guest(9), site.directory, family=6, within=3) is None
    assert site.leases() == set()


def test_both_families_at_once(site: Site) -> None:
    site.describe(make_network(1), make_instance(1))
    guest = site.guest(1)
    for family, name in ((4, "ip_address"), (6, "ip6_address")):
        answer = dhclient(guest, site.directory, family=family)
        assert answer is not None
        assert answer[name] == {4: "10.1.0.2", 6: "fd00:1::2"}[family]
    assert site.leases() == {"10.1.0.2", "fd00:1::2"}
