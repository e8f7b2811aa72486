"""linux_net's scenarios (nova/tests/unit/network/test_linux_net.py): 10 to 19, as far as they are rules and links."""

from typing import Any

import pytest

from nova_netagent.netfilter.rule import Family
from nova_netagent.testing import make_floating_ip, make_group, make_instance, make_network, make_rule
from tests.properties.host import Host
from tests.unit.compile.world import World, make_settings
from tests.unit.nova.conftest import MakeHost
from tests.unit.nova.iptables import chain, save

INTERNAL: dict[str, Any] = {"cidr": "10.0.0.0/24", "gateway": "10.0.0.1", "cidr_v6": None, "gateway_v6": None}
EXTERNAL = INTERNAL | {"dhcp_server": "10.0.0.2"}
ROUTED = "-s 10.0.0.0/24 -o eth0 -j SNAT --to-source 10.10.10.1"


@pytest.mark.parametrize(
    ("network", "force_snat_range", "expected"),
    [
        (INTERNAL, (), [ROUTED]),
        (EXTERNAL, (), ["-s 10.0.0.0/24 -j RETURN", ROUTED]),
        (INTERNAL, ("10.10.10.0/24",), [ROUTED]),
        (
            EXTERNAL,
            ("10.10.10.0/24",),
            ["-s 10.0.0.0/24 -d 10.10.10.0/24 -j SNAT --to-source 10.10.10.1", "-s 10.0.0.0/24 -j RETURN", ROUTED],
        ),
    ],
    ids=["internal", "external", "internal, forced", "external, forced"],
)
def test_snat_of_the_fixed_range(
    network: dict[str, Any], force_snat_range: tuple[str, ...], expected: list[str]
) -> None:
    """Scenario 10. ``fixed_range`` is an option again; what is external returns before its rule."""
    settings = make_settings(
        routing_source_ip="10.10.10.1", fixed_range=("10.0.0.0/24",), force_snat_range=force_snat_range
    )
    world = World(make_network(1, **network), settings=settings)
    assert world.chain("snat", "nat") == ["-j nova-netagent-float-snat", *expected]


@pytest.mark.parametrize(
    ("host", "family", "expected"),
    [
        ("10.10.10.1", 4, "-d 10.10.10.1/32 -p tcp -m tcp --dport 8775 -j ACCEPT"),
        ("2600::", 6, "-d 2600::/128 -p tcp -m tcp --dport 8775 -j ACCEPT"),
        ("127.0.0.1", 4, "-p tcp -m tcp --dport 8775 -m addrtype --dst-type LOCAL -j ACCEPT"),
        ("::1", 6, "-p tcp -m tcp --dport 8775 -m addrtype --dst-type LOCAL -j ACCEPT"),
    ],
)
def test_the_metadata_service_is_let_in(host: str, family: Family, expected: str) -> None:
    """Scenario 11."""
    world = World(settings=make_settings(metadata_host=host))
    other: Family = 10 - family  # type: ignore[assignment]
    assert world.chain("INPUT", family=family) == [expected]
    assert world.chain("INPUT", family=other) == []


@pytest.mark.parametrize(
    ("host", "target"),
    [("10.10.10.1", "-j DNAT --to-destination 10.10.10.1:8775"), ("127.0.0.1", "-j REDIRECT --to-ports 8775")],
)
def test_the_metadata_address_is_led_to_the_service(host: str, target: str) -> None:
    """Scenario 12."""
    world = World(settings=make_settings(metadata_host=host))
    assert world.chain("PREROUTING", "nat") == [f"-d 169.254.169.254/32 -p tcp -m tcp --dport 80 {target}"]


def test_a_floating_ip_that_moves_leaves_no_rule_behind(host: Host) -> None:
    """Scenario 13."""
    host.put(make_network(1), *(make_instance(n) for n in (1, 2, 3)), make_floating_ip(10, 1), make_floating_ip(11, 2))
    lines, commits = save(host, "nat"), host.backend.commits
    host.put(make_floating_ip(10, 3))
    assert len(save(host, "nat")) == len(lines)
    assert not [line for line in save(host, "nat") if "10.1.0.2" in line.replace("/", " ").split()]
    assert host.backend.commits <= commits + 2  # nat, and filter for what the host itself sends to it
    assert ("eth0", "198.51.100.10/32") in host.links.addresses


