"""The firewall driver's scenarios (nova/tests/unit/virt/test_firewall.py): numbers 25 to 36."""

from typing import Any

import pytest

from nova_netagent.events import Delete
from nova_netagent.netfilter.rule import Family
from nova_netagent.testing import (
    group_id,
    instance_id,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
    make_vif,
)
from tests.properties.host import Host
from tests.unit.compile.world import World, make_settings
from tests.unit.nova.iptables import chain, everything, names

APART = make_settings(allow_same_net_traffic=False)


@pytest.mark.parametrize("family", [4, 6])
def test_there_is_a_fallback_that_drops_in_both_families(host: Host, family: Family) -> None:
    """Scenario 25."""
    assert chain(host, "W-sg-fallback", family=family) == ["-j DROP"]


def test_an_instance_that_goes_takes_its_chain_and_an_unknown_one_nothing(host: Host) -> None:
    """Scenario 26."""
    one, two = make_instance(1), make_instance(2)
    host.put(make_network(1), one, two)
    before, commits = everything(host), host.backend.commits
    (answer,) = host.send(Delete("instances", instance_id(77)))
    assert answer.change == "missing"
    assert everything(host) == before
    assert host.backend.commits == commits
    host.delete(one)
    assert host.backend.commits > commits
    for family in (4, 6):
        assert "W-inst-a0000001" not in names(host, family=family)
        assert "W-inst-a0000002" in names(host, family=family)


DISCOVER = "-s 0.0.0.0/32 -d 255.255.255.255/32 -p udp -m udp --sport 68 --dport 67 -j ACCEPT"


def test_the_dhcp_request_is_accepted_once_and_only_where_there_is_a_server() -> None:
    """Scenario 27 (bug 1131223)."""
    serving = World(make_network(1), make_network(2), make_instance(1), make_instance(2, network=2))
    for name in ("INPUT", "FORWARD"):
        assert serving.chain(name).count(DISCOVER) == 1
    for silent in ({"enable_dhcp": False}, {"gateway": None}):
        world = World(make_network(1, **silent), make_instance(1))
        assert DISCOVER not in world.chain("INPUT") + world.chain("FORWARD")


def test_each_address_has_a_jump() -> None:
    """Scenario 28: two IPv4 addresses and one IPv6 address."""
    vif = make_vif(1, fixed_ips=("10.1.0.2", "10.1.0.3", "fd00:1::2"))
    world = World(make_network(1), make_instance(1, vifs=(vif,)))
    jumps = {
        family: [rule for rule in world.chain("local", family=family) if " -d " in f" {rule}"] for family in (4, 6)
    }
    assert jumps[4] == [f"-d 10.1.0.{n}/32 -o br1 -j nova-netagent-inst-a0000001" for n in (2, 3)]
    assert jumps[6] == ["-d fd00:1::2/128 -o br1 -j nova-netagent-inst-a0000001"]


def test_five_networks_make_ten_jumps_and_five() -> None:
    """Scenario 28, the larger one: five networks, on each two IPv4 addresses and an IPv6 one."""
    vifs = tuple(make_vif(n, n, fixed_ips=(f"10.{n}.0.2", f"10.{n}.0.3", f"fd00:{n}::2")) for n in range(1, 6))
    world = World(*(make_network(n) for n in range(1, 6)), make_instance(1, vifs=vifs))

    def leading(family: Family) -> list[str]:
        """Also below the root: ten addresses are more than one node holds."""
        chains = [name for name in world.chains("filter", family) if name == "local" or name.startswith("to-")]
        return [rule for name in chains for rule in world.chain(name, family=family) if rule.endswith("-inst-a0000001")]

    assert len(leading(4)) == 10
    assert len(leading(6)) == 5
    assert world.chain("FORWARD").count(DISCOVER) == 1
    assert world.chain("INPUT").count(DISCOVER) == 1


