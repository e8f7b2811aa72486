"""Rules that name a group: its members' fixed IPs, here and elsewhere, as they come and go."""

import pytest

from nova_netagent.model import SecurityGroup
from nova_netagent.testing import group_id, make_group, make_instance, make_network, make_rule, make_vif
from tests.functional.agent.site import ETHERTYPES, NETWORKS, Site
from tests.lab import Tcp, ipsets, needs

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")

ELSEWHERE = {4: "192.0.2.77", 6: "2001:db8:2::77"}


def lets_in(number: int, remote: int, family: int) -> SecurityGroup:
    """A group whose members hear the members of another."""
    return make_group(
        number, make_rule(1, ethertype=ETHERTYPES[family], protocol="tcp", remote_group_id=group_id(remote))
    )


def test_members_on_this_host(site: Site, family: int) -> None:
    site.describe(
        lets_in(1, 2, family), make_group(2), make_instance(1, (1,)), make_instance(2, (2,)), make_instance(3, (2,), 2)
    )
    for member in (site.vm2, site.vm3):
        assert site.passes(member, site.vm1, Tcp(80, family=family))
        assert site.stops(member, site.vm1, Tcp(80, family=10 - family))
    for stranger in (site.outside, site.elsewhere, site.host):
        assert site.stops(stranger, site.vm1, Tcp(80, family=family))
    assert site.stops(site.vm1, site.vm2, Tcp(80, family=family))


@pytest.mark.parametrize(
    ("member", "outside", "inside"),
    [
        ("192.0.2.77", False, False),
        ("192.0.2.0/24", True, False),
        ("0.0.0.0/0", True, True),
        ("2001:db8:2::77", False, False),
        ("2001:db8:2::/64", True, False),
        ("::/0", True, True),
    ],
)
def test_members_on_other_hosts(site: Site, member: str, outside: bool, inside: bool) -> None:
    family = 6 if ":" in member else 4
    site.describe(lets_in(1, 2, family), make_group(2, members=(member,)), make_instance(1, (1,)), make_instance(2))
    assert site.passes(site.elsewhere, site.vm1, Tcp(80, family=family))
    for sender, allowed in ((site.outside, outside), (site.vm2, inside)):
        judged = site.passes if allowed else site.stops
        assert judged(sender, site.vm1, Tcp(80, family=family))


def test_a_group_that_names_itself_waits_for_nothing(site: Site, family: int) -> None:
    itself = lets_in(1, 1, family)
    site.describe(itself, make_instance(1, (1,)), make_instance(2, (1,)), make_instance(3, (), 2))
    assert site.status(itself)["state"] == "done"
    assert site.passes(site.vm2, site.vm1, Tcp(80, family=family))
    assert site.passes(site.vm1, site.vm2, Tcp(80, family=family))
    assert site.stops(site.vm3, site.vm1, Tcp(80, family=family))


def test_a_rule_is_completed_by_the_group_it_waits_for(site: Site, family: int) -> None:
    waiting = lets_in(1, 2, family)
    site.describe(waiting, make_instance(1, (1,)), make_instance(2, (2,)))
    assert site.status(waiting)["state"] == "pending"
    assert site.stops(site.vm2, site.vm1, Tcp(80, family=family))
    site.put(make_group(2))
    assert site.status(waiting)["state"] == "done"
    assert site.passes(site.vm2, site.vm1, Tcp(80, family=family))


def test_only_the_rule_that_waits_is_closed(site: Site, family: int) -> None:
    ethertype = ETHERTYPES[family]
    group = make_group(
        1,
        make_rule(1, ethertype=ethertype, protocol="tcp", remote_group_id=group_id(2)),
        make_rule(2, ethertype=ethertype, protocol="tcp", port_range_min=22, port_range_max=22),
    )
    site.describe(group, make_instance(1, (1,)))
    assert site.passes(site.outside, site.vm1, Tcp(22, family=family))
    assert site.stops(site.outside, site.vm1, Tcp(80, family=family))


def test_deleting_the_remote_group_closes_the_rule(site: Site, family: int) -> None:
    named, remote = lets_in(1, 2, family), make_group(2)
    site.describe(named, remote, make_instance(1, (1,)), make_instance(2, (2,)))
    assert site.passes(site.vm2, site.vm1, Tcp(80, family=family))
    site.delete(remote)
    assert site.status(named)["state"] == "pending"
    assert site.stops(site.vm2, site.vm1, Tcp(80, family=family))


