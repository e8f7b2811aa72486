"""What dnsmasq is told of the networks and the instances."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nova_netagent.compile.dhcp import DhcpService, host_name, pairs
from nova_netagent.model import Object, values
from nova_netagent.testing import (
    instance_id,
    make_instance,
    make_network,
    make_vif,
    network_id,
)
from tests.unit.compile.world import make_settings, state_of
from tests.unit.dhcp.world import Compiling, services_of

PLAIN: dict[str, Any] = {"cidr_v6": None, "gateway_v6": None}
"""A network without IPv6."""


def service(*objects: Object, **options: Any) -> DhcpService:
    (found,) = services_of(*objects, **options).values()
    return found


def options_of(*objects: Object, **options: Any) -> set[str]:
    """What is given by DHCP, as ``name,value``; a forced one is marked by a bang."""
    found = set()
    for word in service(*objects, **options).arguments:
        name, _, value = word.partition("=")
        if name in ("--dhcp-option", "--dhcp-option-force"):
            found.add(value + ("!" if name.endswith("force") else ""))
    return found


def words(found: DhcpService, name: str) -> list[str]:
    return [word.partition("=")[2] for word in found.arguments if word.partition("=")[0] == name]


def eui64(number: int, network: int = 1) -> str:
    """The address that instance N makes itself on a network."""
    own = values.prefix(values.link_local(make_vif(number).address)).value & (1 << 64) - 1
    return values.address_text(6, values.prefix(f"fd00:{network}::").value | own)


def slaac_vif(number: int, network: int = 1, **fields: Any) -> Any:
    """A vif as nova describes it: its IPv6 address is that of its MAC."""
    return make_vif(number, network, fixed_ips=(f"10.{network}.0.{number + 1}", eui64(number, network)), **fields)


# --- the whole of one


def test_a_network_as_nova_makes_it() -> None:
    network = make_network(1, mtu=1450)
    found = service(network, make_instance(1, vifs=(slaac_vif(1),)), make_instance(2, vifs=(slaac_vif(2),)))
    assert found.arguments == (
        "--conf-file=/dev/null",
        "--keep-in-foreground",
        "--bind-dynamic",
        "--interface=br1",
        "--except-interface=lo",
        "--pid-file=/state/networks/br1.pid",
        "--dhcp-leasefile=/state/networks/br1.leases",
        "--dhcp-hostsfile=/state/networks/br1.dhcp-hosts",
        "--dhcp-ignore=tag:!known",
        "--dhcp-ignore-names",
        "--dhcp-authoritative",
        "--no-hosts",
        "--strict-order",
        "--addn-hosts=/state/networks/br1.dns-hosts",
        "--domain=novalocal",
        "--dhcp-lease-max=256",
        "--dhcp-range=10.1.0.0,static,255.255.255.0,86400s",
        "--dhcp-option=option:router,10.1.0.1",
        "--dhcp-option=option:dns-server,10.1.0.1",
        "--dhcp-option-force=option:mtu,1450",
        "--dhcp-range=fd00:1::,ra-stateless,64,86400s",
        "--dhcp-option=option6:dns-server,[fd00:1::1]",
        "--dhcp-option=option6:domain-search,novalocal",
        "--enable-ra",
        "--ra-param=br1,mtu:1450,600,1800",
    )
    assert found.hosts == (
        "fa:16:3e:00:00:01,vm1.novalocal,10.1.0.2\n"
        "fa:16:3e:00:00:02,vm2.novalocal,10.1.0.3\n"
    )  # fmt: skip
    assert found.dns_hosts == (
        "10.1.0.2\tvm1.novalocal vm1\n"
        "10.1.0.3\tvm2.novalocal vm2\n"
        "fd00:1::f816:3eff:fe00:1\tvm1.novalocal vm1\n"
        "fd00:1::f816:3eff:fe00:2\tvm2.novalocal vm2\n"
    )
    assert found.networks == (network.id,)
    assert found.addresses == ("10.1.0.1", "fd00:1::1")
    assert found.server_of("10.1.0.77") == "10.1.0.1"
    assert found.server_of("10.2.0.77") is None


# --- who is served


@pytest.mark.parametrize(
    "fields",
    [
        PLAIN | {"enable_dhcp": False},
        PLAIN | {"gateway": None},
        PLAIN | {"cidr": None, "gateway": None},
        {"enable_dhcp": False, "gateway_v6": None},
        {"enable_dhcp": False},  # RA only, and nobody has an address that he could make of one
        {"gateway": None, "gateway_v6": None},
    ],
)
def test_nobody_is_served_where_the_host_has_no_part(fields: dict[str, Any]) -> None:
    assert services_of(make_network(1, **fields), make_instance(1)) == {}


def test_a_network_that_contradicts_an_older_one_is_not_served() -> None:
    assert list(services_of(make_network(1), make_network(2, cidr="10.1.0.0/25", gateway="10.1.0.3"))) == ["br1"]


def test_each_bridge_has_its_own() -> None:
    found = services_of(make_network(2), make_network(1), make_instance(1), make_instance(2, network=2))
    assert list(found) == ["br1", "br2"]
    assert pairs(found["br1"].hosts) == {("10.1.0.2", "fa:16:3e:00:00:01"), ("fd00:1::2", "fa:16:3e:00:00:01")}
    assert pairs(found["br2"].hosts) == {("10.2.0.3", "fa:16:3e:00:00:02"), ("fd00:2::3", "fa:16:3e:00:00:02")}


def test_a_vif_that_is_in_error_is_unknown() -> None:
    taken = make_vif(2, fixed_ips=("10.1.0.2",))
    outside = make_vif(3, fixed_ips=("10.9.0.2",))
    objects = (make_network(1, **PLAIN), make_instance(1, vifs=(make_vif(1, fixed_ips=("10.1.0.2",)),)))
    found = service(*objects, make_instance(2, vifs=(taken,)), make_instance(3, vifs=(outside,)))
    assert found.hosts == "fa:16:3e:00:00:01,vm1.novalocal,10.1.0.2\n"


def test_a_vif_waits_for_its_network() -> None:
    assert service(make_network(1), make_instance(1, network=2)).hosts == ""


def test_of_several_fixed_ips_the_first_of_each_family_is_given_and_all_have_the_name() -> None:
    vif = make_vif(1, fixed_ips=("10.1.0.9", "10.1.0.2", "fd00:1::9", "fd00:1::2"))
    found = service(make_network(1), make_instance(1, vifs=(vif,)))
    assert found.hosts == "fa:16:3e:00:00:01,vm1.novalocal,10.1.0.9,[fd00:1::9]\n"
    assert [line.split("\t")[0] for line in found.dns_hosts.splitlines()] == [
        "10.1.0.2", "10.1.0.9", "fd00:1::2", "fd00:1::9",
    ]  # fmt: skip


def test_of_two_vifs_with_one_mac_the_first_is_served() -> None:
    twin = make_vif(2, address=make_vif(1).address, fixed_ips=("10.1.0.3",))
    found = service(make_network(1), make_instance(1), make_instance(2, vifs=(twin,)))
    assert found.hosts == "fa:16:3e:00:00:01,vm1.novalocal,10.1.0.2,[fd00:1::2]\n"


def test_one_instance_on_two_networks() -> None:
    vifs = (make_vif(1), make_vif(2, 2))
    found = services_of(make_network(1), make_network(2), make_instance(1, vifs=vifs))
    assert found["br1"].hosts == "fa:16:3e:00:00:01,vm1.novalocal,10.1.0.2,[fd00:1::2]\n"
    assert found["br2"].hosts == "fa:16:3e:00:00:02,vm1.novalocal,10.2.0.3,[fd00:2::3]\n"


def test_who_has_only_an_ipv6_address_is_no_stranger() -> None:
    found = service(make_network(1), make_instance(1, vifs=(make_vif(1, fixed_ips=("fd00:1::2",)),)))
    assert found.hosts == "fa:16:3e:00:00:01,vm1.novalocal,[fd00:1::2]\n"


# --- the router


@pytest.mark.parametrize(
    ("fields", "options", "router"),
    [
        ({}, {}, "10.1.0.1"),
        ({"gateway": None, "dhcp_server": "10.1.0.2"}, {}, None),
        ({"dhcp_server": "10.1.0.2"}, {}, "10.1.0.1"),
        ({"dhcp_server": "10.1.0.2", "multi_host": True}, {}, "10.1.0.2"),
        ({"dhcp_server": "10.1.0.2", "multi_host": True, "share_address": True}, {}, "10.1.0.1"),
        ({"dhcp_server": "10.1.0.2", "multi_host": True}, {"share_dhcp_address": True}, "10.1.0.1"),
        ({"gateway": None, "dhcp_server": "10.1.0.2", "multi_host": True}, {}, None),
    ],
)
def test_which_router_is_given(fields: dict[str, Any], options: dict[str, Any], router: str | None) -> None:
    given = options_of(make_network(1, **PLAIN, **fields), **options)
    assert {each for each in given if each.startswith("option:router")} == {
        "option:router" if router is None else f"option:router,{router}"
    }


def test_the_metadata_service_is_reached_past_another_router() -> None:
    def routes(**fields: Any) -> set[str]:
        return {each for each in options_of(make_network(1, **PLAIN, **fields)) if "static-route" in each}

    metadata = "option:classless-static-route,169.254.169.254/32,10.1.0.2"
    assert routes() == set()
    assert routes(dhcp_server="10.1.0.2") == {f"{metadata},0.0.0.0/0,10.1.0.1"}
    assert routes(gateway=None, dhcp_server="10.1.0.2") == {metadata}
    elsewhere = options_of(make_network(1, **PLAIN, dhcp_server="10.1.0.2"), metadata_host=None)
    assert not any("static-route" in each for each in elsewhere)


# --- names and name servers


@pytest.mark.parametrize(
    ("fields", "ipv4", "ipv6"),
    [
        ({}, "10.1.0.1", "[fd00:1::1]"),
        ({"dns1": "192.0.2.53"}, "192.0.2.53", "[fd00:1::1]"),
        ({"dns1": "192.0.2.53", "dns2": "192.0.2.54"}, "192.0.2.53,192.0.2.54", "[fd00:1::1]"),
        ({"dns1": "2001:db8::53"}, "10.1.0.1", "[2001:db8::53]"),
        ({"dns1": "192.0.2.53", "dns2": "2001:db8::53"}, "192.0.2.53", "[2001:db8::53]"),
        ({"dns1": "192.0.2.53", "dns2": "192.0.2.53"}, "192.0.2.53", "[fd00:1::1]"),
        ({"gateway_v6": "fe80::1"}, "10.1.0.1", "[fe80::1]"),
    ],
)
def test_which_name_servers_are_given(fields: dict[str, Any], ipv4: str, ipv6: str) -> None:
    given = options_of(make_network(1, **fields))
    assert {each for each in given if "dns-server" in each} == {
        f"option:dns-server,{ipv4}", f"option6:dns-server,{ipv6}",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "options", "asked"),
    [
        ({}, {}, []),
        ({}, {"dns_server": ("192.0.2.53", "2001:db8::53")}, ["192.0.2.53", "2001:db8::53"]),
        ({"dns1": "192.0.2.1", "dns2": "192.0.2.2"}, {}, ["192.0.2.1", "192.0.2.2"]),
        ({"dns1": "192.0.2.1"}, {"dns_server": ("192.0.2.53",)}, ["192.0.2.53"]),
        ({"dns1": "10.1.0.1"}, {}, []),  # it would ask itself
    ],
)
def test_whom_dnsmasq_asks(fields: dict[str, Any], options: dict[str, Any], asked: list[str]) -> None:
    found = service(make_network(1, **fields), **options)
    assert words(found, "--server") == asked
    assert ("--no-resolv" in found.arguments) == bool(asked)


def test_the_name_servers_of_one_network_are_not_anothers() -> None:
    """nova appended each network's to one list, and it grew."""
    found = services_of(make_network(1, dns1="192.0.2.1"), make_network(2, dns1="192.0.2.2"), make_network(3))
    assert [words(each, "--server") for each in found.values()] == [["192.0.2.1"], ["192.0.2.2"], []]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("vm1", "vm1"),
        ("Vm-1", "Vm-1"),
        ("web_server", "web-server"),
        ("www.example.com", "www-example-com"),
        ("_x_", "x"),
        ("a" * 63, "a" * 63),
        ("ab" + "c" * 62, "ab-" + "c" * 60),
        ("ab" + "." * 62, "ab"),
        (None, None),
        ("_", None),
    ],
)
def test_an_instances_name_is_one_label(given: str | None, name: str | None) -> None:
    assert host_name(given) == name