def test_the_basic_rules_are_novas_in_novas_order() -> None:
    """Scenario 29: INVALID, replies, DHCP, the provider's, the own network, groups, fallback."""
    world = World(make_network(1), make_provider_rule(1), make_group(1, make_rule(1)), make_instance(1, (1,)))
    assert world.chain("inst-a0000001") == [
        "-j nova-netagent-net-e0000001",
        "-j nova-netagent-provider",
        "-s 10.1.0.0/24 -j ACCEPT",
        "-j nova-netagent-sgi-b0000001",
        "-j nova-netagent-sg-fallback",
    ]
    assert world.chain("net-e0000001") == [
        "! -p udplite -m conntrack --ctstate INVALID -j DROP",
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-s 10.1.0.1/32 -p udp -m udp --sport 67 --dport 68 -j ACCEPT",
    ]
    assert world.chain("inst-a0000001", family=6) == [
        "-j nova-netagent-net-e0000001",
        "-j nova-netagent-provider",
        "-s fd00:1::/64 -j ACCEPT",
        "-s fe80::/10 -j ACCEPT",
        "-j nova-netagent-sg-fallback",
    ]
    assert world.chain("net-e0000001", family=6) == [
        "! -p udplite -m conntrack --ctstate INVALID -j DROP",
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-j nova-netagent-discovery",
    ]
    assert "-s fe80::/10 -p ipv6-icmp -m icmp6 --icmpv6-type 134 -j ACCEPT" in world.chain("discovery", family=6)


def rule_of(family: Family = 4, **fields: Any) -> list[str]:
    """How a group's rule reads."""
    ethertype = "IPv4" if family == 4 else "IPv6"
    group = make_group(1, make_rule(1, ethertype=ethertype, **fields))
    return World(make_network(1), group, make_instance(1, (1,))).chain("sgi-b0000001", family=family)


@pytest.mark.parametrize(
    ("family", "low", "high", "expected"),
    [
        (4, None, None, "-p icmp -j ACCEPT"),
        (4, 123, None, "-p icmp -m icmp --icmp-type 123 -j ACCEPT"),
        (4, 123, 45, "-p icmp -m icmp --icmp-type 123/45 -j ACCEPT"),
        (6, None, None, "-p ipv6-icmp -j ACCEPT"),
        (6, 123, None, "-p ipv6-icmp -m icmp6 --icmpv6-type 123 -j ACCEPT"),
        (6, 123, 45, "-p ipv6-icmp -m icmp6 --icmpv6-type 123/45 -j ACCEPT"),
    ],
)
def test_icmp_types_and_codes_count_in_both_families(
    family: Family, low: int | None, high: int | None, expected: str
) -> None:
    """Scenario 30: nova's IPv6 branch was never reached (Q11)."""
    assert rule_of(family, protocol="icmp", port_range_min=low, port_range_max=high) == [expected]


def test_ports_read_alone_and_as_a_range() -> None:
    """Scenario 31: a range is tcp's own match and not multiport."""
    assert rule_of(protocol="tcp", port_range_min=123, port_range_max=123) == ["-p tcp -m tcp --dport 123 -j ACCEPT"]
    assert rule_of(protocol="tcp", port_range_min=123, port_range_max=456) == [
        "-p tcp -m tcp --dport 123:456 -j ACCEPT"
    ]
    assert rule_of(protocol="sctp", port_range_min=5, port_range_max=9) == [
        "-p sctp -m multiport --dports 5:9 -j ACCEPT"
    ]
    assert rule_of(protocol="tcp") == ["-p tcp -j ACCEPT"]
    assert rule_of() == ["-j ACCEPT"]


def test_an_instance_without_groups_has_the_fallback_after_the_basic_rules() -> None:
    """Scenario 32."""
    world = World(make_network(1), make_instance(1), settings=APART)
    assert world.chain("inst-a0000001")[-2:] == ["-j nova-netagent-provider", "-j nova-netagent-sg-fallback"]


