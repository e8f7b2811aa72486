"""What comes and goes takes nobody's packet along, and leaves nothing."""

import pytest

from nova_netagent.testing import make_group, make_instance, make_provider_rule, make_rule
from tests.functional.agent.kernel import eventually, kernel
from tests.functional.agent.nft import W
from tests.functional.agent.test_life_restart import Town
from tests.lab import Lab, needs

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")


@pytest.fixture
def town(lab: Lab, backend: str) -> Town:
    return Town(lab, firewall={"backend": backend})


def test_a_change_while_packets_pass_loses_none_and_goes_back_to_what_was(town: Town) -> None:
    before = kernel(town.host)
    with town.traffic():
        town.put(make_provider_rule(1), make_provider_rule(2, remote_ip_prefix="203.0.113.7"))
        town.put(make_group(5, make_rule(50, protocol="tcp")), make_instance(5, (5,)), make_instance(6, (1,)))
        for instance in (5, 6):
            town.delete(make_instance(instance, ()))
        town.delete(make_provider_rule(1), make_provider_rule(2), make_group(5))
    eventually(lambda: kernel(town.host) == before, 5)


def test_several_dozen_instances_come_and_go(town: Town) -> None:
    """More than a node of the tree holds, which nf_tables has no need of."""
    before = kernel(town.host)
    for number in range(10, 50):
        town.put(make_instance(number, (1,)))
    if town.backend == "nftables":
        text = town.host.run(["nft", "list", "map", "ip", W, f"{W}-local-hosts"]).stdout
        assert text.count("jump") == 42
        assert "to-" not in town.host.run(["nft", "list", "chain", "ip", W, f"{W}-local"]).stdout
    assert town.agent.resync()["repaired"] == []
    written, full = town.written, kernel(town.host)
    town.agent.restart()
    assert (town.written, kernel(town.host)) == (written, full)
    for number in range(10, 50):
        town.delete(make_instance(number, ()))
    eventually(lambda: kernel(town.host) == before, 5)
