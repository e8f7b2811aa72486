"""A host that has no default route when the agent starts: whose address SNAT and the way to metadata have then."""

import pytest

from nova_netagent.testing import make_network
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import cleanup, eventually, ip_rules, kernel
from tests.functional.conftest import ON_BOTH
from tests.lab import Agent, Lab, Namespace, needs

pytestmark = [needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge", "program:ip"), ON_BOTH]

FIXED = {"network": {"fixed_range": "10.0.0.0/8"}}
FLAT = make_network(1, bridge_interface="eth0")


def without_route(host: Namespace) -> None:
    host.run(["ip", "route", "del", "default"])


def with_route(host: Namespace, source: str = "192.0.2.10") -> None:
    host.run(["ip", "addr", "replace", f"{source}/24", "dev", "eth0"])
    host.run(["ip", "route", "add", "default", "via", "192.0.2.1", "src", source])


def warned(agent: Agent) -> list[str]:
    warnings: list[str] = agent.request("GET", "/v1/status")[1]["warnings"]
    return [each for each in warnings if "my_ip" in each]


def test_a_bridge_that_was_deleted_with_the_default_route_keeps_no_agent_from_starting(lab: Lab, backend: str) -> None:
    cloud = Cloud(lab, FIXED, backend=backend)
    cloud.put(FLAT)
    before = kernel(cloud.host)
    cloud.agent.stop()
    cloud.host.links.delete("br1")
    cloud.agent.start()
    eventually(lambda: not warned(cloud.agent), 5)
    assert kernel(cloud.host) == before
    assert cloud.agent.resync()["repaired"] == []


def test_the_last_address_stands_in_and_is_told_until_a_route_tells_another(lab: Lab, backend: str) -> None:
    cloud = Cloud(lab, FIXED, backend=backend)
    cloud.put(make_network(1))
    before = kernel(cloud.host)
    cloud.agent.stop()
    without_route(cloud.host)
    cloud.agent.start()
    assert kernel(cloud.host) == before
    (warning,) = warned(cloud.agent)
    assert "no IPv4 default route to take it from: until it has, it is 192.0.2.10, as at the last start" in warning
    with_route(cloud.host, "192.0.2.77")
    eventually(lambda: not warned(cloud.agent), 5)
    assert "192.0.2.10" not in ip_rules(cloud.host)
    rules = ip_rules(cloud.host).replace("10.0.0.0-10.255.255.255", "10.0.0.0/8")
    assert "192.0.2.77:8775" in rules
    assert "--to-source 192.0.2.77" in rules or "snat to 192.0.2.77" in rules
    assert cloud.agent.resync()["repaired"] == []
    cloud.agent.stop()
    without_route(cloud.host)
    cloud.agent.start()
    assert "it is 192.0.2.77" in warned(cloud.agent)[0]


def test_what_is_given_is_not_what_a_route_tells(lab: Lab, backend: str) -> None:
    routed = {
        "metadata": {"metadata_host": "192.0.2.5"},
        "network": {"routing_source_ip": "192.0.2.10", **FIXED["network"]},
    }
    cloud = Cloud(lab, routed, backend=backend)
    cloud.put(make_network(1))
    cloud.agent.stop()
    without_route(cloud.host)
    cloud.agent.start()
    before = kernel(cloud.host)
    with_route(cloud.host, "192.0.2.77")
    eventually(lambda: not warned(cloud.agent), 5)
    assert {**kernel(cloud.host), "addresses": ()} == {**before, "addresses": ()}


def test_without_any_address_nothing_leads_to_metadata_until_there_is_a_route(lab: Lab, backend: str) -> None:
    host = lab.host()
    without_route(host)
    cloud = Cloud(lab, host=host, backend=backend)
    cloud.put(make_network(1))
    (warning,) = warned(cloud.agent)
    assert "no IPv4 default route" in warning, "one of IPv6 it has"
    assert "no metadata service" in warning
    assert "8775" not in ip_rules(host)
    with_route(host)
    eventually(lambda: not warned(cloud.agent), 5)
    assert "192.0.2.10:8775" in ip_rules(host)


@pytest.mark.parametrize("option", ["fixed_range = 10.0.0.0/8", "dns_server = $my_ip"])
def test_a_cleanup_needs_no_address(lab: Lab, backend: str, option: str) -> None:
    cloud = Cloud(lab, FIXED, backend=backend)
    empty = kernel(lab.host())
    cloud.put(make_network(1))
    cloud.agent.stop()
    (cloud.agent.state_path / "my_ip").unlink()
    without_route(cloud.host)
    section, name = f"[network]\n{option}\n", cloud.agent.config_file
    name.write_text(f"[DEFAULT]\nstate_path = {cloud.agent.state_path}\n[firewall]\nbackend = {backend}\n{section}")
    cleanup(cloud.agent)
    assert ip_rules(cloud.host) == ip_rules(lab.hosts[-1])
    assert kernel(cloud.host)["links"].keys() == empty["links"].keys()
