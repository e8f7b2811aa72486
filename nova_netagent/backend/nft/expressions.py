"""The expressions that a rule of nf_tables is made of, each as the kernel describes it back.

A rule is a row of expressions over sixteen registers of four bytes; a value that is longer
takes several in a row. A comparison that fails, a lookup that finds nothing and a header that
is too short all end the rule. Sources: linux/netfilter/nf_tables.h, net/netfilter/nft_*.c.
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from functools import lru_cache

from msgspec import Struct

from nova_netagent.backend.nft import attributes

Value = bytes | tuple[tuple[int, "Value"], ...]
"""An attribute's value: bytes, or attributes in turn."""

_EXPRESSIONS_ELEMENT = 1
_NAME, _DATA = 1, 2
_VALUE, _VERDICT = 1, 2
_VERDICT_REGISTER = 0
_FIRST_128, _FIRST_32 = 1, 8
_NAT_ADDRESS, _NAT_PORT = 1, 2


class Base(IntEnum):
    """The header in which a payload's offset counts."""

    LINK = 0
    NETWORK = 1
    TRANSPORT = 2


class Meta(IntEnum):
    """What is known of a packet besides its bytes."""

    MARK = 3
    IIFNAME = 6
    OIFNAME = 7
    IIFTYPE = 8
    NFTRACE = 12
    NFPROTO = 15
    L4PROTO = 16
    PKTTYPE = 19


class Ct(IntEnum):
    """What connection tracking knows of a packet."""

    STATE = 0
    STATUS = 2
    ZONE = 17


class Compare(IntEnum):
    """How a register is compared with a value."""

    EQUAL = 0
    NOT_EQUAL = 1
    AT_MOST = 3
    AT_LEAST = 5


class Verdict(IntEnum):
    """What becomes of a packet."""

    DROP = 0
    ACCEPT = 1
    JUMP = -3
    GOTO = -4
    RETURN = -5


class Nat(IntEnum):
    """Which address is translated."""

    SOURCE = 0
    DESTINATION = 1


class Expression(Struct, frozen=True):
    """One expression: its name and its attributes by type."""

    name: str
    attributes: tuple[tuple[int, Value], ...] = ()

    @property
    def looked_into(self) -> str | None:
        """The set or map that it looks into."""
        name = dict(self.attributes).get(1) if self.name == "lookup" else None
        return attributes.read_string(name) if isinstance(name, bytes) else None

    @property
    def jumped_to(self) -> str | None:
        """The chain that it jumps or goes to."""
        data = dict(self.attributes).get(2) if self.name == "immediate" else None
        known = dict(data).get(_VERDICT) if isinstance(data, tuple) else None
        chain = dict(known).get(2) if isinstance(known, tuple) else None
        return attributes.read_string(chain) if isinstance(chain, bytes) else None


def meta(key: Meta, register: int = 0) -> Expression:
    """Load something that is known of the packet."""
    return Expression("meta", ((2, _number(key)), (1, _register(register))))


def set_meta(key: Meta, register: int = 0) -> Expression:
    """Change what is known of the packet."""
    return Expression("meta", ((2, _number(key)), (3, _register(register))))


def payload(base: Base, offset: int, length: int, register: int = 0) -> Expression:
    """Load bytes of a header; a VLAN tag that the card took off is seen where it was."""
    return Expression(
        "payload", ((1, _register(register)), (2, _number(base)), (3, _number(offset)), (4, _number(length)))
    )


def write_payload(base: Base, offset: int, length: int, register: int = 0) -> Expression:
    """Write a register into a header that no checksum covers."""
    none = _number(0)
    return Expression(
        "payload",
        (
            (5, _register(register)),
            (2, _number(base)),
            (3, _number(offset)),
            (4, _number(length)),
            (6, none),
            (7, none),
        ),
    )


def compare(operation: Compare, value: bytes, register: int = 0) -> Expression:
    """Go on when the register compares so with the value; numbers compare in network byte order."""
    return Expression("cmp", ((1, _register(register)), (2, _number(operation)), (3, ((_VALUE, value),))))


def mask(value: bytes, register: int = 0, *, flip: bytes | None = None) -> Expression:
    """Keep only these bits of the register, and then turn those of ``flip`` over."""
    return Expression(
        "bitwise",
        (
            (1, _register(register)),
            (2, _register(register)),
            (3, _number(len(value))),
            (6, _number(0)),
            (4, ((_VALUE, value),)),
            (5, ((_VALUE, bytes(len(value)) if flip is None else flip),)),
        ),
    )


def ct(key: Ct, register: int = 0) -> Expression:
    """Load what connection tracking knows, in the host's byte order; of no connection only a state is known."""
    return Expression("ct", ((1, _register(register)), (2, _number(key))))


