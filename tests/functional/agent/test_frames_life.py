"""The table of frames over its life: put right when somebody meddles, planned, taken away, and foreign ones let be."""

import re
from collections.abc import Iterator

import pytest

from nova_netagent.backend.nft import Netlink
from nova_netagent.testing import make_instance, make_network
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import cleanup, ctl, eventually, metric
from tests.functional.frames import test_drift
from tests.lab import Lab, Namespace, arp_request, arrives, needs, refused

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge", "nftables", "program:nft", "setgroups")

W = "nova-netagent"
QUIET = 'iifname "tap8" counter packets 3'
FOREIGN = test_drift.FOREIGN.replace('"tap1"', '"tap8"').replace("counter packets 3", QUIET)
"""Whatever these count is nobody's traffic here: each counter must stay what it is."""
MEDDLINGS = {
    "the table is deleted": f"delete table bridge {W}",
    "the table is emptied": f"flush table bridge {W}",
    "the table is put to sleep": f"table bridge {W} {{ flags dormant; }}",
    "a chain is flushed": f"flush chain bridge {W} from-vif",
    "a rule accepts all": f"insert rule bridge {W} prerouting accept",
    "a chain is added": f"add chain bridge {W} theirs",
    "a set is flushed": f"flush set bridge {W} secured",
    "a port is struck off": f'delete element bridge {W} ports {{ "tap1" }}',
    "a MAC is added": f'add element bridge {W} macs {{ "tap1" . fa:16:3e:00:00:02 }}',
    "a claim is added": f'add element bridge {W} arp-hosts {{ "tap1" . fa:16:3e:00:00:01 . 10.1.0.3 }}',
    "every port is secured": f"add element bridge {W} secured {{ * }}",
    "a port is closed": f'add element bridge {W} closed {{ "tap2" }}',
}


def listed(host: Namespace) -> str:
    """Our table, without what it counts."""
    text = host.run(["nft", "-s", "list", "ruleset", "bridge"]).stdout
    found = re.search(rf"^table bridge {W} \{{\n.*?^\}}\n", text, flags=re.M | re.S)
    return "" if found is None else _in_order(found[0])


def _in_order(text: str) -> str:
    """Whoever is put back stands elsewhere in the list: elements are compared as a set."""
    return re.sub(r"elements = \{([^}]*)\}", lambda match: str(sorted(re.findall(r"[^,\s][^,]*", match[1]))), text)


def foreign(host: Namespace) -> str:
    """Everything but our tables, byte for byte."""
    text = host.run(["nft", "list", "ruleset"]).stdout
    return re.sub(rf"^table (ip|ip6|bridge) {W} \{{\n.*?^\}}\n?", "", text, flags=re.M | re.S).strip()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[Cloud]:
    with Lab(tmp_path_factory.mktemp("frames")) as lab:
        yield furnished(Cloud(lab, backend=backend))


def furnished(cloud: Cloud) -> Cloud:
    """Two instances, and somebody else's tables."""
    cloud.host.run(["nft", "-f", "-"], stdin=FOREIGN)
    cloud.network(1)
    for number in (1, 2):
        cloud.instance(number)
    return cloud


@pytest.mark.parametrize("what", MEDDLINGS)
def test_a_resync_repairs_tells_and_counts(shared: Cloud, what: str) -> None:
    host, agent = shared.host, shared.agent
    agent.resync()
    before, counted, others = listed(host), metric(agent, "drift_repairs_total", what="frames"), foreign(host)
    host.run(["nft", MEDDLINGS[what]])
    assert listed(host) != before
    planned = agent.request("GET", "/v1/plan")[1]["plan"]
    assert planned
    assert all(line.startswith(f"bridge {W}: ") for line in planned)
    assert agent.resync()["repaired"] == planned
    assert listed(host) == before
    assert metric(agent, "drift_repairs_total", what="frames") == counted + 1
    assert agent.resync()["repaired"] == []
    assert foreign(host) == others


def test_after_everybodys_tables_are_flushed_ours_is_back(lab: Lab, backend: str) -> None:
    cloud = furnished(Cloud(lab, backend=backend))
    before = listed(cloud.host)
    cloud.host.run(["nft", "flush", "ruleset"])
    assert f"bridge {W}: + table" in ctl(cloud.agent, "plan")
    assert f"bridge {W}: + table" in ctl(cloud.agent, "resync")
    assert listed(cloud.host) == before
    assert ctl(cloud.agent, "plan") == "nothing to change\n"
    assert foreign(cloud.host) == ""