@given(st.text(max_size=300))
def test_whatever_the_text_a_name_is_one_label_or_none(text: str) -> None:
    name = host_name(text)
    assert name is None or (1 <= len(name) <= 63 and name.isascii() and name.replace("-", "a").isalnum())
    assert name is None or name.strip("-") == name


@pytest.mark.parametrize("name", ["12h", "7", "ignore", "infinite", "10m", "Ignore"])
def test_a_name_that_would_mean_something_else_to_dnsmasq(name: str) -> None:
    objects = (make_network(1, **PLAIN), make_instance(1, hostname=name, vifs=(make_vif(1, fixed_ips=("10.1.0.2",)),)))
    assert service(*objects).hosts == f"fa:16:3e:00:00:01,{name}.novalocal,10.1.0.2\n"
    bare = service(*objects, dhcp_domain="")
    assert bare.hosts == "fa:16:3e:00:00:01,10.1.0.2\n"
    assert bare.dns_hosts == f"10.1.0.2\t{name}\n"
    assert "--domain" not in " ".join(bare.arguments)


def test_an_instance_without_a_name_has_none_in_the_dns() -> None:
    found = service(make_network(1, **PLAIN), make_instance(1, hostname=None))
    assert found.hosts == "fa:16:3e:00:00:01,10.1.0.2\n"
    assert found.dns_hosts == ""


