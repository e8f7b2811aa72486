"""Protocols by the names of neutron's API."""

import pytest

from nova_netagent.model import protocols

# neutron-lib's IP_PROTOCOL_MAP with its aliases, and the numbers that IANA gave them.
NEUTRON = {
    "ah": 51, "dccp": 33, "egp": 8, "esp": 50, "gre": 47, "hopopt": 0, "icmp": 1, "icmpv6": 58, "igmp": 2, "ip": 0,
    "ipip": 4, "ipv6-encap": 41, "ipv6-frag": 44, "ipv6-icmp": 58, "ipv6-nonxt": 59, "ipv6-opts": 60, "ipv6-route": 43,
    "ospf": 89, "pgm": 113, "rsvp": 46, "sctp": 132, "tcp": 6, "udp": 17, "udplite": 136, "vrrp": 112,
}  # fmt: skip


NAMES = [*NEUTRON, "any"]
"""With the one that its API takes beside them, for 0."""


def test_the_names_are_neutrons() -> None:
    assert protocols.NUMBERS == {**NEUTRON, "any": 0}


def test_a_number_has_one_name_for_people() -> None:
    assert [protocols.name(number) for number in (0, 6, 58, 200)] == ["ip", "tcp", "icmpv6", "200"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_known_in_any_case(name: str) -> None:
    for spelling in (name, name.upper(), name.capitalize()):
        assert protocols.parse(spelling) == name


@pytest.mark.parametrize(("given", "number"), [(0, 0), (255, 255), ("0", 0), ("255", 255), ("006", 6), (47, 47)])
def test_a_number_may_be_digits(given: int | str, number: int) -> None:
    assert protocols.parse(given) == number


@pytest.mark.parametrize(
    "given", [-1, 256, "256", "0006", "1000", "-1", "+6", "6.0", "", " tcp", "tcp ", "tpc", "all", "٦", "0x6"]
)
def test_anything_else_is_refused(given: int | str) -> None:
    with pytest.raises(ValueError, match="protocol"):
        protocols.parse(given)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", [4, 6])
def test_the_number_that_a_rule_matches(name: str, family: int) -> None:
    """0 is no match at all, and icmp in IPv6 is ICMPv6."""
    expected = NEUTRON.get(name) or None
    if name == "icmp" and family == 6:
        expected = 58
    assert protocols.number(name, family) == expected


@pytest.mark.parametrize(
    ("given", "family", "number"), [(None, 4, None), (None, 6, None), (0, 4, None), (1, 6, 58), (1, 4, 1), (58, 4, 58)]
)
def test_numbers_as_well(given: int | None, family: int, number: int | None) -> None:
    assert protocols.number(given, family) == number


def test_what_protocols_carry() -> None:
    assert {6, 17, 33, 132, 136} == protocols.WITH_PORTS
    assert {1, 58} == protocols.WITH_TYPES
