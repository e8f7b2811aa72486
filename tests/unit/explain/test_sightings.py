"""Which packet met which rules, told from what two sources say, without a kernel."""

import socket
import struct

from nova_netagent.backend.nflog import Logged
from nova_netagent.backend.nft.objects import Family, TableId
from nova_netagent.backend.trace import Met, Traced
from nova_netagent.explain.sightings import Sighting, sightings

FW = TableId(Family.INET, "fw")
BASES = {
    (Family.INET, "fw", "pre"): (0, -310),
    (Family.INET, "fw", "forward"): (2, 10),
    (Family.INET, "fw", "post"): (4, 110),
    (Family.BRIDGE, "fw", "pre"): (0, 0),
}


def packet(identification: int = 1, *, to: str = "10.1.0.2", port: int = 80, sequence: int = 5) -> bytes:
    """A SYN."""
    ends = socket.inet_aton("192.0.2.1") + socket.inet_aton(to)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 40, identification, 0, 64, 6, identification * 3 & 0xFFFF) + ends
    return head + struct.pack(">HHIIBBHHH", 4000, port, sequence, 0, 0x50, 2, 0, port * 7, 0)


def nft(chain: str, data: bytes, *, number: int = 1, verdict: int = 1, table: TableId = FW) -> Traced:
    return Traced(number, table, chain, 4, (verdict, None), data, 2, 3)


def legacy(place: str, hook: int, data: bytes) -> Logged:
    return Logged(hook, f"TRACE: {place} ", data, 2, 3)


def ways(events: list[Met]) -> list[list[tuple[int, int, int]]]:
    """Of each packet its passages: hook, priority, and how many rules."""

    def of(sighting: Sighting) -> list[tuple[int, int, int]]:
        return [(each.hook, each.priority, len(each.rules)) for each in sighting.passages]

    return [of(each) for each in sightings(events, BASES)]


def test_both_sources_tell_of_one_packet_also_when_it_is_translated() -> None:
    before, after = packet(to="198.51.100.1", port=8080), packet()
    events: list[Met] = [
        nft("pre", before),
        nft("forward", after),
        legacy("raw:PREROUTING:policy:2", 0, before),
        legacy("filter:FORWARD:rule:1", 2, after),
        legacy("filter:sub:rule:1", 2, after),
        legacy("nat:POSTROUTING:policy:1", 4, after),
    ]
    assert ways(events) == [[(0, -310, 1), (0, -300, 1), (2, 0, 2), (2, 10, 1), (4, 100, 1)]]
    (found,) = sightings(events, BASES)
    assert (found.passages[0].packet.destination_port, found.passages[-1].packet.destination) == (8080, "10.1.0.2")


def test_two_packets_are_two() -> None:
    first, second = packet(1), packet(2)
    events: list[Met] = [nft("pre", first), nft("pre", second, number=2), nft("forward", first)]
    assert ways(events) == [[(0, -310, 1), (2, 10, 1)], [(0, -310, 1)]]


def test_the_same_bytes_again_are_another_packet() -> None:
    same = packet()
    once: list[Met] = [nft("pre", same), nft("forward", same), nft("post", same)]
    assert ways(once * 2) == [[(0, -310, 1), (2, 10, 1), (4, 110, 1)]] * 2
    dropped: list[Met] = [legacy("raw:PREROUTING:rule:1", 0, same)]
    assert ways(dropped * 3) == [[(0, -300, 1)]] * 3


def test_what_the_host_sends_to_itself_is_one_packet() -> None:
    same = packet()
    hooks = ((3, "OUTPUT"), (4, "POSTROUTING"), (0, "PREROUTING"))
    events: list[Met] = [legacy(f"mangle:{name}:policy:1", hook, same) for hook, name in hooks]
    assert [[each[0] for each in way] for way in ways(events)] == [[3, 4, 0]]


def test_later_rules_of_a_chain_come_without_the_packet() -> None:
    events: list[Met] = [nft("pre", packet()), nft("sub", b""), nft("sub", b""), nft("other", b"", number=9)]
    assert ways(events) == [[(0, -310, 3)]]


def test_frames_count_only_where_they_are_refused() -> None:
    bridge = TableId(Family.BRIDGE, "fw")
    passed: list[Met] = [nft("pre", packet()), nft("pre", packet(), table=bridge, number=2)]
    assert ways(passed) == [[(0, -310, 1)]]
    refused: list[Met] = [*passed, nft("pre", b"", table=bridge, number=2, verdict=0)]
    assert len(ways(refused)[0]) == 2


def test_what_is_cut_short_or_strange_is_nothing() -> None:
    events: list[Met] = [
        nft("pre", b"\x45\0"),
        nft("pre", b"\x60" + bytes(25)),
        nft("unknown", packet()),
        legacy("raw:PREROUTING:policy:2", 0, b""),
        Logged(0, "TRACE: what", packet()),
        Logged(0, "TRACE: raw:x:rule:many", packet()),
    ]
    assert ways(events) == []
