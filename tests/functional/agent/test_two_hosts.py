"""Floating IP to floating IP across two hosts, and what becomes of open connections on either."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from nova_netagent.testing import make_floating_ip, make_group, make_network, make_rule
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.flows import talking
from tests.lab import Lab, Namespace, needs, tcp

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")

HERE, THERE = "198.51.100.1", "198.51.100.2"
ALL = make_group(1, make_rule(1))
FLOATING = (make_floating_ip(1, instance=1, network=1), make_floating_ip(2, instance=2, network=2))


@dataclass
class Pair:
    """Two hosts, each with an instance that has a floating IP."""

    hosts: tuple[Cloud, Cloud]
    machines: tuple[Namespace, Namespace]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[Pair]:
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        clouds, machines = [], []
        for number, floating in enumerate(FLOATING, 1):
            config = {"network": {"fixed_range": "10.0.0.0/8"}}
            cloud = Cloud(lab, config, lab.host(f"host{number}"), backend=backend)
            cloud.host.links.add_route("198.51.100.0/24", device="eth0")
            cloud.put(make_network(number), ALL, floating)
            machines.append(cloud.instance(number, (1,), number))
            clouds.append(cloud)
        for cloud in clouds:
            bridges = {str(link["master"]) for link in cloud.host.links.all().values() if link["master"]}
            cloud.host.links.wait_running(*bridges)
        yield Pair((clouds[0], clouds[1]), (machines[0], machines[1]))


def test_each_is_known_by_its_floating_ip(pair: Pair) -> None:
    for (caller, server), (own, called) in (
        (pair.machines, (HERE, THERE)),
        (pair.machines[::-1], (THERE, HERE)),
    ):
        answer = tcp(caller, called, 80, server=server)
        assert answer
        assert answer.seen_as is not None
        assert answer.seen_as[0] == own


@pytest.mark.parametrize("side", [0, 1], ids=["of the caller", "of the called"])
def test_a_floating_ip_is_removed(pair: Pair, side: int) -> None:
    """What ran by it dies, whoever speaks, and does not come back with it."""
    caller, server = pair.machines
    host, floating = pair.hosts[side], FLOATING[side]
    with talking(caller, server, 80, to=THERE) as talk, talking(host.host, pair.machines[side], 80) as beside:
        assert talk.lives()
        host.delete(floating)
        assert talk.is_cut()
        host.put(floating)
        assert not any(each.alive(0.3) for each in talk.connections)
        assert beside.lives()
        with talking(caller, server, 80, to=THERE) as new:
            assert new.lives()
