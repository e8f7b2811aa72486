"""What nft(8) shows beside rules and elements: what it cannot show of them, and what they are there for."""

from functools import lru_cache
from typing import NamedTuple

from nova_netagent.backend.nft.objects import comment
from nova_netagent.backend.nft.userdata import element_comments, rule_comment, rule_comments
from nova_netagent.backend.nftables.image import Keys
from nova_netagent.backend.nftables.keys import Key
from nova_netagent.netfilter.rule import Chain, ChecksumFill, Comment, Physdev, Rule
from nova_netagent.netfilter.text import match_text


class Reasons(NamedTuple):
    """What rules or elements are there for, as far as they do not say it themselves."""

    about: tuple[str, str]
    """An object's kind and id."""
    parts: tuple[str, ...]
    """Of each, in order, which part of it."""

    @property
    def words(self) -> str:
        """What all of them are there for."""
        return " ".join(filter(None, self.about))

    def text(self, number: int) -> str:
        """What one of them is there for."""
        return " ".join(filter(None, (*self.about, self.parts[number])))


def reasons(chain: Chain) -> Reasons | None:
    """What a chain's rules are there for."""
    return None if chain.about is None else Reasons(chain.about, chain.parts)


def of_rules(rules: Keys, known: Reasons | None) -> list[bytes]:
    """The comments of a chain's rules, with their attributes; nothing beside one that is not ours."""
    if known is None:
        return [of_rule(key, "") for key in rules]
    noted = rule_comments(known.words, known.parts)
    for number, key in enumerate(rules):
        if not (isinstance(key, Key) and key.shown):
            noted[number] = of_rule(key, known.text(number))
    return noted


def of_rule(key: bytes, reason: str) -> bytes:
    """A rule's comment with its attribute; nothing beside one that is not ours."""
    return rule_comment(_said(key, reason))


def told(key: bytes, known: Reasons | None, number: int) -> str | None:
    """A rule's comment as the kernel lists it.

    :param number: which of its chain it is.
    """
    return comment(_said(key, "" if known is None else known.text(number)))


def of_elements(known: Reasons) -> list[bytes]:
    """The comments of elements, with their attributes."""
    return element_comments(known.words, known.parts)


def _said(key: bytes, reason: str) -> str:
    if not isinstance(key, Key):
        return ""
    return reason if key.shown else _whole(key.rule, reason)


def _whole(rule: Rule, reason: str) -> str:
    """All that is to be said beside a rule.

    :param reason: what it is there for, if it does not say so itself.
    """
    said = []
    for each in rule.matches:
        if isinstance(each, Physdev):
            said.append(_port(each))
        elif isinstance(each, Comment):
            said.append(each.text)
    if rule.origin is not None:
        said += filter(None, rule.origin)
    elif reason:
        said.append(reason)
    if isinstance(rule.target, ChecksumFill):
        said.append("(only counted: nf_tables fills no checksum)")
    return " ".join(said)


@lru_cache(1 << 13)
def _port(match: Physdev) -> str:
    """A bridge port, which nft(8) does not show."""
    return match_text(match, 4)
