"""What is asked: what a packet may be said to be."""

from typing import Any

import pytest

from nova_netagent.explain.question import Question, parse_end
from nova_netagent.model.objects import Invalid


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("192.0.2.1", ("192.0.2.1", None)),
        ("192.0.2.1:80", ("192.0.2.1", 80)),
        ("2001:DB8::1", ("2001:db8::1", None)),
        ("[2001:db8::1]", ("2001:db8::1", None)),
        ("[2001:db8::1]:80", ("2001:db8::1", 80)),
        ("fd00::1:80", ("fd00::1:80", None)),
    ],
)
def test_an_end(text: str, end: tuple[str, int | None]) -> None:
    assert parse_end(text) == end


@pytest.mark.parametrize("text", ["", "a", "192.0.2.1:", "192.0.2.1:65536", "[192.0.2.1", ":80", "1:2:3:80", "[::1]80"])
def test_what_is_no_end(text: str) -> None:
    with pytest.raises(ValueError, match=r"not an address|not a port"):
        parse_end(text)


V4: dict[str, Any] = {"src": "192.0.2.1", "dst": "10.0.0.2"}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        (V4 | {"proto": "tpc"}, "proto"),
        (V4 | {"proto": "any"}, "proto"),
        (V4 | {"proto": "IP"}, "proto"),
        (V4 | {"proto": "tcp", "dst": "::1"}, "dst"),
        (V4 | {"proto": "gre", "dst": "10.0.0.2:80"}, "dst"),
        ({"proto": "ipv6-opts", "src": "2001:db8::1", "dst": "2001:db8::2"}, "proto"),
        ({"proto": 0, "src": "2001:db8::1", "dst": "2001:db8::2"}, "proto"),
        (V4 | {"proto": "udp", "icmp_type": 8}, "icmp_type"),
        (V4 | {"proto": "tcp", "in_dev": "lo"}, "in_dev"),
        (V4 | {"proto": "tcp", "mac": "ff:ff:ff:ff:ff:ff"}, "mac"),
    ],
)
def test_what_is_no_packet(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        Question(**fields)
    assert caught.value.field == field


def test_what_is_not_said_is_what_usually_is() -> None:
    ping = Question(proto="icmp", src="2001:db8::1", dst="2001:db8::2").packet
    assert (ping.protocol, ping.icmp) == (58, (128, 0))
    assert ping.states == {"NEW"}
    unreachable = Question(proto="icmp", icmp_type=3, **V4).packet
    assert unreachable.states == {"INVALID"}
    solicitation = Question(proto=58, src="fe80::1", dst="ff02::1", icmp_type=135).packet
    assert solicitation.states == {"UNTRACKED"}
    assert Question(proto="udplite", **V4).packet.states == {"INVALID"}
    assert Question(proto="ipv6-nonxt", src="2001:db8::1", dst="2001:db8::2").packet.states == {"INVALID"}
    assert Question(proto=59, **V4).packet.states == {"NEW"}
    reply = Question(proto="tcp", src="10.0.0.2:80", dst="192.0.2.1:5000", state="ESTABLISHED").packet
    assert (reply.source_port, reply.destination_port) == (80, 5000)
    assert reply.states == {"ESTABLISHED"}
