"""A rule's expressions in the words of ``nft list``: told by what is in which register.

A protocol that the next words do not ask for by themselves is said, though nft(8) may leave it out: read again,
the words make the same rule.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from nova_netagent.backend.nft import expressions
from nova_netagent.backend.nft.attributes import parse, parse_list, read_long, read_number, read_string
from nova_netagent.backend.nft.expressions import Compare, Ct, Meta, Nat
from nova_netagent.backend.nft.objects import Family
from nova_netagent.backend.nft.script import fields, values
from nova_netagent.backend.nft.script.comparisons import WordlessError, between, compared, edited, part
from nova_netagent.backend.nft.script.fields import Field

_UNITS = {1: "second", 60: "minute", 3600: "hour", 86400: "day"}
_NATS = {Nat.SOURCE: "snat", Nat.DESTINATION: "dnat"}
_FIRST_32 = 8
"""From here on registers of four bytes are numbered."""
_UNREACHABLE = {Family.IP: 3, Family.IP6: 4}
"""The code of a port that cannot be reached, which nft(8) does not say."""
_BURST = 5
"""Nor this."""

Known = Mapping[int, bytes]
"""An expression's attributes by type."""


class Words(NamedTuple):
    """A rule."""

    text: str
    loads: bool
    """Whether nft(8) can be told so; otherwise only the kernel can, by netlink."""


def words(listed: bytes, family: Family, comment: str | None = None) -> Words:
    """What a rule says.

    :param listed: its expressions.
    """
    reader = _Reader(family)
    for each in parse_list(listed):
        reader.read(parse(each))
    text = " ".join(reader.statements)
    if comment is not None:
        text = f'{text} comment "{comment}"'.lstrip()
    return Words(text, reader.loads)


