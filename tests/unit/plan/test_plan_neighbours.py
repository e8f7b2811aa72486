"""Who has come to an address."""

from nova_netagent.model import AllowedAddressPair, Object, values
from nova_netagent.plan.neighbours import Neighbours, changing, leavers, newcomers, past
from nova_netagent.testing import make_instance, make_network, make_vif
from tests.unit.compile.world import World

NETWORKS = (make_network(1), make_network(2))


def between(before: tuple[Object, ...], now: tuple[Object, ...], *, pairs: bool = False) -> Neighbours:
    first, second = (World(*NETWORKS, *objects).compiled.scope.resolved.ports for objects in (before, now))
    return newcomers(first, second, pairs=pairs)


def test_who_is_new_comes_to_each_of_his_addresses() -> None:
    mac = make_vif(1).address
    assert between((), (make_instance(1),)) == {("br1", "10.1.0.2"): mac, ("br1", "fd00:1::2"): mac}


def test_who_stays_comes_to_nothing() -> None:
    assert between((make_instance(1),), (make_instance(1, (5,)),)) == {}


def test_who_goes_comes_to_nothing() -> None:
    assert between((make_instance(1),), ()) == {}


def test_a_new_mac_at_the_old_addresses() -> None:
    other = "fa:16:3e:00:00:99"
    changed = make_instance(1, vifs=(make_vif(1, address=other, fixed_ips=("10.1.0.2",)),))
    assert between((make_instance(1),), (changed,)) == {("br1", "10.1.0.2"): other}


def test_a_vif_without_its_network_is_nowhere() -> None:
    assert between((), (make_instance(1, vifs=(make_vif(1, network=3, fixed_ips=()),)),)) == {}


def test_a_pair_is_asked_for_and_a_prefix_stands_for_all_its_addresses() -> None:
    other = "fa:16:3e:00:00:99"
    pairs = (
        AllowedAddressPair(ip_address="10.1.0.100"),
        AllowedAddressPair(ip_address="fd00:1::/124", mac_address=other),
    )
    vif = make_vif(1, allowed_address_pairs=pairs)
    more = (make_instance(1, vifs=(vif,)),)
    assert between((make_instance(1),), more) == {}
    claimed = {("br1", "10.1.0.100"): vif.address, ("br1", "fd00:1::/124"): other}
    assert between((make_instance(1),), more, pairs=True) == claimed


def test_each_who_had_a_pair_is_told_of() -> None:
    pair = (AllowedAddressPair(ip_address="10.1.0.96/28"),)
    one, other = make_vif(1, allowed_address_pairs=pair), make_vif(3, allowed_address_pairs=pair)
    both = (make_instance(1, vifs=(one,)), make_instance(3, vifs=(other,)))
    first, second = (
        World(*NETWORKS, *objects).compiled.scope.resolved.ports
        for objects in (both, (make_instance(1), make_instance(3)))
    )
    assert leavers(first, second) == {("br1", "10.1.0.96/28", each.address) for each in (one, other)}
    assert leavers(second, first) == set()


def test_what_a_vif_may_not_claim_any_more_is_past() -> None:
    vif = make_vif(1, allowed_address_pairs=(AllowedAddressPair(ip_address="10.1.0.96/28"),))
    free = make_vif(3, port_security_enabled=False)
    objects = (*NETWORKS, make_instance(1, vifs=(vif,)), make_instance(3, vifs=(free,)))
    known = {
        ("br1", "10.1.0.2"): vif.address,
        ("br1", "10.1.0.100"): vif.address,
        ("br1", values.link_local(vif.address)): vif.address,
        ("br1", "10.1.0.9"): vif.address,
        ("br2", "10.1.0.9"): vif.address,
        ("br1", "10.1.0.10"): free.address,
        ("br1", "10.1.0.11"): "02:00:00:00:00:77",
        ("br1", "fd00:1::9"): vif.address,
    }
    resolved = World(*objects).compiled.scope.resolved
    assert past(known, resolved.ports) == {("br1", "10.1.0.9", vif.address), ("br1", "fd00:1::9", vif.address)}


def test_whose_claims_are_others_is_told_by_device_whoever_had_it() -> None:
    def changes(before: tuple[Object, ...], now: tuple[Object, ...]) -> set[str]:
        first, second = (World(*NETWORKS, *objects).compiled.scope.resolved.ports for objects in (before, now))
        return changing(first, second)

    one, more = make_vif(1, fixed_ips=("10.1.0.2",)), make_vif(1, fixed_ips=("10.1.0.2", "10.1.0.9"))
    assert changes((), (make_instance(1),)) == {"tap1"}
    assert changes((make_instance(1),), (make_instance(1, (5,)),)) == set()
    assert changes((make_instance(1, vifs=(one,)),), (make_instance(1, vifs=(more,)),)) == {"tap1"}
    assert changes((make_instance(1, vifs=(one,)),), (make_instance(2, vifs=(more,)),)) == {"tap1"}
    assert changes((make_instance(1, vifs=(one,)),), (make_instance(2, vifs=(one,)),)) == set()
    other = make_vif(1, address="fa:16:3e:00:00:99", fixed_ips=("10.1.0.2",))
    assert changes((make_instance(1, vifs=(one,)),), (make_instance(1, vifs=(other,)),)) == {"tap1"}
    assert changes((make_instance(1),), ()) == set()
    free = make_vif(1, fixed_ips=("10.1.0.2",), port_security_enabled=False)
    assert changes((make_instance(1, vifs=(free,)),), (make_instance(1, vifs=(more,)),)) == set(), "it could anything"
    wider = make_vif(1, fixed_ips=("10.1.0.2", "10.1.0.9"), port_security_enabled=False)
    assert changes((make_instance(1, vifs=(free,)),), (make_instance(1, vifs=(wider,)),)) == set()
    assert changes((make_instance(1, vifs=(one,)),), (make_instance(1, vifs=(wider,)),)) == {"tap1"}
    assert changes((make_instance(1, vifs=(free,)),), (make_instance(2, vifs=(more,)),)) == {"tap1"}, "another could"
    elsewhere = make_vif(1, 2, port_security_enabled=False)
    assert changes((make_instance(1, vifs=(free,)),), (make_instance(1, vifs=(elsewhere,)),)) == {"tap1"}, "not there"