# --- the rest of what is given


@pytest.mark.parametrize(
    ("fields", "options", "mtu"),
    [
        ({}, {}, set()),
        ({"mtu": 1400}, {}, {"option:mtu,1400!"}),
        ({}, {"network_device_mtu": 9000}, {"option:mtu,9000!"}),
        ({"mtu": 1400}, {"network_device_mtu": 9000}, {"option:mtu,1400!"}),
    ],
)
def test_the_mtu(fields: dict[str, Any], options: dict[str, Any], mtu: set[str]) -> None:
    given = options_of(make_network(1, **PLAIN, **fields), **options)
    assert {each for each in given if "mtu" in each} == mtu


def test_an_mtu_that_ipv6_cannot_have_is_not_advertised() -> None:
    found = service(make_network(1), network_device_mtu=576)
    assert words(found, "--ra-param") == []
    assert words(service(make_network(1), network_device_mtu=1280), "--ra-param") == ["br1,mtu:1280,600,1800"]


@pytest.mark.parametrize(
    ("cidr", "most"),
    [("10.1.0.0/24", 256), ("10.1.0.0/16", 65536), ("10.0.0.0/8", 65536), ("10.1.0.0/30", 4), ("10.1.0.0/31", 2)],
)
def test_there_may_be_as_many_leases_as_addresses(cidr: str, most: int) -> None:
    found = service(make_network(1, **PLAIN, cidr=cidr))
    assert words(found, "--dhcp-lease-max") == [str(most)]


