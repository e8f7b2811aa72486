"""The desired state: what is claimed, and what is given out."""

from nova_netagent.events import Put, fold
from nova_netagent.model import DesiredState, Entry, Network, SecurityGroup, claims
from nova_netagent.testing import (
    instance_id,
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_vif,
    network_id,
    vif_id,
)


def test_what_an_instance_claims() -> None:
    """Its last word is the instance: two that claim one thing differ in it alone."""
    instance = make_instance(1, vifs=(make_vif(1), make_vif(2, 2, fixed_ips=())))
    one, net = instance_id(1), network_id(1)
    assert list(claims(instance)) == [
        ("vif", vif_id(1), one),
        ("device", "tap1", one),
        ("address", net, "10.1.0.2", one),
        ("address", net, "fd00:1::2", one),
        ("vif", vif_id(2), one),
        ("device", "tap2", one),
    ]


def test_what_a_network_claims() -> None:
    bridge = ("link", "br1")
    assert list(claims(make_network(1))) == [("range", "10.1.0.0/24"), ("range", "fd00:1::/64"), bridge]
    bare = {"cidr_v6": None, "gateway_v6": None}
    assert list(claims(make_network(1, **bare))) == [("range", "10.1.0.0/24"), bridge]
    vlan = make_network(1, cidr=None, gateway=None, bridge_interface="eth1", vlan=7, **bare)
    assert list(claims(vlan)) == [bridge, ("link", "eth1"), ("link", "vlan7")]


def test_what_a_floating_ip_claims() -> None:
    assert list(claims(make_floating_ip(1))) == []
    assert list(claims(make_floating_ip(1, interface="eth1"))) == [("link", "eth1")]


def test_the_others_claim_nothing() -> None:
    for item in (make_group(1), make_floating_ip(1), make_provider_rule(1)):
        assert list(claims(item)) == []


def test_a_state_is_exported_in_order_of_ids() -> None:
    state = DesiredState()
    for item in (make_network(2), make_instance(9), make_network(1), make_group(3), make_instance(1)):
        state = fold(state, Put(item), 0.0)
    exported = state.export()
    assert exported.networks == (make_network(1), make_network(2))
    assert exported.instances == (make_instance(1), make_instance(9))
    assert exported.security_groups == (make_group(3),)
    assert exported.floating_ips == ()
    assert exported.provider_rules == ()
    assert [key for key, _ in state.all_entries()] == [
        ("networks", network_id(2)),
        ("networks", network_id(1)),
        ("security_groups", make_group(3).id),
        ("instances", instance_id(9)),
        ("instances", instance_id(1)),
    ]


def test_looking_up() -> None:
    state = fold(DesiredState(), Put(make_network(1)), 0.0)
    assert state.get(Network, network_id(1)) == make_network(1)
    assert state.get(Network, network_id(2)) is None
    assert state.get(SecurityGroup, network_id(1)) is None
    assert list(state.of(Network)) == [make_network(1)]


def test_the_revision_that_is_reported() -> None:
    assert Entry(make_network(1, revision=7), 3, {}).reported_revision == 7
    assert Entry(make_network(1), 3, {}).reported_revision == 3


def test_how_many_objects_there_are() -> None:
    state = DesiredState()
    assert state.size() == 0
    for each in (make_network(1), make_group(1), make_group(2), make_floating_ip(1)):
        state = fold(state, Put(each), 0.0)
    assert state.size() == 4 == sum(1 for _ in state.all_entries())