@dataclass
class _Reader:
    """What the expressions so far have said, and what they left in registers of four bytes, by number."""

    family: Family
    statements: list[str] = field(default_factory=list)
    loads: bool = True
    _registers: dict[int, Field | bytes] = field(default_factory=dict)
    _protocol: int | None = None
    _implied: str | None = None
    """What the last statement asks, if that is no more than a protocol."""
    _low: bytes | None = None
    """From where on a range goes that is still open."""

    def read(self, expression: Known) -> None:
        """The next expression."""
        name, known = read_string(expression[1]), parse(expression.get(2, b""))
        told = _TOLD.get(name)
        try:
            if told is None:
                raise WordlessError
            told(self, known)
        except WordlessError:
            self.loads = False
            self._say(f"xt match {read_string(known[1])}" if name == "match" else f"({name})")

    # what loads

    def meta(self, known: Known) -> None:
        """What is known of the packet."""
        key = read_number(known[2])
        if 3 in known:
            self._set_meta(key, self._registers.pop(_slot(known[3]), None))
        else:
            self._load(known[1], fields.META.get(key))

    def payload(self, known: Known) -> None:
        """Bytes of a header."""
        base, offset, length = (read_number(known[at]) for at in (2, 3, 4))
        self._load(known[1], fields.payload(base, offset, length, self.family, self._protocol))

    def ct(self, known: Known) -> None:
        """What is known of the connection."""
        key = read_number(known[2])
        if 4 not in known:
            self._load(known[1], fields.CT.get(key))
            return
        value = self._registers.pop(_slot(known[4]), None)
        if key != Ct.ZONE or not isinstance(value, bytes):
            raise WordlessError
        self._say(f"ct zone set {values.native(value)}")

    def fib(self, known: Known) -> None:
        """Of which type an address is."""
        if (read_number(known[2]), read_number(known[3])) != (3, 2):
            raise WordlessError
        self._load(known[1], fields.DESTINATION_TYPE)

    def bitwise(self, known: Known) -> None:
        """Some bits of what was loaded."""
        at = _slot(known[1])
        loaded = self._registers.get(at)
        if not isinstance(loaded, Field):
            raise WordlessError
        mask, flip = (parse(known[kind])[1] for kind in (4, 5))
        self._registers[at] = replace(loaded, mask=mask, flip=flip)

    def immediate(self, known: Known) -> None:
        """A constant, or a verdict."""
        data = parse(known[2])
        if 2 in data:
            self._say(expressions.verdict_text(data[2]))
        else:
            self._registers[_slot(known[1])] = data[1]

    # what asks

    def compare(self, known: Known) -> None:
        """What was loaded is, or is not, or lies between."""
        at, operation, value = _slot(known[1]), read_number(known[2]), parse(known[3])[1]
        loaded = self._registers.get(at)
        if not isinstance(loaded, Field):
            raise WordlessError
        if operation == Compare.AT_LEAST:
            self._low = value
            return
        del self._registers[at]
        if operation == Compare.AT_MOST and self._low is not None:
            low, self._low = self._low, None
            self._say(between(loaded, low, value), loaded.within)
        else:
            self._say(compared(loaded, operation, value), loaded.within)
            self._note_protocol(loaded, operation, value)

    def lookup(self, known: Known) -> None:
        """What was loaded is in a set, or leads to what a map has for it."""
        name, loaded = read_string(known[1]), self._loaded()
        key, within = " . ".join(map(part, loaded)), next((each.within for each in loaded if each.within), None)
        self._registers.clear()
        if 3 not in known:
            inverted = 5 in known and read_number(known[5])
            self._say(f"{key} {'!= ' if inverted else ''}@{name}", within)
        elif read_number(known[3]) == 0:
            self._say(f"{key} vmap @{name}", within)
        else:
            self._registers[_slot(known[3])] = Field(f"{key} map @{name}", values.address)

    def limit(self, known: Known) -> None:
        """So many packets in a time."""
        unit = _UNITS.get(read_long(known[2]))
        if unit is None:
            raise WordlessError
        burst = read_number(known[3])
        said = "" if burst == _BURST else f" burst {burst} packets"
        self._say(f"limit rate {read_long(known[1])}/{unit}{said}")

    # what does

    def counter(self, _: Known) -> None:
        """Counts."""
        self._say("counter")

    def log(self, known: Known) -> None:
        """Tells a program."""
        self._say(f'log prefix "{read_string(known[2])}" group {int.from_bytes(known[1], "big")}')

    def nat(self, known: Known) -> None:
        """Another address."""
        to = self._registers.pop(_slot(known[3]), None)
        port = self._registers.pop(_slot(known[5]), None) if 5 in known else None
        if isinstance(to, Field):
            text = to.text
        elif isinstance(to, bytes):
            host = values.address(to)
            text = f"[{host}]" if ":" in host and isinstance(port, bytes) else host
        else:
            raise WordlessError
        if isinstance(port, bytes):
            text += f":{values.number(port)}"
        self._say(f"{_NATS[Nat(read_number(known[1]))]} to {text}")

    def redir(self, known: Known) -> None:
        """To this host."""
        port = self._registers.pop(_slot(known[1]), None)
        if not isinstance(port, bytes):
            raise WordlessError
        self._say(f"redirect to :{values.number(port)}")

    def reject(self, known: Known) -> None:
        """A refusal that is told."""
        if (read_number(known[1]), known[2][0]) != (0, _UNREACHABLE.get(self.family)):
            raise WordlessError
        self._say("reject")

    def _set_meta(self, key: int, value: Field | bytes | None) -> None:
        loaded = fields.META.get(Meta.MARK)
        if key != Meta.MARK or loaded is None or not isinstance(value, Field) or value.text != loaded.text:
            raise WordlessError
        self._say(f"meta mark set {value.text}{edited(value)}")

    def _load(self, register: bytes, loaded: Field | None) -> None:
        if loaded is None:
            raise WordlessError
        self._registers[_slot(register)] = loaded

    def _loaded(self) -> list[Field]:
        """What is in the registers, in their order."""
        loaded = [self._registers[at] for at in sorted(self._registers)]
        fields_ = [each for each in loaded if isinstance(each, Field)]
        if not fields_ or len(fields_) < len(loaded):
            raise WordlessError
        return fields_

    def _note_protocol(self, loaded: Field, operation: int, value: bytes) -> None:
        if operation != Compare.EQUAL:
            return
        if loaded == fields.META[Meta.L4PROTO]:
            self._protocol = value[0]
            self._implied = {**fields.PORTED, **fields.ICMP}.get(value[0])
        elif loaded == fields.META[Meta.IIFTYPE]:
            self._implied = loaded.words(value)

    def _say(self, text: str, within: str | None = None) -> None:
        if within is not None and within == self._implied:
            self.statements.pop()
        self._implied = None
        self.loads &= self._low is None  # nothing of ours asks for one end of a range alone
        self.statements.append(text)


_TOLD: Mapping[str, Callable[[_Reader, Known], None]] = {
    "meta": _Reader.meta,
    "payload": _Reader.payload,
    "ct": _Reader.ct,
    "fib": _Reader.fib,
    "bitwise": _Reader.bitwise,
    "immediate": _Reader.immediate,
    "cmp": _Reader.compare,
    "lookup": _Reader.lookup,
    "limit": _Reader.limit,
    "counter": _Reader.counter,
    "log": _Reader.log,
    "nat": _Reader.nat,
    "redir": _Reader.redir,
    "reject": _Reader.reject,
}


def _slot(register: bytes) -> int:
    """A register's number, counted in fours of bytes: the first four registers have 16."""
    number = read_number(register)
    return (number - 1) * 4 if number < _FIRST_32 else number - _FIRST_32