def test_a_network_without_dhcp_adds_exactly_two_forward_rules_and_both_accept(host: Host) -> None:
    """Scenario 14 (bug 890195: it must not drop by default)."""
    host.put(make_network(1, enable_dhcp=False))
    for family in (4, 6):
        assert chain(host, "W-FORWARD", family=family) == ["-i br1 -j ACCEPT", "-o br1 -j ACCEPT"]


@pytest.mark.parametrize(
    ("options", "fields", "expected"),
    [
        ({"flat_interface": "eth7"}, {"bridge_interface": "eth1"}, "eth7"),
        ({}, {"bridge_interface": "eth1"}, "eth1"),
        ({"vlan_interface": "eth7"}, {"bridge_interface": "eth1", "vlan": 100}, "vlan100"),
        ({"vlan_interface": "eth7"}, {"bridge_interface": "eth1"}, "eth1"),
        ({"flat_interface": "eth7"}, {"bridge_interface": "eth1", "vlan": 100}, "vlan100"),
    ],
)
def test_the_local_option_wins_over_the_networks_bridge_interface(
    options: dict[str, str], fields: dict[str, Any], expected: str
) -> None:
    """Scenario 15 (bug 833426), as far as the rules name the interface."""
    world = World(make_network(1, **fields), settings=make_settings(**options))
    assert world.chain("senders", "raw")[0] == f"-i br1 -m physdev --physdev-in {expected} -j RETURN"


def test_the_gateways_address_is_given_only_where_it_is_missing(host: Host) -> None:
    """Scenario 17, (d) and (e)."""
    host.put(make_network(1))
    assert {("br1", "10.1.0.1/24"), ("br1", "fd00:1::1/64")} <= host.links.addresses
    edits = list(host.links.edits)
    host.put(make_network(1, label="again"))
    host.engine.resync()
    assert host.links.edits == edits


def test_a_bridge_that_is_there_is_used_and_stays(host: Host) -> None:
    """Scenario 18."""
    host.links.add_link("br1", kind="bridge")
    host.links.add_link("tap1")
    network, instance = make_network(1), make_instance(1)
    host.put(network, instance)
    assert "+ bridge br1" not in host.links.edits
    assert host.links.links["tap1"].master == "br1"
    host.delete(instance, network)
    assert "br1" in host.links.links
    assert host.links.links["tap1"].master is None


def test_a_bridge_that_was_made_goes_with_its_network_and_a_failure_is_told(host: Host) -> None:
    """Scenario 19."""
    network, other = make_network(1), make_network(2)
    host.put(network, other)
    host.delete(network)
    assert "br1" not in host.links.links
    host.links.fail["br2"] = "Device or resource busy"
    host.put(make_network(2, gateway="10.2.0.9"))
    status = host.engine.view.status(("networks", other.id))
    assert status is not None
    assert (status.state, status.message) == ("error", "br2: Device or resource busy")
    host.links.fail.clear()
    host.engine.resync()
    assert ("br2", "10.2.0.9/24") in host.links.addresses


def test_each_network_has_its_own_rules_and_they_go_with_it(make_host: MakeHost) -> None:
    """nova's plug and unplug: what one adds, and no more, the other takes away."""
    host = make_host(metadata_host=None)
    before = {
        (table, family): save(host, table, family) for table in ("filter", "nat", "mangle", "raw") for family in (4, 6)
    }
    host.put(make_network(1), make_network(2), make_group(1, make_rule(1)))
    host.delete(make_network(1))
    assert not [line for line in save(host) if "br1" in line]
    assert [line for line in save(host) if "br2" in line]
    host.delete(make_network(2))
    assert {key: save(host, *key) for key in before} == before  # type: ignore[arg-type]
