"""Forwarding, router advertisements and bridged frames: switched on where needed, and nothing else lost."""

import time

from nova_netagent.testing import make_group, make_instance, make_network, make_provider_rule
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import eventually
from tests.functional.conftest import ON_BOTH
from tests.functional.links.held import ROUTER, advertise
from tests.lab import Lab, Namespace, needs, veth
from tests.lab.links import Links

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge", "ipv6")


def forwarding(host: Namespace) -> tuple[str, str]:
    return host.sysctl("net.ipv4.ip_forward"), host.sysctl("net.ipv6.conf.all.forwarding")


def test_forwarding_is_on_for_the_families_that_are_routed(cloud: Cloud) -> None:
    cloud.put(make_provider_rule(1), make_group(1), make_instance(1))
    assert forwarding(cloud.host) == ("0", "0")
    cloud.put(make_network(3, gateway=None, gateway_v6=None))
    assert forwarding(cloud.host) == ("0", "0")
    cloud.put(make_network(1, cidr_v6=None, gateway_v6=None))
    assert forwarding(cloud.host) == ("1", "0")
    cloud.put(make_network(2))
    assert forwarding(cloud.host) == ("1", "1")


def test_without_ipv6_nothing_of_it_is_switched(lab: Lab) -> None:
    cloud = Cloud(lab, {"DEFAULT": {"use_ipv6": False}})
    cloud.put(make_network(1))
    assert forwarding(cloud.host) == ("1", "0")
    assert cloud.host.sysctl("net.ipv6.conf.eth0.accept_ra") == "1"


def test_bridged_frames_are_filtered(lab: Lab, backend: str) -> None:
    host = lab.host()
    names = [f"net.bridge.bridge-nf-call-{name}" for name in ("iptables", "ip6tables")]
    for name in names:
        host.sysctl(name, 0)
    cloud = Cloud(lab, host=host, backend=backend)
    assert [host.sysctl(name) for name in names] == ["0", "0"], "not before there is a bridge of ours"
    cloud.put(make_network(1))
    assert [host.sysctl(name) for name in names] == ["1", "1"]


# --- router advertisements


def learned(links: Links) -> bool:
    """Whether there is a default route by the router."""
    return any(route["via"] == ROUTER and route["destination"] == "default" for route in links.routes(6))


@ON_BOTH
def test_a_host_that_listens_to_routers_keeps_its_default_route_and_goes_on_listening(cloud: Cloud) -> None:
    """With forwarding on, Linux forgets what it learned and learns no more (ip-sysctl, accept_ra)."""
    host, router = cloud.host, cloud.outside
    host.links.delete_route("default6", via=router.ip6)
    advertise(router)
    eventually(lambda: learned(host.links), 1)
    cloud.put(make_network(1))
    assert forwarding(host)[1] == "1"
    assert learned(host.links)
    host.run(["ip", "-6", "route", "del", "default", "via", ROUTER, "dev", "eth0"])
    advertise(router)
    eventually(lambda: learned(host.links), 1)


def test_what_others_decided_about_advertisements_stays(cloud: Cloud, lab: Lab) -> None:
    for device, value in (("eth1", 0), ("eth2", 2)):
        lab.plug(cloud.host, device)
        cloud.host.sysctl(f"net.ipv6.conf.{device}.accept_ra", value)
    cloud.put(make_network(1))
    assert [cloud.host.sysctl(f"net.ipv6.conf.eth{n}.accept_ra") for n in (0, 1, 2)] == ["2", "0", "2"]
    assert cloud.host.sysctl("net.ipv6.conf.br1.accept_ra") == "0", "no instance gives the host a route"


def test_a_link_that_comes_later_is_not_made_to_listen(cloud: Cloud) -> None:
    """It never did on a host that forwards; a tap's guest is the last to be listened to."""
    cloud.network(1)
    veth(cloud.outside, "vm1", cloud.host, "tap1")
    cloud.put(make_provider_rule(1))
    cloud.agent.resync()
    assert cloud.host.sysctl("net.ipv6.conf.tap1.accept_ra") != "2"
    cloud.put(make_instance(1))
    assert cloud.host.sysctl("net.ipv6.conf.tap1.accept_ra") != "2"


@ON_BOTH
def test_a_setting_that_somebody_resets_is_set_again(cloud: Cloud) -> None:
    cloud.network(1)
    cloud.host.sysctl("net.ipv6.conf.eth0.accept_ra", 1)
    cloud.agent.resync()
    assert cloud.host.sysctl("net.ipv6.conf.eth0.accept_ra") == "2"


# --- a host with many links


def test_links_of_others_cost_next_to_nothing(cloud: Cloud) -> None:
    """Printed, not judged: how long a PUT takes beside 500 links that are none of ours."""
    cloud.network(1)
    for number in (1, 2, 3):
        cloud.guest(number)

    def milliseconds() -> float:
        taken = []
        for _ in range(10):
            for number in (1, 2, 3):
                began = time.monotonic()
                cloud.put(make_instance(number))
                taken.append(time.monotonic() - began)
                cloud.delete(make_instance(number))
        return sorted(taken)[len(taken) // 2] * 1000

    alone = milliseconds()
    commands = "".join(f"link add x{number} type bridge\n" for number in range(500))
    cloud.host.run(["ip", "-batch", "-"], stdin=commands, timeout=60)
    began = time.monotonic()
    cloud.agent.request("GET", "/v1/plan")
    print(f"a PUT takes {alone:.1f} ms alone, {milliseconds():.1f} ms beside 500 links")
    print(f"500 links were taken in {time.monotonic() - began:.2f} s after the last of them came")