def set_ct(key: Ct, register: int = 0) -> Expression:
    """Change what connection tracking shall know."""
    return Expression("ct", ((4, _register(register)), (2, _number(key))))


def destination_type() -> Expression:
    """Load what kind of address the destination is (``RTN_LOCAL``...), in the host's byte order."""
    return Expression("fib", ((1, _register(0)), (2, _number(3)), (3, _number(2))))


def lookup(set_name: str, *, inverted: bool = False) -> Expression:
    """Go on when the set holds what the registers hold (or, inverted, when it does not)."""
    return Expression("lookup", ((1, _text(set_name)), (2, _register(0)), (5, _number(inverted))))


def lookup_value(map_name: str) -> Expression:
    """Load what a map holds for the registers' value; without such an element the rule ends."""
    return Expression("lookup", ((1, _text(map_name)), (2, _register(0)), (3, _register(0)), (5, _number(0))))


def lookup_verdict(map_name: str) -> Expression:
    """Do what a map says for what the registers hold; without such an element the rule ends."""
    verdict = _number(_VERDICT_REGISTER)
    return Expression("lookup", ((1, _text(map_name)), (2, _register(0)), (3, verdict), (5, _number(0))))


def load(value: bytes, register: int = 0) -> Expression:
    """Load a constant."""
    return Expression("immediate", ((1, _register(register)), (2, ((_VALUE, value),))))


def translate(kind: Nat, family: int, *, port: int | None = None) -> Expression:
    """Give the connection the address in the first register, and perhaps the port in register ``port``.

    :param family: the address family, as sockets have it.
    """
    known: tuple[tuple[int, Value], ...] = ((1, _number(kind)), (2, _number(family)))
    known += ((3, _register(0)), (4, _register(0)))
    if port is not None:
        known += ((5, _register(port)), (6, _register(port)))
    return Expression("nat", (*known, (7, _number(_NAT_ADDRESS if port is None else _NAT_ADDRESS | _NAT_PORT))))


def redirect() -> Expression:
    """Lead the connection to this host, to the port in the first register."""
    return Expression("redir", ((1, _register(0)), (2, _register(0)), (3, _number(_NAT_PORT))))


def reject(code: int) -> Expression:
    """Refuse with ICMP's or ICMPv6's "unreachable" of this code."""
    return Expression("reject", ((1, _number(0)), (2, bytes((code,)))))


def verdict(code: Verdict, chain: str | None = None) -> Expression:
    """Decide, jump or go to a chain."""
    known: tuple[tuple[int, Value], ...] = ((1, _number(code)),)
    if chain is not None:
        known += ((2, _text(chain)),)
    return Expression("immediate", ((1, _number(_VERDICT_REGISTER)), (2, ((_VERDICT, known),))))


def encoded_jump(code: Verdict, chain: str) -> bytes:
    """``verdict`` with a chain, encoded: there are thousands of different ones."""
    name = attributes.string(2, chain)
    return _jump_head(code, len(name)) + name


@lru_cache(256)
def _jump_head(code: Verdict, size: int) -> bytes:
    """What is before so many bytes that name the chain."""
    verdict_ = attributes.aligned(1, _number(code)) + bytes(size)
    data = _JUMP_REGISTER + attributes.aligned(2, attributes.aligned(_VERDICT, verdict_))
    return (_head(_IMMEDIATE, len(data)) + data)[:-size]


def encoded_lookup(set_name: str) -> bytes:
    """``lookup``, encoded."""
    name = attributes.string(1, set_name)
    return _head(_LOOKUP, len(name) + len(_LOOKED_UP)) + name + _LOOKED_UP


def encoded_match(name: str, revision: int, data: bytes) -> bytes:
    """Ask one of iptables' matches, encoded; nft(8) shows no more of it than its name."""
    known, asked = _match_head(name, revision), attributes.attribute(3, data)
    return _head(_MATCH, len(known) + len(asked)) + known + asked


@lru_cache(16)
def _match_head(name: str, revision: int) -> bytes:
    return attributes.string(1, name) + attributes.aligned(2, _number(revision))


@lru_cache(512)
def _head(name: bytes, size: int) -> bytes:
    """What is before so many bytes of attributes of an expression of this name."""
    return attributes.aligned(_EXPRESSIONS_ELEMENT, name + attributes.aligned(_DATA, bytes(size)))[:-size]


def encoded_compare(operation: Compare, value: bytes) -> bytes:
    """``compare`` with the first register, encoded."""
    known, wanted = _COMPARED[operation], attributes.aligned(3, attributes.attribute(_VALUE, value))
    return _head(_COMPARE, len(known) + len(wanted)) + known + wanted


