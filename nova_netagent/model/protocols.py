"""IP protocols by the names that Neutron's API knows, and what each can carry.

Source: the protocol list of Neutron's security-group API and the IANA protocol
numbers; see ``docs/compatibility.md``.
"""

from nova_netagent.model import values

NUMBERS = {
    "ip": 0,
    "hopopt": 0,
    "any": 0,
    "icmp": 1,
    "igmp": 2,
    "ipip": 4,
    "tcp": 6,
    "egp": 8,
    "udp": 17,
    "dccp": 33,
    "ipv6-encap": 41,
    "ipv6-route": 43,
    "ipv6-frag": 44,
    "rsvp": 46,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "ipv6-icmp": 58,
    "ipv6-nonxt": 59,
    "ipv6-opts": 60,
    "ospf": 89,
    "vrrp": 112,
    "pgm": 113,
    "sctp": 132,
    "udplite": 136,
}
ICMP, TCP, UDP, DCCP, AH, ICMPV6, SCTP, UDPLITE = 1, 6, 17, 33, 51, 58, 132, 136
_NAMES = {number: name for name, number in reversed(NUMBERS.items())}
"""Of several names of one number the first."""
_SPELT = {name: name for name in NUMBERS}
"""One string for each, whoever's rule it is of."""
WITH_PORTS = frozenset({TCP, UDP, DCCP, SCTP, UDPLITE})
WITH_TYPES = frozenset({ICMP, ICMPV6})
IPV6_EXTENSIONS = frozenset({0, 43, 44, 60})
"""What IPv6 has before the protocol of a packet: both packet filters look past them."""
IPV6_NONXT = 59


def parse(value: str | int) -> str | int:
    """The canonical spelling: a known name in lower case, or a number from 0 to 255.

    A number may be given as a string of digits. Raises ``ValueError`` otherwise.
    """
    given = value
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit()):
            name = _SPELT.get(value.lower())
            if name is None:
                known = ", ".join(sorted(NUMBERS))
                raise ValueError(f"{values.shown(value)} is not a protocol: a number from 0 to 255 or one of {known}")
            return name
        value = int(value) if len(value) <= 3 else 256
    if not 0 <= value <= 255:
        raise ValueError(f"{values.shown(given)} is not a protocol number: 0 to 255")
    return value


def name(number: int) -> str:
    """A protocol as people write it: its name, or the number itself."""
    return _NAMES.get(number, str(number))


def number(protocol: str | int | None, family: int) -> int | None:
    """The protocol number a rule of ``family`` (4 or 6) matches; ``None`` is any.

    ``icmp`` in an IPv6 rule means ICMPv6, and 0 is no match at all, both as Neutron
    has it (the kernel reads protocol 0 in a rule as "any").
    """
    if protocol is None:
        return None
    found = NUMBERS[protocol] if isinstance(protocol, str) else protocol
    if family == 6 and found == ICMP:
        return ICMPV6
    return found or None