@pytest.mark.parametrize(
    ("cidr", "range_"),
    [
        ("10.1.0.0/24", "10.1.0.0,static,255.255.255.0,600s"),
        ("10.0.0.0/8", "10.0.0.0,static,255.0.0.0,600s"),
        ("10.1.0.0/30", "10.1.0.0,static,255.255.255.252,600s"),
        ("10.1.0.1/32", "10.1.0.1,static,255.255.255.255,600s"),
    ],
)
def test_only_described_addresses_are_given_and_for_how_long(cidr: str, range_: str) -> None:
    found = service(make_network(1, **PLAIN, cidr=cidr, dhcp_start="10.1.0.1"), dhcp_lease_time=600)
    assert words(found, "--dhcp-range") == [range_]


def test_the_operators_own_file() -> None:
    found = service(make_network(1), dnsmasq_config_file="/etc/dnsmasq-nova.conf")
    assert words(found, "--conf-file") == ["/etc/dnsmasq-nova.conf"]


# --- IPv6


def mode(*objects: Object, **options: Any) -> str:
    found = [word for word in words(service(*objects, **options), "--dhcp-range") if ":" in word]
    return found[0] if found else ""


def test_who_has_the_address_of_his_mac_makes_it_himself() -> None:
    assert mode(make_network(1), make_instance(1, vifs=(slaac_vif(1),))) == "fd00:1::,ra-stateless,64,86400s"


def test_one_who_has_another_address_needs_dhcpv6_for_all() -> None:
    network, slaac = make_network(1), make_instance(1, vifs=(slaac_vif(1),))
    found = service(network, slaac, make_instance(2))
    assert mode(network, slaac, make_instance(2)) == "fd00:1::,static,64,86400s"
    assert (eui64(1), "fa:16:3e:00:00:01") in pairs(found.hosts)
    assert ("fd00:1::3", "fa:16:3e:00:00:02") in pairs(found.hosts)