def test_by_itself_within_the_resync_interval(lab: Lab, backend: str) -> None:
    cloud = furnished(Cloud(lab, {"firewall": {"resync_interval": 1}}, backend=backend))
    before = listed(cloud.host)
    cloud.host.run(["nft", MEDDLINGS["the table is deleted"]])
    eventually(lambda: listed(cloud.host) == before, 3)
    repaired = "somebody had changed what is ours; repaired: bridge nova-netagent: + table"
    eventually(lambda: repaired in cloud.agent.log, 1)  # it is said when all of it is done


@pytest.mark.parametrize("what", ["the table is emptied", "a MAC is added"])
def test_by_itself_long_before_the_next_resync(lab: Lab, backend: str, what: str) -> None:
    """As every restart of a service that loads a ruleset of its own empties all others."""
    cloud = furnished(Cloud(lab, {"firewall": {"resync_interval": 3600}}, backend=backend))
    before = listed(cloud.host)
    cloud.host.run(["nft", MEDDLINGS[what]])
    assert listed(cloud.host) != before
    eventually(lambda: listed(cloud.host) == before, 4)


def test_the_next_change_repairs_what_it_meets(shared: Cloud) -> None:
    """Whoever changes anything of nf_tables is noticed by its generation: the table is read anew."""
    before = listed(shared.host)
    shared.host.run(["nft", MEDDLINGS["a claim is added"]])
    shared.put(make_instance(5))
    shared.delete(make_instance(5))
    assert listed(shared.host) == before


def test_a_plan_of_what_is_not_described_yet(shared: Cloud) -> None:
    before = listed(shared.host)
    shared.agent.stop()
    shared.host.run(["nft", MEDDLINGS["the table is deleted"]])
    shared.agent.start()
    assert listed(shared.host) == before
    assert ctl(shared.agent, "plan") == "nothing to change\n"


def test_a_restart_writes_nothing(shared: Cloud) -> None:
    shared.agent.resync()
    generation = genid(shared.host)
    shared.agent.restart()
    shared.agent.kill9()
    shared.agent.start()
    assert genid(shared.host) == generation


def genid(host: Namespace) -> int:
    """A number that every commit of nf_tables counts up, whoever makes it."""
    netlink: Netlink = host.call(Netlink)
    try:
        return netlink.generation()
    finally:
        netlink.close()


def test_cleanup_takes_ours_and_nothing_else(lab: Lab, backend: str) -> None:
    host = lab.host()
    host.run(["nft", "-f", "-"], stdin=FOREIGN)
    others = foreign(host)
    cloud = Cloud(lab, host=host, backend=backend)
    cloud.put(make_network(1), make_instance(1), make_instance(2))
    cloud.delete(make_instance(2))
    cloud.agent.kill9()
    assert f"bridge {W}: - table" in cleanup(cloud.agent)
    assert listed(cloud.host) == ""
    assert foreign(cloud.host) == others
    assert cleanup(cloud.agent) == "there was nothing of ours\n"


def test_a_network_that_goes_leaves_no_element(shared: Cloud) -> None:
    empty = Cloud(shared.lab, host=shared.lab.host(), backend=shared.backend)
    empty.host.run(["ip", "link", "add", "eth7", "type", "veth", "peer", "name", "eth8"])
    none = listed(empty.host)
    empty.put(make_network(1, bridge_interface="eth7", share_address=True), make_network(2, gateway="10.2.0.9"))
    empty.put(make_instance(1), make_instance(2, network=2))
    assert listed(empty.host) != none
    empty.agent.state({})
    assert listed(empty.host) == none
    assert "elements" not in none


def test_frames_are_judged_while_the_agent_is_down(shared: Cloud) -> None:
    vm1, vm2 = shared.lab.instances[:2]
    lie, truth = (arp_request(vm1, wanted=vm2.ip4, claimed=each) for each in (vm2.ip4, vm1.ip4))
    shared.agent.kill9()
    assert refused(vm1, vm2, lie, control=truth)
    shared.agent.start()
    assert refused(vm1, vm2, lie, control=truth)
    assert arrives(vm1, vm2, truth)
