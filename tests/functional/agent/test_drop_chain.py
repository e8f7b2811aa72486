"""A chain of the operator's ends what is refused; until it is there, and when it is taken away, it is dropped."""

from nova_netagent.netfilter.rule import FAMILIES
from nova_netagent.testing import make_group, make_rule
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import eventually, metric
from tests.lab import Lab, Udp, arrives, needs, refused
from tests.lab.tables import iptables

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge", "nftables")

W = "nova-netagent"


def make_chains(cloud: Cloud) -> None:
    for family in FAMILIES:
        if cloud.backend == "nftables":
            table = f"{'ip' if family == 4 else 'ip6'} {W}"
            cloud.host.run(["nft", f"add chain {table} logdrop; add rule {table} logdrop counter drop"])
        else:
            for rule in ("-N logdrop", "-A logdrop -j DROP"):
                iptables(cloud.host, rule, family=family)


def take_all_away(cloud: Cloud) -> None:
    if cloud.backend == "nftables":
        cloud.host.run(["nft", "flush ruleset"])
        return
    for family in FAMILIES:
        for rule in ("-F", "-X"):
            iptables(cloud.host, rule, family=family)


def ends_in_the_chain(cloud: Cloud) -> bool:
    chains = [each for each in cloud.agent.get("chains") if each["table"] == "filter"]
    return {each["rules"][-1]["rule"] for each in chains if each["chain"] == f"{W}-sg-fallback"} == {"-j logdrop"}


def test_what_is_refused_is_dropped_until_the_chain_is_there(lab: Lab, backend: str) -> None:
    cloud = Cloud(lab, {"firewall": {"iptables_drop_action": "logdrop"}}, backend=backend)
    cloud.network(1)
    cloud.put(make_group(1, make_rule(1, protocol="udp", port_range_min=80, port_range_max=80)))
    guest = cloud.instance(1, (1,))
    cloud.host.links.wait_running("br1")

    def is_enforced() -> bool:
        report = cloud.agent.request("GET", "/v1/status")[1]
        assert report["enforcing"]
        assert cloud.agent.get("plan") == []
        assert arrives(cloud.outside, guest, Udp(80))
        assert refused(cloud.outside, guest, Udp(81))
        return [each for each in report["warnings"] if "logdrop" in each] == []

    assert not is_enforced(), "and the operator is told"
    make_chains(cloud)
    cloud.agent.resync()
    assert is_enforced()
    assert ends_in_the_chain(cloud)
    assert metric(cloud.agent, "drift_repairs_total") == 0, "nobody is blamed for it"
    take_all_away(cloud)
    if backend == "iptables":  # nobody tells
        cloud.agent.resync()
    eventually(lambda: cloud.agent.get("plan") == [], 5)
    assert not is_enforced()
    cloud.agent.restart()
    assert not is_enforced()
