"""What the sets and maps of a foreign table hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nova_netagent.backend.nft import attributes
from nova_netagent.backend.nft.netlink import ListedSet
from nova_netagent.backend.nft.objects import VERDICT, Element, SetFlag, padded


@dataclass(frozen=True)
class OtherSet:
    """A set or map, as it was listed."""

    listed: ListedSet
    elements: Sequence[Element]

    @property
    def is_anonymous(self) -> bool:
        """Whether it is part of a rule."""
        return bool(self.listed.flags & SetFlag.ANONYMOUS)

    @property
    def holds_verdicts(self) -> bool:
        """Whether it says of its elements what becomes of the packet."""
        return self.listed.data_type == VERDICT.number

    def in_order(self) -> list[Element]:
        """Its elements, by their keys."""
        return sorted(self.elements, key=lambda each: (not each.key, each.key))

    def end_of(self, element: Element) -> bytes:
        """The last key of an element's range; its own where it is none."""
        if element.end is not None or not self.listed.flags & SetFlag.INTERVAL:
            return element.end or element.key
        closed = min((each.key for each in self.elements if each.closes and each.key > element.key), default=None)
        last = (1 << 8 * len(element.key)) - 1 if closed is None else int.from_bytes(closed, "big") - 1
        return last.to_bytes(len(element.key), "big")

    def find(self, key: bytes) -> Element | None:
        """The element that a key is in; a set's catch-all, which has no key itself, where no other is."""
        everything = next((each for each in self.elements if not each.key), None)
        key = key[: self.listed.key_size]
        return (self._among_ranges(key) if self.listed.flags & SetFlag.INTERVAL else self._exact(key)) or everything

    def _exact(self, key: bytes) -> Element | None:
        return next((each for each in self.elements if each.key == key), None)

    def _among_ranges(self, key: bytes) -> Element | None:
        if self.listed.flags & SetFlag.CONCATENATED:
            return next((each for each in self.elements if each.key and self._holds(each, key)), None)
        # A range begins with an element of its own, and ends with one that closes it.
        before = [each for each in self.elements if each.key and each.key <= key]
        if not before:
            return None
        nearest = max(each.key for each in before)
        return next((each for each in before if each.key == nearest and not each.closes), None)

    def _holds(self, element: Element, key: bytes) -> bool:
        at, high = 0, element.end or element.key
        for size in self.listed.fields:
            part = slice(at, at + size)
            if not element.key[part] <= key[part] <= high[part]:
                return False
            at += padded(size)
        return True


def verdict_of(data: bytes) -> tuple[int, str | None]:
    """The verdict, and the chain that it leads to, of a map's element or an immediate."""
    known = attributes.parse(data)
    chain = attributes.read_string(known[2]) if 2 in known else None
    return attributes.read_signed(known[1]), chain


def sets_of(listed: Mapping[str, tuple[ListedSet, tuple[Element, ...]]]) -> dict[str, OtherSet]:
    """A table's sets by name."""
    return {name: OtherSet(*each) for name, each in listed.items()}
