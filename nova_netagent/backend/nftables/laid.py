"""A chain of the compiler that stands in nf_tables as fewer rules, with sets or maps beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nova_netagent.backend.nft.objects import Element, Set
from nova_netagent.backend.nftables.image import Elements, Image, Keys, recognized
from nova_netagent.backend.nftables.notes import Reasons

STRAY = b"what is not as it should be in the sets and maps of the chain"
"""Stands in a chain for elements and lookups that are not as they should be."""


@dataclass
class Laid:
    """Its rules, and its sets and maps with their elements."""

    rules: Keys
    maps: Mapping[str, tuple[Set, Elements]]
    reasons: Reasons | None = None
    """What the rules are there for, if they do not say it themselves."""
    reasons_of: Mapping[str, Reasons] = field(default_factory=dict)
    """The same of the elements, by their set."""


def seen(image: Image, physical: str, desired: Keys, wanted: Laid, present: Sequence[str]) -> Keys | None:
    """A chain as it can be told from the kernel, by what it should be; ``None`` when there is none.

    :param image: what the kernel has; of what is as it should be the image has our objects afterwards.
    :param wanted: what is desired, as it should stand.
    :param present: the sets and maps of the chain that are there.
    """
    held = image.chains.get(physical)
    if held is None:
        return None
    rules = recognized(held.rules, wanted.rules)
    actual = {name: image.sets[name] for name in present}
    if rules == wanted.rules and actual.keys() == wanted.maps.keys():
        right = (
            actual[name].fits(described) and _data(actual[name].elements) == _data(elements)
            for name, (described, elements) in wanted.maps.items()
        )
        if all(right):
            image.adopt_rules(physical, wanted.rules)
            for name, (_, ours) in wanted.maps.items():
                image.adopt_elements(name, ours)
            return desired
    there = set(rules)
    elements = {(key, each.data) for held_set in actual.values() for (key, _), each in held_set.elements.items()}
    kept = (each for each in desired if each in there or _element(each) in elements)
    return (*kept, STRAY)


def _element(key: bytes) -> tuple[bytes, bytes | None] | None:
    element: Element | None = getattr(key, "element", None)
    return None if element is None else (element.key, element.data)


def _data(elements: Mapping[tuple[bytes, bool], Element]) -> Mapping[object, tuple[bytes | None, bytes | None]]:
    return {key: (each.end, each.data) for key, each in elements.items()}
