"""What each packet filter is seen to hold: whose rules, how many, and what is closed."""

from collections.abc import Iterator

import pytest

from nova_netagent.backend import worlds
from nova_netagent.backend.nft import Netlink
from nova_netagent.backend.worlds import World
from nova_netagent.netfilter.owner import Owner
from nova_netagent.netfilter.rule import ACCEPT, Rule, TableId
from tests.functional.backend import legacy, nft

OWNER = Owner(nft.OURS)
TABLES = """
*filter
:INPUT ACCEPT
:FORWARD DROP
:OUTPUT ACCEPT
:DOCKER -
:ours-FORWARD -
:ours-inst-a0000001 -
:EMPTY -
-A FORWARD -j ours-FORWARD
-A FORWARD -j DOCKER
-A FORWARD -p gre -j ACCEPT
-A DOCKER -p tcp -m comment --comment ERROR -j RETURN
-A DOCKER -j LOG
-A ours-FORWARD -j ours-inst-a0000001
-A ours-inst-a0000001 -j DROP
COMMIT
*nat
:PREROUTING ACCEPT
:INPUT ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
-A POSTROUTING -o eth0 -j MASQUERADE
COMMIT
"""


@pytest.fixture
def nothing(empty_tables: None) -> Iterator[None]:
    netlink = Netlink()
    nft.empty(netlink)
    yield
    nft.empty(netlink)
    netlink.close()


@pytest.mark.usefixtures("nothing")
def test_rules_of_others_are_counted_in_the_legacy_tables() -> None:
    legacy.restore(4, TABLES)
    assert worlds.look_at_iptables(OWNER) == World(True, 5, True, ("IPv4 filter FORWARD",))
    legacy.restore(4, "*filter\n:FORWARD ACCEPT\n-A FORWARD -j ACCEPT\nCOMMIT\n*nat\nCOMMIT\n")
    assert worlds.look_at_iptables(OWNER) == World(True, 1)


@pytest.mark.usefixtures("nothing")
def test_rules_of_others_are_counted_in_nf_tables() -> None:
    netlink = Netlink()
    nft.put(netlink, TableId(4, "filter"), "ours-a", [Rule(ACCEPT)] * 3)
    netlink.close()
    assert worlds.look_at_nftables(OWNER) == World(True, 0, True)
    assert worlds.look_at_nftables(Owner("mine")) == World(True, 3)
    legacy.run("nft", "add table inet theirs")
    try:
        legacy.run("nft", "add chain inet theirs in { type filter hook input priority 0; policy drop; }")
        legacy.run("nft", "add rule inet theirs in accept")
        assert worlds.look_at_nftables(OWNER) == World(True, 1, True, ("inet theirs in",))
    finally:
        legacy.run("nft", "delete table inet theirs")


@pytest.mark.usefixtures("nothing")
def test_a_closed_chain_that_others_hooked_into_our_table_is_told() -> None:
    netlink = Netlink()
    nft.put(netlink, TableId(4, "filter"), "FORWARD", [Rule(ACCEPT)])
    netlink.close()
    legacy.run("nft", "add chain ip ours theirs { type filter hook forward priority 0; policy drop; }")
    assert worlds.look_at_nftables(OWNER) == World(True, 0, True, ("ip ours theirs",))
    closed = worlds.ClosedInNftables(OWNER)
    assert closed() == closed() == ("ip ours theirs",)
    legacy.run("nft", "add chain ip ours theirs { policy accept; }")
    assert closed() == ()


@pytest.mark.usefixtures("nothing")
@pytest.mark.parametrize(
    "table",
    [
        "table bridge theirs { chain c { type filter hook forward priority 0; counter; counter; }; }",
        "table arp theirs { chain c { type filter hook input priority 0; counter; }; }",
        "table netdev theirs { chain c { type filter hook ingress device lo priority 0; counter; }; }",
        "table inet theirs { flags dormant; chain c { type filter hook input priority 0; policy drop; counter; }; }",
    ],
)
def test_what_judges_no_ip_or_sleeps_is_not_counted(table: str) -> None:
    family = table.split()[1]
    legacy.run("nft", table)
    try:
        assert worlds.look_at_nftables(OWNER) == World(True)
        assert worlds.ClosedInNftables(OWNER)() == ()
    finally:
        legacy.run("nft", f"delete table {family} theirs")


@pytest.mark.usefixtures("nothing")
def test_what_is_ours_is_found_in_either() -> None:
    assert not worlds.ours_in_iptables(OWNER)
    assert not worlds.ours_in_nftables(OWNER)
    legacy.restore(4, TABLES)
    assert worlds.ours_in_iptables(OWNER)
    assert not worlds.ours_in_iptables(Owner("our"))
    netlink = Netlink()
    nft.put(netlink, TableId(6, "filter"), "ours-a", [Rule(ACCEPT)])
    netlink.close()
    assert worlds.ours_in_nftables(OWNER)
    assert not worlds.ours_in_nftables(Owner("our"))
