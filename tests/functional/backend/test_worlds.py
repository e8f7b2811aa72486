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
