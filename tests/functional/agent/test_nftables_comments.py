"""What nft(8) says beside a rule is what the rule is there for now, however it came to be so."""

from collections.abc import Sequence
from typing import Any

from nova_netagent.model import Object, document
from nova_netagent.testing import make_group, make_instance, make_network, make_provider_rule, make_rule, network_id
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.nft import W, held, nft
from tests.lab import Lab, needs

pytestmark = needs("nftables", "br_netfilter", "bridge", "program:nft")

NFTABLES = {"firewall": {"backend": "nftables"}}


def test_rules_that_stay_under_other_ids_say_so(lab: Lab) -> None:
    """In a set and beside it, all of a group or a part."""
    cloud = Cloud(lab, NFTABLES)
    part = (*_rules(1)[:2], *_rules(11)[2:4], *_rules(21)[5:])
    for rules in (_rules(1), _rules(11), part):
        cloud.agent.state(_state(make_network(), make_instance(1, (1,)), make_group(1, *rules)))
        assert rules[-1].id in held(cloud.host)[f"table ip {W} chain {W}-sgi-b0000001"]
        _assert_said_as_if_new(cloud)


def test_a_network_that_follows_another_on_its_bridge_says_so(lab: Lab) -> None:
    cloud = Cloud(lab, NFTABLES)
    cloud.agent.state(_state(make_network(1)))
    cloud.agent.state(_state(make_network(1, id=network_id(2))))
    assert network_id(2) in held(cloud.host)[f"table ip {W} chain {W}-FORWARD"]
    _assert_said_as_if_new(cloud)


def test_of_equal_rules_the_one_that_stays_is_named(lab: Lab) -> None:
    cloud = Cloud(lab, NFTABLES)
    first, second = (make_provider_rule(number, remote_ip_prefix="203.0.113.0/24") for number in (1, 2))
    cloud.put(first, second)
    cloud.delete(first)
    assert [line.count(second.id) for line in _rules_of(cloud, f"{W}-provider")] == [1]
    cloud.put(first)
    assert all(each.id in line for each, line in zip((first, second), _rules_of(cloud, f"{W}-provider"), strict=True))


def test_a_rule_whose_reason_is_noted_elsewhere_says_it_all_the_same(lab: Lab) -> None:
    """In the instance's chain the rule itself says why, or the chain for all of its rules; it is written again."""
    cloud = Cloud(lab, NFTABLES)
    cloud.put(make_instance(1), make_instance(1, vifs=()))
    nft(cloud.host, f"flush chain ip {W} {W}-inst-a0000001")
    cloud.agent.resync()
    (line,) = _rules_of(cloud, f"{W}-inst-a0000001")
    assert "a0000001-0000-4000-8000-000000000001 fallback" in line


def test_who_adds_a_rule_leaves_the_counters_of_the_others(lab: Lab) -> None:
    cloud = Cloud(lab, NFTABLES)
    cloud.put(make_network(), make_instance(1, (1,)), make_group(1, *_rules(1)))
    chain = f"{W}-sgi-b0000001"
    rule = next(line for line in _listing(cloud, chain) if "icmp" in line)
    number = rule.rpartition("handle ")[2]
    cloud.put(make_group(1, *_rules(1), make_rule(9, protocol="udp", port_range_min=9, port_range_max=9)))
    assert f"handle {number}" in "\n".join(_listing(cloud, chain))


def _rules(first: int) -> list[Any]:
    """Three that are elements of a set, and three that are rules, by ids that begin with a number."""
    ports = [
        make_rule(first + at, protocol="tcp", port_range_min=port, port_range_max=port)
        for at, port in enumerate((22, 80, 443))
    ]
    icmp = make_rule(first + 3, protocol="icmp", port_range_min=8, port_range_max=0)
    gre = make_rule(first + 4, protocol="gre", remote_ip_prefix="192.0.2.0/24")
    return [*ports, icmp, gre, make_rule(first + 5, protocol="sctp")]


def _state(*objects: Object) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for each in objects:
        found.setdefault(each.KIND, []).append(document(each))
    return found


def _assert_said_as_if_new(cloud: Cloud) -> None:
    """All is said as it is where nothing stood before."""
    assert cloud.agent.resync()["repaired"] == []
    before = held(cloud.host)
    nft(cloud.host, f"delete table ip {W}", f"delete table ip6 {W}")
    cloud.agent.resync()
    assert held(cloud.host) == before


def _rules_of(cloud: Cloud, chain: str) -> list[str]:
    return [line for line in _listing(cloud, chain) if "counter" in line]


def _listing(cloud: Cloud, chain: str) -> Sequence[str]:
    return cloud.host.run(["nft", "-a", "list", "chain", "ip", W, chain]).stdout.splitlines()
