"""What a rule says, in nft's words and as expressions, side by side.

The text is what ``nft list`` prints for the expressions.
"""

from collections.abc import Iterable

from msgspec import Struct

from nova_netagent.backend.nft import expressions
from nova_netagent.backend.nft.expressions import Base, Compare, Expression, Meta, Verdict

_SLOT = 4
"""Bytes of a register."""


class Field(Struct, frozen=True):
    """Something of a packet that can be loaded: bytes of a header, or what is known besides."""

    text: str
    size: int
    key: Meta | None = None
    base: Base = Base.LINK
    offset: int = 0

    def load(self, register: int = 0) -> Expression:
        """Load it."""
        if self.key is not None:
            return expressions.meta(self.key, register)
        return expressions.payload(self.base, self.offset, self.size, register)


class Statement(Struct, frozen=True):
    """A part of a rule."""

    text: str
    expressions: tuple[Expression, ...]


class Rule(Struct, frozen=True):
    """A rule: statements that are carried out until one does not hold."""

    statements: tuple[Statement, ...]
    comment: str | None = None

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """Everything that it does."""
        return tuple(each for statement in self.statements for each in statement.expressions)

    @property
    def text(self) -> str:
        """The rule as nft prints it, without counts."""
        text = " ".join(statement.text for statement in self.statements if statement.text)
        return text if self.comment is None else f'{text} comment "{self.comment}"'


def rule(*statements: Statement, comment: str | None = None) -> Rule:
    """A rule of these statements."""
    return Rule(statements, comment)


def equals(field: Field, value: bytes, text: str) -> Statement:
    """The field has this value."""
    return Statement(f"{field.text} {text}".strip(), (field.load(), expressions.compare(Compare.EQUAL, value)))


def between(field: Field, low: bytes, high: bytes, text: str) -> Statement:
    """The field's value lies between these, ends included."""
    ends = (expressions.compare(Compare.AT_LEAST, low), expressions.compare(Compare.AT_MOST, high))
    return Statement(f"{field.text} {text}", (field.load(), *ends))


def masked(field: Field, mask: bytes, value: bytes, text: str) -> Statement:
    """The field has this value in the bits of the mask."""
    compared = expressions.compare(Compare.EQUAL, value)
    return Statement(f"{field.text} & {text}", (field.load(), expressions.mask(mask), compared))


def within(set_name: str, *fields: Field, inverted: bool = False) -> Statement:
    """The fields, one after the other, are an element of the set (or, inverted, are none)."""
    words = " . ".join(field.text for field in fields)
    found = expressions.lookup(set_name, inverted=inverted)
    return Statement(f"{words} {'!= ' if inverted else ''}@{set_name}", (*_loads(fields), found))


def set_from_map(target: Field, map_name: str, *key: Field) -> Statement:
    """Write what a map holds for the key into a header; without such an element the rule ends."""
    words = " . ".join(field.text for field in key)
    write = expressions.write_payload(target.base, target.offset, target.size)
    return Statement(
        f"{target.text} set {words} map @{map_name}", (*_loads(key), expressions.lookup_value(map_name), write)
    )


def set_known(key: Meta, value: bytes, text: str) -> Statement:
    """Change what is known of the packet besides its bytes."""
    return Statement(text, (expressions.load(value), expressions.set_meta(key)))


def unsaid(statement: Statement) -> Statement:
    """The same, where nft prints nothing because the rest of the rule implies it."""
    return Statement("", statement.expressions)


def goes(code: Verdict, chain: str | None = None) -> Statement:
    """Decide, jump or go to a chain."""
    words = code.name.lower() if chain is None else f"{code.name.lower()} {chain}"
    return Statement(words, (expressions.verdict(code, chain),))


COUNTED = Statement("counter", (expressions.counter(),))


def _loads(fields: Iterable[Field]) -> tuple[Expression, ...]:
    loads, register = [], 0
    for field in fields:
        loads.append(field.load(register))
        register += -(-field.size // _SLOT)
    return tuple(loads)
