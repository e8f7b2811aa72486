"""``netagentctl cleanup``: everything of ours goes, and nothing else."""

import shutil
from typing import Any

import pytest

from nova_netagent.testing import make_group, make_instance, make_network, make_rule
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.foreign import DOCKER_4
from tests.functional.agent.kernel import addresses, cleanup, eventually, kernel, lock_held
from tests.functional.agent.nft import W, nft
from tests.functional.agent.test_foreign_rules import BESIDE, restore, saved, use
from tests.functional.conftest import ON_BOTH, ON_IPTABLES
from tests.lab import Agent, Lab, Namespace, needs

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter")

SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/default/forwarding",
    "net/ipv6/conf/eth0/forwarding",
    "net/ipv6/conf/eth0/accept_ra",
    "net/ipv6/conf/default/accept_ra",
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/bridge/bridge-nf-call-arptables",
)
SETS = """\
create nova-netagent-g4-zzzzzzzz hash:ip
create nova-netagent-g4-00000001x hash:net
create nova-netagent-g4-00000002 hash:ip
create nova-netagent2-g4-00000001 hash:net
create operators hash:net
add operators 203.0.113.0/24
"""
"""Not one of them is ours: the third is of another type."""


def settings_of(host: Namespace) -> dict[str, str]:
    return {name: host.sysctl(name) for name in SYSCTLS}


def without_taps(host: Namespace) -> dict[str, Any]:
    """The host's kernel, after its machines are switched off."""
    for name in host.links.all():
        if name.startswith("tap"):
            host.links.delete(name)
    return kernel(host)


@ON_BOTH
@pytest.mark.parametrize("wrap_name", ["nova-netagent", "nova"])
def test_nothing_of_ours_is_left(lab: Lab, backend: str, wrap_name: str) -> None:
    host = lab.host()
    host.sysctl("net/bridge/bridge-nf-call-iptables", 0)
    before, found = kernel(host), settings_of(host)
    cloud = Cloud(lab, {"firewall": {"wrap_name": wrap_name}}, host=host, backend=backend)
    use(cloud)
    assert len({name for name in SYSCTLS if host.sysctl(name) != found[name]}) >= 4
    cloud.agent.stop()
    cleanup(cloud.agent)
    assert without_taps(host) == before
    assert settings_of(host) == found


@ON_BOTH
def test_after_a_crash_nothing_is_left_either(cloud: Cloud) -> None:
    use(cloud)
    cloud.agent.kill9()
    cleanup(cloud.agent)
    left = str(without_taps(cloud.host))
    assert "nova" not in left
    assert "br1" not in left
    assert "169.254.169.254" not in left
    assert "198.51.100" not in left


@ON_BOTH
def test_what_is_others_is_not_gone(lab: Lab, backend: str) -> None:
    host = lab.host()
    restore(host, DOCKER_4, world=BESIDE[backend])
    nft(host, "add table inet theirs", f"add table ip {W}-2", f"add chain ip {W}-2 {W}-inst-a0000001")
    host.run(["ipset", "restore"], stdin=SETS)
    links = host.links
    for bridge in ("br1", "br0"):
        links.add_bridge(bridge)
        links.add_address(bridge, f"172.{16 + len(bridge)}.0.{bridge[-1]}/32")
    links.add_address("eth0", "198.51.100.77/32")
    links.add_address("lo", "203.0.113.7/32")
    for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        host.sysctl(name, 1)
    host.sysctl("net/ipv6/conf/eth0/accept_ra", 2)
    before, found = kernel(host), settings_of(host)
    cloud = Cloud(lab, host=host, backend=backend)
    use(cloud)
    lab.instance(host, "theirs", tap="theirs", bridge="br0", addresses=(), gateways=())
    cloud.agent.stop()
    cleanup(cloud.agent)
    assert links.all()["theirs"]["master"] == "br0"
    links.delete("theirs")
    assert without_taps(host) == before
    assert settings_of(host) == found


@ON_BOTH
def test_what_nobody_described_and_is_of_our_grammar_goes(cloud: Cloud) -> None:
    """The state does not know it: left by an agent whose state is lost."""
    cloud.network(1)
    cloud.put(make_group(1, make_rule(1, remote_group_id=make_group(1).id)), make_instance(1, (1,)))
    cloud.agent.kill9()
    shutil.rmtree(cloud.agent.state_path)
    cloud.agent.state_path.mkdir()
    cleanup(cloud.agent)
    assert "nova" not in str(kernel(cloud.host)["nf_tables"])
    assert saved(cloud.host) == {}
    assert cloud.agent.ipsets() == {}


@ON_BOTH
def test_the_described_objects_stay_on_disk(cloud: Cloud) -> None:
    use(cloud)
    before = kernel(cloud.host)
    cloud.agent.stop()
    cleanup(cloud.agent)
    cloud.agent.start()
    assert kernel(cloud.host) == before


@ON_BOTH
def test_beside_a_running_agent_everything_is_put_back(cloud: Cloud) -> None:
    use(cloud)
    before = kernel(cloud.host)
    cleanup(cloud.agent)
    assert cloud.agent.resync()["repaired"]
    assert kernel(cloud.host) == before
    cloud.agent.stop()
    cleanup(cloud.agent)
    assert "br1" not in str(without_taps(cloud.host))


@ON_BOTH
def test_what_a_running_agent_put_back_goes_when_it_is_stopped_before_it_read_everything_back(cloud: Cloud) -> None:
    use(cloud)
    cleanup(cloud.agent)
    eventually(lambda: "br1" in cloud.host.links.all(), 1)
    cloud.agent.stop()
    cleanup(cloud.agent)
    assert "br1" not in str(without_taps(cloud.host))


@ON_BOTH
def test_a_second_time_there_is_nothing(cloud: Cloud) -> None:
    use(cloud)
    cloud.agent.stop()
    assert "nova-netagent-local" in cleanup(cloud.agent)
    assert cleanup(cloud.agent) == "there was nothing of ours\n"


def test_a_host_that_never_had_an_agent_is_not_touched(lab: Lab) -> None:
    agent = Agent(lab.host(), lab._directory / "never")  # type: ignore[operator]
    before = kernel(agent.namespace)
    assert cleanup(agent) == "there was nothing of ours\n"
    assert kernel(agent.namespace) == before
    for names in ("ip_tables_names", "ip6_tables_names"):
        assert agent.namespace.run(["cat", f"/proc/net/{names}"]).stdout == "", "no table was loaded to look into it"


@ON_IPTABLES
def test_while_the_lock_is_held_it_says_so_and_fails(lab: Lab) -> None:
    cloud = Cloud(lab, {"firewall": {"lock_timeout": 0.2}})
    cloud.agent.stop()
    with lock_held(), pytest.raises(AssertionError, match=r"xtables\.lock"):
        cleanup(cloud.agent)
    cleanup(cloud.agent)
    assert saved(cloud.host) == {}


def test_addresses_and_bridge_go_with_their_network(cloud: Cloud) -> None:
    before = addresses(cloud.host)
    cloud.network(1)
    assert addresses(cloud.host) - before == {("br1", "10.1.0.1/24"), ("br1", "fd00:1::1/64")}
    cloud.delete(make_network(1))
    assert addresses(cloud.host) == before
    assert not cloud.host.links.exists("br1")