def test_it_is_enough_to_have_the_address_of_ones_mac_among_others() -> None:
    vif = make_vif(1, fixed_ips=("fd00:1::77", eui64(1)))
    assert mode(make_network(1), make_instance(1, vifs=(vif,))) == "fd00:1::,ra-stateless,64,86400s"


def test_who_has_no_ipv6_address_has_no_say_in_it() -> None:
    without = make_instance(2, vifs=(make_vif(2, fixed_ips=("10.1.0.3",)),))
    assert "ra-stateless" in mode(make_network(1), make_instance(1, vifs=(slaac_vif(1),)), without)
    assert "static" in mode(make_network(1), without)


def test_as_long_as_there_is_nobody_nobody_makes_an_address() -> None:
    assert mode(make_network(1)) == "fd00:1::,static,64,86400s"


@pytest.mark.parametrize(
    ("cidr", "gateway", "range_"),
    [
        ("fd00:1::/80", "fd00:1::1", "fd00:1::,static,80,86400s"),
        ("fd00:1::/112", "fd00:1::1", "fd00:1::,static,112,86400s"),
        ("fd00:1::/48", "fd00:1:0:5::1", "fd00:1:0:5::,static,64,86400s"),
        ("fd00:1::/48", "fe80::1", "fd00:1::,static,64,86400s"),
        ("fd00:1::/64", "fe80::1", "fd00:1::,static,64,86400s"),
    ],
)
def test_the_prefix_that_is_served(cidr: str, gateway: str, range_: str) -> None:
    assert mode(make_network(1, cidr_v6=cidr, gateway_v6=gateway)) == range_


def test_a_longer_prefix_gives_no_address_by_itself() -> None:
    vif = make_vif(1, fixed_ips=("fd00:1::2",))
    found = service(make_network(1, cidr_v6="fd00:1::/112"), make_instance(1, vifs=(vif,)))
    assert found.hosts == "fa:16:3e:00:00:01,vm1.novalocal,[fd00:1::2]\n"


@pytest.mark.parametrize("fields", [{"gateway_v6": None}, PLAIN])
def test_no_word_of_ipv6_where_somebody_else_routes_it(fields: dict[str, Any]) -> None:
    found = service(make_network(1, **fields), make_instance(1, vifs=(make_vif(1, fixed_ips=("10.1.0.2",)),)))
    assert "--enable-ra" not in found.arguments
    assert not any("option6" in word or "fd00" in word or "ra-" in word for word in found.arguments)


def test_no_word_of_ipv6_on_a_host_without_it() -> None:
    found = service(make_network(1), make_instance(1), families=(4,))
    assert not any(":" in word.replace("option:", "").replace("tag:", "") for word in found.arguments)
    assert found.hosts == "fa:16:3e:00:00:01,vm1.novalocal,10.1.0.2\n"


def test_without_dhcp_a_router_still_says_that_it_is_one() -> None:
    found = service(make_network(1, enable_dhcp=False), make_instance(1, vifs=(slaac_vif(1),)))
    assert words(found, "--dhcp-range") == ["fd00:1::,ra-only,64,86400s"]
    assert "--port=0" in found.arguments
    assert (found.hosts, found.dns_hosts) == ("", "")
    assert found.addresses == ("fd00:1::1",)


def test_a_network_of_ipv6_only() -> None:
    found = service(
        make_network(1, cidr=None, gateway=None), make_instance(1, vifs=(make_vif(1, fixed_ips=("fd00:1::2",)),))
    )
    assert words(found, "--dhcp-range") == ["fd00:1::,static,64,86400s"]
    assert found.hosts == "fa:16:3e:00:00:01,vm1.novalocal,[fd00:1::2]\n"
    assert "--no-hosts" in found.arguments


# --- networks that share a bridge