def test_a_groups_rules_end_to_end() -> None:
    """Scenario 33: a source group is a set, and not a rule for each member."""
    group = make_group(
        1,
        make_rule(1, protocol="icmp", remote_ip_prefix="192.168.11.0/24"),
        make_rule(2, protocol="icmp", remote_ip_prefix="192.168.11.0/24", port_range_min=8),
        make_rule(3, protocol="tcp", remote_ip_prefix="192.168.10.0/24", port_range_min=80, port_range_max=81),
        make_rule(4, protocol="tcp", remote_group_id=group_id(2), port_range_min=80, port_range_max=81),
        make_rule(5, remote_group_id=group_id(2)),
    )
    world = World(make_network(1), group, make_group(2), make_instance(7, (1,)), make_instance(8, (2,)))
    assert world.chain("sgi-b0000001") == [
        "-s 192.168.11.0/24 -p icmp -j ACCEPT",
        "-s 192.168.11.0/24 -p icmp -m icmp --icmp-type 8 -j ACCEPT",
        "-s 192.168.10.0/24 -p tcp -m tcp --dport 80:81 -j ACCEPT",
        "-p tcp -m tcp --dport 80:81 -m set --match-set nova-netagent-g4-b0000002 src -j ACCEPT",
        "-m set --match-set nova-netagent-g4-b0000002 src -j ACCEPT",
    ]
    assert world.sets["g4-b0000002"].members == {"10.1.0.9/32"}


def test_a_change_of_a_group_reaches_every_member_and_one_that_is_gone_harms_nobody(host: Host) -> None:
    """Scenario 34."""
    host.put(make_network(1), make_group(1, make_rule(1, protocol="tcp")), *(make_instance(n, (1,)) for n in (1, 2, 3)))
    host.delete(make_instance(2))
    host.backend.change(sorted(host.backend.chains)[0], "nova-netagent-inst-a0000003", ())
    host.put(make_group(1, make_rule(1, protocol="udp")))
    host.engine.resync()
    assert chain(host, "W-sgi-b0000001") == ["-p udp -j ACCEPT"]
    for number in (1, 3):
        assert "-j W-sgi-b0000001" in chain(host, f"W-inst-a000000{number}")
    assert "W-inst-a0000002" not in names(host)


def test_a_member_that_is_gone_is_no_source(host: Host) -> None:
    """Scenario 35."""
    group = make_group(1, make_rule(1, remote_group_id=group_id(2)))
    host.put(
        make_network(1), group, make_group(2), make_instance(1, (1,)), make_instance(2, (2,)), make_instance(3, (2,))
    )
    assert host.backend.sets["nova-netagent-g4-b0000002"].members == {"10.1.0.3/32", "10.1.0.4/32"}
    host.delete(make_instance(2))
    assert host.backend.sets["nova-netagent-g4-b0000002"].members == {"10.1.0.4/32"}


def test_the_filter_of_a_vif_is_there_before_its_way_in_and_goes_with_it(host: Host) -> None:
    """Scenario 36: nova-base is what W-senders and W-ports say of the vif."""
    host.links.add_link("tap1")
    instance = make_instance(1)
    host.put(make_network(1), instance)
    by_port = "-i br1 -m physdev --physdev-in tap1"
    with_mac = f"{by_port} -m mac --mac-source fa:16:3e:00:00:01"
    assert chain(host, "W-senders", "raw") == [f"-s 10.1.0.2/32 {with_mac} -g W-no-server", "-g W-ports"]
    assert chain(host, "W-ports", "raw") == [f"{with_mac} -g W-unspecified", "-j DROP"]
    assert host.links.links["tap1"].master == "br1"
    host.delete(instance)
    assert chain(host, "W-senders", "raw") == ["-g W-ports"]
    assert chain(host, "W-ports", "raw") == ["-j DROP"]
    assert host.links.links["tap1"].master is None


def test_a_vif_is_joined_after_its_rules_and_leaves_before_they_go(host: Host) -> None:
    """Scenario 36, the order: at no moment does an instance send unfiltered."""
    host.links.add_link("tap1")
    seen: list[tuple[str | None, bool]] = []

    def look(table: object) -> None:
        present = any("tap1" in rule for rule in chain(host, "W-senders", "raw") + chain(host, "W-ports", "raw"))
        seen.append((host.links.links["tap1"].master, present))

    host.put(make_network(1))
    host.backend.before_commit = look
    instance = make_instance(1)
    host.put(instance)
    host.delete(instance)
    assert seen
    assert all(master is None for master, _ in seen)
