"""Our rules cannot be written for a while: who waits is told why, and nothing is open meanwhile.

With iptables another holds its lock; in nf_tables he owns our table. And what links there are may not be known.
"""

import resource
import signal
from typing import Any

import pytest
from msgspec.structs import replace

from nova_netagent.model import AllowedAddressPair, document
from nova_netagent.testing import make_floating_ip, make_group, make_instance, make_provider_rule, make_rule, make_vif
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import LOCK, eventually, hindered, kernel, metric
from tests.functional.conftest import ON_ONE
from tests.lab import Flood, Lab, Udp, arrives, needs, refused

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter")

SOON = 2.0
WHY = {
    "iptables": (LOCK, "0.3 s", "pid"),
    "nftables": ("another program owns the table", "Operation not permitted", "port"),
}


@pytest.fixture
def impatient(lab: Lab, backend: str) -> Cloud:
    """It waits for the lock of iptables a moment."""
    return Cloud(lab, {"firewall": {"lock_timeout": 0.3}}, backend=backend)


def put(cloud: Cloud, each: Any) -> tuple[int, Any]:
    body: Any = document(each)
    return cloud.agent.request("PUT", f"/v1/{each.KIND.replace('_', '-')}/{each.id}", body)


def test_the_answer_names_it_and_the_change_is_kept(impatient: Cloud) -> None:
    cloud = impatient
    with hindered(cloud.host, cloud.backend) as release:
        code, answer = put(cloud, make_provider_rule(1))
        assert code == 503
        for word in WHY[cloud.backend]:
            assert word in answer["error"]["message"]
        assert cloud.status(make_provider_rule(1))["state"] == "pending"
        assert WHY[cloud.backend][0] in cloud.status(make_provider_rule(1))["message"]
        report = cloud.agent.request("GET", "/v1/status")[1]
        assert (report["enforcing"], WHY[cloud.backend][0] in report["failure"]) == (False, True)
        assert cloud.agent.request("GET", "/readyz")[0] == 200, "the stored state has been applied once"
        assert cloud.agent.request("GET", "/livez")[0] == 200
        eventually(lambda: metric(cloud.agent, "pending_oldest_seconds") > 0, SOON)
        release()
        eventually(lambda: cloud.status(make_provider_rule(1))["state"] == "done", SOON)
    assert "203.0.113.0/24" in str(kernel(cloud.host))
    eventually(lambda: metric(cloud.agent, "pending_oldest_seconds") == 0, SOON)
    assert cloud.agent.request("GET", "/v1/status")[1]["failure"] == ""


def test_what_is_deleted_meanwhile_passes_nothing(impatient: Cloud) -> None:
    """The port leaves its bridge though the rules cannot be changed."""
    cloud = impatient
    cloud.network(1)
    cloud.put(make_group(1, make_rule(1)))
    cloud.instance(1, (1,))
    with hindered(cloud.host, cloud.backend):
        code, _ = cloud.agent.request("DELETE", f"/v1/instances/{make_instance(1).id}")
        assert code == 503
        assert cloud.host.links.all()["tap1"]["master"] is None
        assert cloud.agent.get("instances") == []
    eventually(lambda: cloud.agent.request("GET", "/v1/status")[1]["enforcing"], SOON)
    assert "inst-a0000001" not in str(kernel(cloud.host))


@pytest.mark.parametrize(
    "change",
    [{"allowed_address_pairs": (AllowedAddressPair(ip_address="10.1.0.101"),)}, {"port_security_enabled": True}],
    ids=["another pair", "port security"],
)
def test_who_was_free_to_send_as_anybody_goes_on_meanwhile(impatient: Cloud, change: dict[str, Any]) -> None:
    """What it may claim is no more than before, whatever the rules will be."""
    cloud = impatient
    cloud.network(1)
    cloud.put(make_group(1, make_rule(1)))
    free = make_vif(1, port_security_enabled=False)
    guest = cloud.guest(1)
    cloud.put(make_instance(1, (1,), vifs=(free,)))
    assert arrives(cloud.outside, guest, Udp(9))
    with Flood(guest, cloud.outside) as there, Flood(cloud.outside, guest) as back:
        with hindered(cloud.host, cloud.backend):
            assert put(cloud, make_instance(1, (1,), vifs=(replace(free, **change),)))[0] == 503
            eventually(lambda: cloud.agent.log.count("next attempt in") > 1, SOON)
        eventually(lambda: cloud.agent.request("GET", "/v1/status")[1]["enforcing"], SOON)
    assert (there.lost, back.lost) == ([], [])