def verdict_data(code: Verdict, chain: str | None = None) -> bytes:
    """A verdict as a map's element holds it."""
    known: tuple[tuple[int, Value], ...] = ((1, _number(code)),)
    return _encode(known if chain is None else (*known, (2, _text(chain))))


def verdict_text(data: bytes) -> str:
    """A verdict of a map's element, in words."""
    known = attributes.parse(data)
    number = attributes.read_signed(known[1]) if 1 in known else 0
    word = Verdict(number).name.lower() if number in set(Verdict) else str(number)
    return f"{word} {attributes.read_string(known[2])}" if 2 in known else word


def limit(rate: int, burst: int) -> Expression:
    """Go on for so many packets in a second, and no more; ``burst`` at once after a pause."""
    rate_, second = (each.to_bytes(8, "big") for each in (rate, 1))
    return Expression("limit", ((1, rate_), (2, second), (3, _number(burst)), (4, _number(0)), (5, _number(0))))


def log(group: int, prefix: str) -> Expression:
    """Tell a program that hears the group."""
    return Expression("log", ((2, _text(prefix)), (1, group.to_bytes(2, "big"))))


def counter() -> Expression:
    """Count the packets that came this far, and their bytes."""
    return Expression("counter")


@lru_cache(1024)
def encode(expressions: tuple[Expression, ...]) -> bytes:
    """Expressions as the kernel takes them and lists them again, for NFTA_RULE_EXPRESSIONS."""
    return b"".join(
        attributes.attribute(
            _EXPRESSIONS_ELEMENT,
            attributes.string(_NAME, expression.name) + attributes.attribute(_DATA, _encode(expression.attributes)),
        )
        for expression in expressions
    )


def same(expected: Sequence[Expression], listed: bytes) -> bool:
    """Whether a listed rule is what was expected, whatever it has counted."""
    actual = [attributes.parse(each) for each in attributes.parse_list(listed)]
    return len(actual) == len(expected) and all(map(_same_expression, expected, actual))


def counted(listed: bytes) -> tuple[int, int] | None:
    """Packets and bytes of a listed rule's counter, if it has one."""
    for each in attributes.parse_list(listed):
        expression = attributes.parse(each)
        if attributes.read_string(expression[_NAME]) == "counter":
            counts = attributes.parse(expression[_DATA])
            return attributes.read_long(counts[2]), attributes.read_long(counts[1])
    return None


def looked_into(listed: bytes) -> str | None:
    """The set or map that a listed rule looks into."""
    for each in attributes.parse_list(listed):
        expression = attributes.parse(each)
        if attributes.read_string(expression[_NAME]) == "lookup":
            return attributes.read_string(attributes.parse(expression[_DATA])[1])
    return None


def _same_expression(expected: Expression, actual: dict[int, bytes]) -> bool:
    if attributes.read_string(actual[_NAME]) != expected.name:
        return False
    return expected.name == "counter" or _holds(expected.attributes, actual.get(_DATA, b""))


def _holds(expected: Sequence[tuple[int, Value]], data: bytes) -> bool:
    """What was expected is there; what the kernel says besides is zero: a default, of whatever kernel."""
    actual = attributes.parse(data)
    for kind, value in expected:
        found = actual.pop(kind, None)
        if found is None or (found != value if isinstance(value, bytes) else not _holds(value, found)):
            return False
    return not any(map(any, actual.values()))


def _encode(values: Iterable[tuple[int, Value]]) -> bytes:
    return b"".join(
        attributes.attribute(kind, value if isinstance(value, bytes) else _encode(value)) for kind, value in values
    )


def _named(name: str) -> bytes:
    return attributes.string(_NAME, name)


def _register(number: int) -> bytes:
    """A register of four bytes, by the name that the kernel gives back: each fourth has an older one."""
    return _number(_FIRST_128 + number // 4 if number % 4 == 0 else _FIRST_32 + number)


def _number(value: int) -> bytes:
    return (value & 0xFFFFFFFF).to_bytes(4, "big")


def _text(text: str) -> bytes:
    return text.encode() + b"\0"


_IMMEDIATE = _named("immediate")
_JUMP_REGISTER = attributes.aligned(1, _number(_VERDICT_REGISTER))
_LOOKUP = _named("lookup")
_LOOKED_UP = attributes.aligned(2, _register(0)) + attributes.aligned(5, _number(0))
_MATCH = _named("match")
_COMPARE = _named("cmp")
_COMPARED = {each: attributes.aligned(1, _register(0)) + attributes.aligned(2, _number(each)) for each in Compare}
