"""Several vifs, several addresses, names that resemble each other, more instances than a list bears."""

import pytest

from nova_netagent.model import Instance, SecurityGroup
from nova_netagent.testing import group_id, make_group, make_instance, make_network, make_rule, make_vif
from tests.functional.agent.site import ETHERTYPES, Site
from tests.lab import Forged, Icmp, Tcp, Udp, needs, tcp

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")


def tcp_port(number: int, port: int) -> SecurityGroup:
    """A group that lets in a TCP port of both families."""
    rules = [
        make_rule(n, ethertype=ethertype, protocol="tcp", port_range_min=port, port_range_max=port)
        for n, ethertype in enumerate(("IPv4", "IPv6"))
    ]
    return make_group(number, *rules)


def two_vifs(first: int | None, second: int | None) -> Instance:
    """An instance on networks 1 and 2, its vifs in these groups."""

    def groups(number: int | None) -> tuple[str, ...]:
        return () if number is None else (group_id(number),)

    vifs = (make_vif(1, security_groups=groups(first)), make_vif(3, 2, security_groups=groups(second)))
    return make_instance(1, vifs=vifs)


# --- several vifs


def test_each_vif_has_its_own_groups(site: Site, family: int) -> None:
    site.describe(tcp_port(1, 80), tcp_port(2, 81), two_vifs(1, 2), make_instance(2))
    for sender in (site.outside, site.vm2, site.host):
        assert site.passes(sender, site.vm1, Tcp(80, family=family))
        assert site.stops(sender, site.vm1, Tcp(81, family=family))
        assert site.passes(sender, site.vm3, Tcp(81, family=family))
        assert site.stops(sender, site.vm3, Tcp(80, family=family))


def test_a_vif_without_groups_beside_an_open_one(site: Site, family: int) -> None:
    for first, second, opened, closed in ((1, None, site.vm1, site.vm3), (None, 1, site.vm3, site.vm1)):
        site.describe(tcp_port(1, 80), two_vifs(first, second))
        assert site.passes(site.outside, opened, Tcp(80, family=family))
        assert site.stops(site.outside, closed, Tcp(80, family=family))


def test_vifs_without_groups_of_their_own_have_the_instances(site: Site, family: int) -> None:
    site.describe(tcp_port(1, 80), make_instance(1, (1,), vifs=(make_vif(1), make_vif(3, 2))))
    for receiver in (site.vm1, site.vm3):
        assert site.passes(site.outside, receiver, Tcp(80, family=family))
        assert site.stops(site.outside, receiver, Tcp(81, family=family))


def test_multicast_reaches_the_vif_whose_groups_allow_it(site: Site) -> None:
    mdns = make_group(1, make_rule(1, protocol="udp", port_range_min=5353, port_range_max=5353))
    both_here = (make_vif(1, security_groups=(group_id(1),)), make_vif(4, security_groups=()))
    fourth = site.machine(4)
    site.describe(mdns, make_instance(1, vifs=both_here), make_instance(2))
    assert site.passes(site.vm2, site.vm1, Udp(5353, to="224.0.0.251"))
    assert site.stops(site.vm2, fourth, Udp(5353, to="224.0.0.251"))


def test_one_vif_does_not_lend_its_address_to_the_other(site: Site, family: int) -> None:
    lie = "10.1.0.2" if family == 4 else "fd00:1::2"
    site.describe(two_vifs(None, None))
    assert site.stops(site.vm3, site.outside, Forged(Udp(53, family=family), source=lie))
    assert site.passes(site.vm1, site.outside, Forged(Udp(53, family=family)))


def test_a_vif_that_waits_for_its_network_does_not_close_the_other(site: Site, family: int) -> None:
    site.describe(make_network(1), tcp_port(1, 80), two_vifs(1, 1))
    assert site.passes(site.outside, site.vm1, Tcp(80, family=family))
    assert site.stops(site.outside, site.vm3, Tcp(80, family=family))
    site.put(make_network(2))
    assert site.passes(site.outside, site.vm3, Tcp(80, family=family))


def test_a_vif_that_goes_leaves_the_other(site: Site, family: int) -> None:
    site.describe(tcp_port(1, 80), two_vifs(1, 1))
    site.put(make_instance(1, (1,)))
    assert site.passes(site.outside, site.vm1, Tcp(80, family=family))
    assert site.stops(site.outside, site.vm3, Tcp(80, family=family))


def test_the_way_between_two_vifs_of_an_instance(site: Site, family: int) -> None:
    site.describe(tcp_port(1, 80), two_vifs(1, 1))
    assert site.passes(site.vm1, site.vm3, Tcp(80, family=family))
    assert site.stops(site.vm1, site.vm3, Tcp(81, family=family))


# --- several addresses


def test_each_fixed_ip_is_judged_and_may_be_used(site: Site, family: int) -> None:
    more = ("10.1.0.50", "10.1.0.51") if family == 4 else ("fd00:1::50", "fd00:1::51")
    own = make_vif(1).fixed_ips
    length = 24 if family == 4 else 64
    for address in more:
        site.vm1.links.add_address("eth0", f"{address}/{length}")
    try:
        vif = make_vif(1, fixed_ips=(*own, *more))
        site.describe(tcp_port(1, 80), make_instance(1, (1,), vifs=(vif,)), make_instance(2))
        for address in more:
            for sender in (site.outside, site.vm2, site.host):
                assert site.passes(sender, site.vm1, Tcp(80, to=address))
                assert site.stops(sender, site.vm1, Tcp(81, to=address))
            assert site.passes(site.vm1, site.outside, Forged(Udp(53, family=family), source=address))
        site.put(make_instance(1, (1,)))
        assert site.stops(site.vm2, site.vm1, Tcp(81, to=more[0]))
        assert site.stops(site.vm1, site.outside, Forged(Udp(53, family=family), source=more[0]))
    finally:
        for address in more:
            site.vm1.links.delete_address("eth0", f"{address}/{length}")


