"""A small host in full, to be read: ``one_host.rules`` is what its rules are.

After a change that is meant, write it anew with ``python -m tests.unit.compile.test_golden``.
"""

from pathlib import Path

from nova_netagent.backend.refusals import refusal
from nova_netagent.netfilter.packet import chains_of
from nova_netagent.netfilter.text import ruleset_text
from nova_netagent.testing import (
    group_id,
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
    make_vif,
)
from tests.unit.compile.world import World

GOLDEN = Path(__file__).with_name("one_host.rules")


def one_host() -> World:
    """A network with an uplink and one without a gateway, two groups, and three instances of each kind."""
    return World(
        make_network(1, bridge_interface="eth1", dns1="192.0.2.53"),
        make_network(2, gateway=None, cidr_v6=None, gateway_v6=None),
        make_provider_rule(1, protocol="tcp", port_range_min=25, port_range_max=25),
        make_group(
            1,
            make_rule(1, protocol="tcp", port_range_min=22, port_range_max=22),
            make_rule(2, protocol="icmp", port_range_min=8, port_range_max=0, remote_ip_prefix="192.0.2.0/24"),
            make_rule(3, ethertype="IPv6", remote_group_id=group_id(1)),
        ),
        make_group(
            2,
            make_rule(4, direction="egress", protocol="sctp", port_range_min=5, port_range_max=9),
            members=("10.9.0.5",),
        ),
        make_instance(1, (1,)),
        make_instance(2, (1, 2), vifs=(make_vif(2), make_vif(3, 2, fixed_ips=("10.2.0.4",)))),
        make_instance(4, vifs=(make_vif(4, port_security_enabled=False),)),
        make_floating_ip(1),
    )


def test_one_host() -> None:
    assert ruleset_text(one_host().compiled.ruleset) == GOLDEN.read_text()


def test_the_kernel_would_take_it() -> None:
    ruleset = one_host().compiled.ruleset
    for id_, table in ruleset.tables.items():
        assert (
            refusal(
                id_,
                {"INPUT": (), "FORWARD": (), "OUTPUT": (), "PREROUTING": (), "POSTROUTING": (), **chains_of(table)},
                ruleset.sets,
            )
            is None
        )


if __name__ == "__main__":
    GOLDEN.write_text(ruleset_text(one_host().compiled.ruleset))
