"""tcp, udp, ping, connections and floods: yes when packets pass, no when a rule drops them."""

import time

import pytest

from tests.functional.lab.conftest import Bridged
from tests.lab import Flood, arrives, connect, iptables, needs, ping, refused, tcp, udp

pytestmark = needs("iptables", "ip6tables", "br_netfilter", "bridge")


def test_tcp_answers_routed_and_bridged(bridged: Bridged, family: int) -> None:
    assert tcp(bridged.outside, bridged.vm1, 80, family=family)
    assert tcp(bridged.vm2, bridged.vm1, 80, family=family)
    assert tcp(bridged.vm1, bridged.host, 8080, family=family)


def test_tcp_says_no_to_a_drop_and_yes_again_after_it(bridged: Bridged, family: int) -> None:
    with bridged.dropping("FORWARD -p tcp --dport 80"):
        answer = tcp(bridged.outside, bridged.vm1, 80, family=family, timeout=0.1)
        assert not answer
        assert answer.reason == "timed out"
        assert tcp(bridged.outside, bridged.vm1, 81, family=family)
    assert tcp(bridged.outside, bridged.vm1, 80, family=family)


def test_tcp_says_at_once_when_it_is_rejected(bridged: Bridged) -> None:
    iptables(bridged.host, "-A FORWARD -p tcp --dport 80 -j REJECT --reject-with tcp-reset")
    assert tcp(bridged.outside, bridged.vm1, 80).reason == "Connection refused"


def test_the_reply_counts_too(bridged: Bridged, family: int) -> None:
    with bridged.dropping("FORWARD -p tcp --sport 80"):
        assert not tcp(bridged.outside, bridged.vm1, 80, family=family, timeout=0.1)


def test_tcp_uses_the_source_port_it_is_told(bridged: Bridged) -> None:
    for _ in range(3):
        answer = tcp(bridged.outside, bridged.vm1, 80, source_port=7777)
        assert answer.seen_as == (bridged.outside.ip4, 7777)


def test_udp(bridged: Bridged, family: int) -> None:
    assert udp(bridged.outside, bridged.vm1, 53, family=family)
    assert udp(bridged.outside, bridged.vm1, 53, family=family, source_port=5353).seen_as == (
        bridged.outside.ip(family),
        5353,
    )
    with bridged.dropping("FORWARD -p udp --dport 53"):
        assert not udp(bridged.outside, bridged.vm1, 53, family=family, timeout=0.1)
        assert udp(bridged.outside, bridged.vm1, 54, family=family)


@pytest.mark.parametrize(("family", "rule"), [(4, "FORWARD -p icmp"), (6, "FORWARD -p icmpv6")])
def test_ping(bridged: Bridged, family: int, rule: str) -> None:
    assert ping(bridged.outside, bridged.vm1, family=family)
    assert ping(bridged.vm1, bridged.vm1.ip(family), family=family)
    with bridged.dropping(rule):
        assert not ping(bridged.outside, bridged.vm1, family=family, timeout=0.1)


def test_an_address_that_nat_translates(bridged: Bridged) -> None:
    floating = "203.0.113.7"
    bridged.host.links.add_address("eth0", f"{floating}/32")
    iptables(bridged.host, f"-t nat -A PREROUTING -d {floating} -j DNAT --to {bridged.vm1.ip4}")
    iptables(bridged.host, f"-t nat -A POSTROUTING -s {bridged.vm1.ip4} -o eth0 -j SNAT --to {floating}")
    assert tcp(bridged.outside, floating, 80, server=bridged.vm1)
    seen_as = tcp(bridged.vm1, bridged.outside, 80).seen_as
    assert seen_as is not None
    assert seen_as[0] == floating


def test_a_port_that_nat_translates(bridged: Bridged) -> None:
    iptables(
        bridged.host,
        f"-t nat -A PREROUTING -d 169.254.169.254 -p tcp --dport 80 -j DNAT --to {bridged.host.ip4}:8775",
    )
    assert tcp(bridged.vm1, "169.254.169.254", 80, server=bridged.host, server_port=8775)


def test_a_connection_lives_until_a_rule_cuts_it(bridged: Bridged, family: int) -> None:
    assert tcp(bridged.outside, bridged.vm1, 22, family=family)
    with connect(bridged.outside, bridged.vm1, 22, family=family) as connection:
        assert connection.alive()
        assert not connection.dead(0.05)
        with bridged.dropping("FORWARD -p tcp --dport 22"):
            assert not connection.dead(), "the server's bytes still come through"
        assert connection.alive(3)
        with bridged.dropping("FORWARD -p tcp"):
            assert connection.dead()
        assert connection.alive(3)


def test_each_way_of_a_connection_is_a_probe(bridged: Bridged, family: int) -> None:
    with connect(bridged.outside, bridged.vm1, 22, family=family) as connection:
        assert connection.alive()
        assert arrives(bridged.outside, bridged.vm1, connection.from_client)
        with bridged.dropping("FORWARD -p tcp --dport 22"):
            assert arrives(bridged.vm1, bridged.outside, connection.from_server)
            refusal = refused(bridged.outside, bridged.vm1, connection.from_client)
            assert refusal
            assert refusal.proof == "reply"
            again = refused(bridged.outside, bridged.vm1, connection.from_client)
            assert again.proof == "time", "TCP waits with more bytes until the first are acknowledged"


@pytest.mark.parametrize("port", [None, 9])
def test_a_flood_counts_what_is_lost(bridged: Bridged, family: int, port: int | None) -> None:
    with Flood(bridged.outside, bridged.vm1, rate=500, family=family, port=port) as quiet:
        time.sleep(0.2)
    assert quiet.sent > 50
    assert quiet.lost == []
    assert quiet.longest_gap == 0

    with Flood(bridged.outside, bridged.vm1, rate=500, family=family, port=port) as cut:
        time.sleep(0.1)
        with bridged.dropping("FORWARD"):
            time.sleep(0.2)
        time.sleep(0.1)
    assert 20 < len(cut.lost) < cut.sent
    assert cut.longest_gap > 0.15
