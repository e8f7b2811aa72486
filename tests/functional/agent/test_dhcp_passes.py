"""DHCP passes each packet filter, whatever the groups say."""

from collections.abc import Iterator

import pytest

from nova_netagent.testing import make_instance, make_network
from tests.functional.agent.kernel import closed_input
from tests.functional.agent.served import Served, serving
from tests.lab import Tcp, arrives, needs, refused

pytestmark = needs(
    "iptables", "ip6tables", "ipset", "br_netfilter", "bridge", "nftables",
    "program:dnsmasq", "setgroups", "program:dhclient", "program:busybox",
)  # fmt: skip


@pytest.fixture
def served(backend: str) -> Iterator[Served]:
    with serving(backend=backend) as made:
        made.put(make_network(1), make_instance(1))
        yield made


def test_groups_do_not_stand_in_the_way(served: Served) -> None:
    """It is in no group at all, and a server is no way into it."""
    machine = served.client(1)
    answer = served.ask(machine)
    assert answer is not None
    assert answer["ip"] == "10.1.0.2"
    assert served.ask6(machine) == "fd00:1::2"
    machine.links.add_address("eth0", "10.1.0.2/24")
    assert refused(served.host, machine, Tcp(22, to="10.1.0.2"))
    assert arrives(machine, served.host, Tcp(53, to="10.1.0.1"))


def test_policies_do_not_stand_in_the_way(served: Served) -> None:
    """An operator lets nothing in."""
    machine = served.client(1)
    with closed_input(served.host, served.backend):
        assert served.ask(machine)
        assert served.ask6(machine) == "fd00:1::2"