# --- names


def test_two_instances_whose_ids_begin_alike(site: Site, family: int) -> None:
    """Chains are named by the first eight digits: those of both must be kept apart."""
    first, second = ("a0000001-0000-4000-8000-000000000001", "a0000001-0000-4000-8000-000000000002")
    one, other = make_instance(1, (1,), id=first), make_instance(2, (2,), id=second)
    site.describe(tcp_port(1, 80), tcp_port(2, 81), one, other)
    for receiver, port, shut in ((site.vm1, 80, 81), (site.vm2, 81, 80)):
        assert site.passes(site.outside, receiver, Tcp(port, family=family))
        assert site.stops(site.outside, receiver, Tcp(shut, family=family))
    site.delete(other)
    assert site.passes(site.outside, site.vm1, Tcp(80, family=family))
    assert site.stops(site.outside, site.vm1, Tcp(81, family=family))
    live = site.agent.request("GET", "/v1/chains")[1]["chains"]
    assert (family, "nova-netagent-inst-a0000001") in {(each["family"], each["chain"]) for each in live}
    site.put(other)
    assert site.passes(site.outside, site.vm1, Tcp(80, family=family))
    assert site.passes(site.outside, site.vm2, Tcp(81, family=family))


def test_groups_and_vifs_whose_ids_begin_alike(site: Site, family: int) -> None:
    ids = ("b0000001-0000-4000-8000-000000000001", "b0000001-0000-4000-8000-000000000002")
    rules = [
        make_rule(
            n,
            ethertype=ETHERTYPES[family],
            protocol="tcp",
            port_range_min=port,
            port_range_max=port,
            direction=direction,
        )
        for n, (port, direction) in enumerate(((80, "ingress"), (81, "ingress"), (80, "egress"), (81, "egress")))
    ]
    groups = make_group(1, rules[0], rules[2], id=ids[0]), make_group(2, rules[1], rules[3], id=ids[1])
    vifs = [make_vif(n, id=f"f0000001-0000-4000-8000-00000000000{n}", security_groups=(ids[n - 1],)) for n in (1, 2)]
    site.describe(*groups, *(make_instance(n, vifs=(vifs[n - 1],)) for n in (1, 2)))
    for machine, port, shut in ((site.vm1, 80, 81), (site.vm2, 81, 80)):
        assert site.passes(site.outside, machine, Tcp(port, family=family))
        assert site.stops(site.outside, machine, Tcp(shut, family=family))
        assert site.passes(machine, site.outside, Tcp(port, family=family))
        assert site.stops(machine, site.outside, Tcp(shut, family=family))


def test_taps_of_which_one_is_named_like_the_beginning_of_others(site: Site, family: int) -> None:
    """tap1 beside tap10 to tap19: "tap1+" leads to all of them, and "tap1" is one of its own."""
    tenth = site.machine(10)
    crowd = [make_instance(n, (2,)) for n in range(10, 20)]
    site.describe(tcp_port(1, 80), tcp_port(2, 81), make_instance(1, (1,)), make_instance(2), *crowd)
    for receiver, port, shut in ((site.vm1, 80, 81), (tenth, 81, 80)):
        for sender in (site.vm2, site.outside):
            assert site.passes(sender, receiver, Tcp(port, family=family))
            assert site.stops(sender, receiver, Tcp(shut, family=family))
        lie = Forged(Udp(53, family=family), source="10.1.0.99" if family == 4 else "fd00:1::99")
        assert site.stops(receiver, site.outside, lie)
        assert site.passes(receiver, site.outside, Udp(53, family=family))


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_a_host_of_two_hundred(site: Site, direction: str, family: int) -> None:
    """Where dispatch is a tree of several levels, everybody still meets his own rules."""
    far = site.machine(150)
    rule = {"ethertype": ETHERTYPES[family], "protocol": "tcp", "direction": direction}
    groups = [
        make_group(n, make_rule(1, port_range_min=port, port_range_max=port, **rule)) for n, port in ((1, 80), (2, 81))
    ]
    others = [make_instance(n, (1 + n % 2,)) for n in range(1, 201)]
    site.describe(*groups, *others)
    for machine, open_port, shut in ((site.vm1, 81, 80), (site.vm2, 80, 81), (far, 80, 81)):
        for other in (site.outside, site.vm2) if machine is not site.vm2 else (site.outside,):
            if direction == "ingress":
                assert site.passes(other, machine, Tcp(open_port, family=family))
                assert site.stops(other, machine, Tcp(shut, family=family))
            elif other is site.outside:
                assert site.passes(machine, other, Tcp(open_port, family=family))
                assert site.stops(machine, other, Tcp(shut, family=family))
    assert site.passes(site.vm2, far, Icmp(kind=135, family=6))


# --- two networks


def test_networks_are_routed_to_each_other_by_the_rules_of_the_receiver(site: Site, family: int) -> None:
    site.describe(tcp_port(1, 80), make_instance(1, (1,)), make_instance(3, (), 2))
    assert site.passes(site.vm3, site.vm1, Tcp(80, family=family))
    assert tcp(site.vm3, site.vm1, 80, family=family)
    assert site.stops(site.vm3, site.vm1, Tcp(81, family=family))
    assert site.stops(site.vm1, site.vm3, Tcp(80, family=family))