def test_who_gets_the_device_of_one_who_was_free_waits_for_his_rules(impatient: Cloud) -> None:
    cloud = impatient
    cloud.network(1)
    cloud.put(make_group(1, make_rule(1)), make_group(2))
    free = make_instance(1, (1,), vifs=(make_vif(1, port_security_enabled=False),))
    guest = cloud.guest(1)
    cloud.put(free)
    assert arrives(cloud.outside, guest, Udp(9))
    heir = make_vif(2, devname="tap1", address=make_vif(1).address, fixed_ips=("10.1.0.2", "10.1.0.9"))
    state = cloud.agent.state()
    state["instances"] = [document(make_instance(2, (2,), vifs=(heir,)))]
    with hindered(cloud.host, cloud.backend):
        assert cloud.agent.request("PUT", "/v1/state", state)[0] == 503
        assert refused(cloud.outside, guest, Udp(9))
    eventually(lambda: cloud.agent.request("GET", "/v1/status")[1]["enforcing"], SOON)
    assert refused(cloud.outside, guest, Udp(9))


def test_a_new_instance_is_on_no_bridge_before_its_rules_are_in(impatient: Cloud) -> None:
    cloud = impatient
    cloud.network(1)
    cloud.guest(1)
    with hindered(cloud.host, cloud.backend):
        assert put(cloud, make_instance(1))[0] == 503
        assert cloud.host.links.all()["tap1"]["master"] is None
    eventually(lambda: cloud.host.links.all()["tap1"]["master"] == "br1", SOON)
    # The status is published a moment after the port was joined.
    eventually(lambda: cloud.status(make_instance(1))["state"] == "done", SOON)


def test_held_at_a_resync_it_says_so(impatient: Cloud) -> None:
    cloud = impatient
    with hindered(cloud.host, cloud.backend):
        code, answer = cloud.agent.request("POST", "/v1/resync")
        assert (code, WHY[cloud.backend][0] in answer["error"]["message"]) == (503, True)
        code, answer = cloud.agent.request("GET", "/v1/plan")
        if cloud.backend == "iptables":
            assert (code, LOCK in answer["error"]["message"]) == (503, True)
        else:  # which can be read all the same
            assert (code, len(answer["plan"]) > 20) == (200, True)
    eventually(lambda: cloud.agent.request("GET", "/v1/status")[1]["enforcing"], SOON)


@ON_ONE
def test_while_links_cannot_be_listed_it_says_so_and_lives_on(cloud: Cloud) -> None:
    """More changed than the kernel keeps for us, and no descriptor is left to ask anew."""
    cloud.network(1)
    cloud.instance(1)
    cloud.put(make_floating_ip(1, 1))
    agent = cloud.agent
    agent.signal(signal.SIGSTOP)
    changes = "".join(f"link set tap1 mtu {1400 + number % 2}\n" for number in range(15_000))
    cloud.host.run(["ip", "-batch", "-"], stdin=changes)
    cloud.host.links.set("tap1", master=None)
    limits = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    agent.signal(signal.SIGCONT)
    eventually(lambda: "the links cannot be read: Too many open files" in agent.log, SOON)
    resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, limits)
    eventually(lambda: cloud.host.links.all()["tap1"]["master"] == "br1", SOON)
    eventually(lambda: agent.request("GET", "/v1/status")[1]["failure"] == "", SOON)