def test_a_member_that_joins_and_leaves(site: Site, family: int) -> None:
    site.describe(lets_in(1, 2, family), make_group(2), make_instance(1, (1,)), make_instance(2))
    assert site.stops(site.vm2, site.vm1, Tcp(80, family=family))
    site.put(make_instance(2, (2,)))
    assert site.passes(site.vm2, site.vm1, Tcp(80, family=family))
    site.put(make_instance(2))
    assert site.stops(site.vm2, site.vm1, Tcp(80, family=family))


def test_a_member_that_is_deleted_is_no_member(site: Site, family: int) -> None:
    site.describe(lets_in(1, 2, family), make_group(2), make_instance(1, (1,)), make_instance(3, (2,), 2))
    assert site.passes(site.vm3, site.vm1, Tcp(80, family=family))
    site.delete(make_instance(3))
    assert not any("10.2.0.4" in members or "fd00:2::4" in members for members in ipsets(site.host).values())
    site.put(make_instance(3, (), 2))
    assert site.stops(site.vm3, site.vm1, Tcp(80, family=family))


def test_members_elsewhere_that_come_and_go(site: Site, family: int) -> None:
    site.describe(lets_in(1, 2, family), make_group(2), make_instance(1, (1,)))
    assert site.stops(site.elsewhere, site.vm1, Tcp(80, family=family))
    site.put(make_group(2, members=(ELSEWHERE[family],)))
    assert site.passes(site.elsewhere, site.vm1, Tcp(80, family=family))
    site.put(make_group(2))
    assert site.stops(site.elsewhere, site.vm1, Tcp(80, family=family))


def test_a_member_whose_network_is_not_there_is_no_member(site: Site, family: int) -> None:
    """Fail closed: what passes nothing has no address."""
    site.describe(lets_in(1, 2, family), make_group(2), NETWORKS[0], make_instance(1, (1,)), make_instance(3, (2,), 2))
    assert not any("10.2.0.4" in members or "fd00:2::4" in members for members in ipsets(site.host).values())
    site.put(make_network(2))
    assert site.passes(site.vm3, site.vm1, Tcp(80, family=family))


def test_the_group_of_one_vif_makes_no_member_of_the_other(site: Site, family: int) -> None:
    both = make_instance(2, vifs=(make_vif(2, security_groups=(group_id(2),)), make_vif(3, 2, security_groups=())))
    site.describe(lets_in(1, 2, family), make_group(2), make_instance(1, (1,)), both)
    assert site.passes(site.vm2, site.vm1, Tcp(80, family=family))
    assert site.stops(site.vm3, site.vm1, Tcp(80, family=family))


def test_a_port_of_a_remote_group(site: Site, family: int) -> None:
    rule = make_rule(
        1,
        ethertype=ETHERTYPES[family],
        protocol="tcp",
        port_range_min=80,
        port_range_max=80,
        remote_group_id=group_id(2),
    )
    site.describe(make_group(1, rule), make_group(2), make_instance(1, (1,)), make_instance(2, (2,)))
    assert site.passes(site.vm2, site.vm1, Tcp(80, family=family))
    assert site.stops(site.vm2, site.vm1, Tcp(81, family=family))
    assert site.stops(site.outside, site.vm1, Tcp(80, family=family))


def test_egress_to_a_remote_group(site: Site, family: int) -> None:
    ethertype = ETHERTYPES[family]
    group = make_group(1, make_rule(1, ethertype=ethertype, direction="egress", remote_group_id=group_id(2)))
    everybody = make_group(3, make_rule(2, ethertype=ethertype))
    site.describe(
        group,
        make_group(2, members=(ELSEWHERE[family],)),
        everybody,
        make_instance(1, (1,)),
        make_instance(2, (2, 3)),
        make_instance(3, (3,), 2),
    )
    assert site.passes(site.vm1, site.vm2, Tcp(80, family=family))
    assert site.passes(site.vm1, site.elsewhere, Tcp(80, family=family))
    assert site.stops(site.vm1, site.vm3, Tcp(80, family=family))
    assert site.stops(site.vm1, site.outside, Tcp(80, family=family))
