"""A rule as a key: its expressions as the kernel lists them, counters at zero."""

import re
from collections.abc import Callable

from nova_netagent.backend import RuleRefused
from nova_netagent.backend.nft import attributes, expressions
from nova_netagent.backend.nft.expressions import Expression, Meta
from nova_netagent.backend.nftables import matches, targets
from nova_netagent.netfilter.owner import MAX_CHAIN_NAME
from nova_netagent.netfilter.rule import (
    ACCEPT,
    DROP,
    RETURN,
    ChecksumFill,
    Comment,
    Family,
    Jump,
    Physdev,
    Rule,
    Verdict,
)
from nova_netagent.netfilter.text import rule_text

_NOTHING_COUNTED = (0).to_bytes(8, "big")
COUNTER = expressions.encode((Expression("counter", ((1, _NOTHING_COUNTED), (2, _NOTHING_COUNTED))),))
_COUNTED = re.compile(re.escape(COUNTER[:24]) + b".{8}" + re.escape(COUNTER[32:36]) + b".{8}", re.DOTALL)

_VERDICTS = {0: DROP, 1: ACCEPT, -5: RETURN}
"""linux/netfilter.h and linux/netfilter/nf_tables.h (NFT_RETURN)."""

Place = Callable[[str], str]
"""The name in nf_tables of a chain of the rule's table."""


class Key(bytes):
    """The bytes of a rule of ours; they compare as bytes, whatever the rule's origin."""

    rule: Rule
    shown = True
    """Whether nft(8) shows all of it, and the rule itself does not say what it is there for."""


def key(rule: Rule, family: Family, place: Place) -> Key:
    """A rule's key.

    :raises RuleRefused: it cannot be said, or would mean something else.
    """
    made = Key(asked(rule, family) + COUNTER + target(rule, family, place))
    made.rule = rule
    if rule.origin is not None or rule.target.__class__ is ChecksumFill:
        made.shown = False
    else:
        for each in rule.matches:
            if isinstance(each, Physdev | Comment):
                made.shown = False
    return made


def asked(rule: Rule, family: Family) -> bytes:
    """What a rule asks of a packet.

    :raises RuleRefused: it cannot be said, or would mean something else.
    """
    inverted = rule.inverted
    pieces = []
    if rule.in_interface is not None:
        pieces.append(matches.interface(Meta.IIFNAME, rule.in_interface, "in_interface" in inverted))
    if rule.out_interface is not None:
        pieces.append(matches.interface(Meta.OIFNAME, rule.out_interface, "out_interface" in inverted))
    if rule.source is not None:
        pieces.append(matches.prefix(family, "source", rule.source, "source" in inverted))
    if rule.destination is not None:
        pieces.append(matches.prefix(family, "destination", rule.destination, "destination" in inverted))
    if rule.protocol is not None:
        pieces.append(matches.protocol(rule.protocol, "protocol" in inverted))
    known = None if "protocol" in inverted else rule.protocol
    for each in rule.matches:
        pieces.append(matches.match(each, family, known))
    return b"".join(pieces)


def target(rule: Rule, family: Family, place: Place) -> bytes:
    """What a rule does. :raises RuleRefused: it cannot be said."""
    if isinstance(rule.target, Jump):
        refuse_name(rule.target.chain)
        return targets.jump(place(rule.target.chain), rule.target.goto)
    return targets.target(rule.target, family)


def refuse_name(chain: str) -> None:
    """Refuse a chain name that iptables would not take either. :raises RuleRefused: always the same names."""
    if not 1 <= len(chain) <= MAX_CHAIN_NAME or (not chain.isascii() and len(chain.encode()) > MAX_CHAIN_NAME):
        raise RuleRefused(f"{chain!r} is not a chain name: 1 to {MAX_CHAIN_NAME} characters")


def uncounted(listed: bytes) -> bytes:
    """A listed rule's expressions with its counter at zero."""
    return _COUNTED.sub(COUNTER, listed)


def jumps_to(listed: bytes) -> str | None:
    """The chain, by its name in nf_tables, that a rule jumps or goes to in its last expression."""
    expressions_ = list(attributes.parse_list(listed))
    if not expressions_:
        return None
    known = attributes.parse(expressions_[-1])
    if attributes.read_string(known[1]) != "immediate":
        return None
    data = attributes.parse(attributes.parse(known[2]).get(2, b""))
    verdict = attributes.parse(data.get(2, b""))
    return attributes.read_string(verdict[2]) if 2 in verdict else None


def verdict(listed: bytes) -> Verdict | None:
    """The verdict that a rule gives in its last expression, if it gives one."""
    expressions_ = list(attributes.parse_list(listed))
    known = attributes.parse(expressions_[-1]) if expressions_ else {}
    if not known or attributes.read_string(known[1]) != "immediate":
        return None
    data = attributes.parse(attributes.parse(known[2]).get(2, b""))
    code = attributes.parse(data.get(2, b"")).get(1)
    return None if code is None else _VERDICTS.get(int.from_bytes(code, "big", signed=True))


def words(listed: bytes) -> str:
    """What can be said of a rule that is not ours: the kinds of its expressions, and what it does if that is plain."""
    names = [attributes.read_string(attributes.parse(each)[1]) for each in attributes.parse_list(listed)]
    chain, plain = jumps_to(listed), verdict(listed)
    target = Jump(chain) if chain is not None else plain
    if target is None:
        return f"({' '.join(names)})"
    asks = f"({' '.join(names[:-1])}) " if names[:-1] else ""
    return asks + rule_text(Rule(target), 4)


def described(key: bytes, family: Family) -> str:
    """A rule for people: as iptables-save writes it, if it is ours."""
    return rule_text(key.rule, family) if isinstance(key, Key) else words(key)


def alike(ours: bytes, listed: bytes) -> bool:
    """Whether the kernel's listing, which may name defaults that ours leaves out, says the same."""
    if ours == listed:
        return True
    mine, theirs = list(attributes.parse_list(ours)), list(attributes.parse_list(listed))
    return len(mine) == len(theirs) and all(map(_alike_expression, mine, theirs))


def _alike_expression(ours: bytes, listed: bytes) -> bool:
    mine, theirs = attributes.parse(ours), attributes.parse(listed)
    if mine[1] != theirs[1]:
        return False
    left, right = attributes.parse(mine.get(2, b"")), attributes.parse(theirs.get(2, b""))
    return all(right.pop(kind, None) == value for kind, value in left.items()) and not any(map(any, right.values()))