def test_networks_that_share_a_bridge_share_a_dnsmasq() -> None:
    other = make_network(2, bridge="br1", **PLAIN, dns1="192.0.2.53", mtu=1400)
    found = service(make_network(1, **PLAIN), other, make_instance(1), make_instance(2, network=2))
    tags = [f"tag:{network_id(1)}", f"tag:{network_id(2)}"]
    assert found.networks == (network_id(1), network_id(2))
    assert words(found, "--dhcp-range") == [
        f"set:{network_id(1)},10.1.0.0,static,255.255.255.0,86400s",
        f"set:{network_id(2)},10.2.0.0,static,255.255.255.0,86400s",
    ]
    assert words(found, "--dhcp-option") == [
        f"{tags[0]},option:router,10.1.0.1",
        f"{tags[0]},option:dns-server,10.1.0.1",
        f"{tags[1]},option:router,10.2.0.1",
        f"{tags[1]},option:dns-server,192.0.2.53",
    ]
    assert words(found, "--dhcp-option-force") == [f"{tags[1]},option:mtu,1400"]
    assert pairs(found.hosts) == {("10.1.0.2", "fa:16:3e:00:00:01"), ("10.2.0.3", "fa:16:3e:00:00:02")}
    assert found.server_of("10.2.0.3") == "10.2.0.1"
    assert words(found, "--dhcp-lease-max") == ["512"]


def test_a_network_that_is_not_served_shares_nothing() -> None:
    found = service(make_network(1, **PLAIN), make_network(2, bridge="br1", enable_dhcp=False, **PLAIN))
    assert found.networks == (network_id(1),)
    assert not any("tag:e" in word for word in found.arguments)


# --- laws


def some_objects() -> list[Object]:
    vifs = [make_vif(number, 1 + number % 2) for number in range(1, 20)]
    instances = [make_instance(number, vifs=(vif,)) for number, vif in enumerate(vifs, 1)]
    return [make_network(1), make_network(2, bridge="br1", **PLAIN), make_network(3), *instances]


def test_the_order_of_events_does_not_matter() -> None:
    objects = some_objects()
    expected = services_of(*objects)
    for seed in range(10):
        random.Random(seed).shuffle(objects)
        assert services_of(*objects) == expected


def test_what_did_not_change_is_not_rendered_again() -> None:
    compiling = Compiling(make_settings(state_path="/state"))
    objects: list[Object] = [make_network(1), make_network(2), make_instance(1), make_instance(2, network=2)]
    state = state_of(*objects)
    first = compiling.compile(state)
    changed = state_of(*objects[:3], make_instance(2, network=2, hostname="other"))
    entries = {**state.instances, instance_id(2): changed.instances[instance_id(2)]}
    second = compiling.compile(type(state)(networks=state.networks, instances=entries))
    assert second["br1"] is first["br1"]
    assert "other" in second["br2"].hosts


def test_a_new_instance_changes_files_only() -> None:
    before = service(make_network(1), make_instance(1))
    after = service(make_network(1), make_instance(1), make_instance(2))
    assert before.arguments == after.arguments
    assert before.hosts != after.hosts


@given(st.lists(st.tuples(st.text(min_size=1, max_size=80), st.booleans()), max_size=6))
def test_no_text_reaches_dnsmasq_as_anything_but_a_name(given_names: list[tuple[str, bool]]) -> None:
    """Whatever a name is: every line is a MAC, at most one name, and addresses."""
    instances = []
    for number, (text, _) in enumerate(given_names, 1):
        try:
            instances.append(make_instance(number, hostname=text, project_id=text))
        except ValueError:
            continue  # refused before it comes this far
    for domain in ("novalocal", ""):
        found = service(make_network(1), *instances, dhcp_domain=domain)
        assert len(found.hosts.splitlines()) == len(instances)
        for line in found.hosts.splitlines():
            mac, *rest = line.split(",")
            assert values.mac(mac) == mac
            names = [
                word for word in rest if (not word.startswith("[") and not word[0].isdigit()) or "novalocal" in word
            ]
            assert len(names) <= 1
            assert len(rest) - len(names) <= 3
        for line in found.dns_hosts.splitlines():
            address, names_text = line.split("\t")
            assert values.ip(address) == address
            assert 1 <= len(names_text.split(" ")) <= 2


def test_pairs_are_what_was_written() -> None:
    found = service(make_network(1), make_instance(1), make_instance(2, hostname="1.2.3.4"), dhcp_domain="")
    assert pairs(found.hosts) == {
        ("10.1.0.2", "fa:16:3e:00:00:01"), ("fd00:1::2", "fa:16:3e:00:00:01"),
        ("10.1.0.3", "fa:16:3e:00:00:02"), ("fd00:1::3", "fa:16:3e:00:00:02"),
    }  # fmt: skip
    assert pairs("") == frozenset()
