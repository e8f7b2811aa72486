"""Where a table has offsets: a jump leads to the first rule of a chain, a rule without a target to the next one.

In a key a jump has its chain's name instead. All offsets are said anew when a table changes its size.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import compress
from typing import NamedTuple

NEXT = "\0"
"""Where a rule without a target leads to: no chain has this name."""

_WORD = 4
_FROM_END = 2
"""An offset stands so many words before the end of its entry."""


class Jumps(NamedTuple):
    """The offsets of a table, in the order of its entries. In two plain rows: there are tens of thousands."""

    at: "array[int]"
    """Where each is: its word, counted from the first entry."""
    to: list[str]
    """Where each leads: the name of a chain, or ``NEXT``."""

    def add(self, leads: Iterable[str | None], ends: Iterable[int]) -> None:
        """Add what follows: where each of some entries leads, if it has an offset, and where it ends, in bytes."""
        leads = list(leads)
        self.at.extend([(end // _WORD) - _FROM_END for end in compress(ends, leads)])
        self.to.extend(filter(None, leads))

    def copy(self, other: "Jumps", low: int, high: int, shift: int) -> None:
        """Add those of another table between two bytes of it, which stand so many bytes further on in this one."""
        first, last = bisect_left(other.at, low // _WORD), bisect_left(other.at, high // _WORD)
        further = shift // _WORD
        copied = other.at[first:last]
        self.at.extend([place + further for place in copied] if further else copied)
        self.to.extend(other.to[first:last])

    def say(self, entries: memoryview, chains: Mapping[str, int]) -> None:
        """Put all offsets in.

        :param chains: where the first rule of each chain is that can be jumped to.
        :raises KeyError: one that is jumped to is not among them.
        """
        with entries.cast("i") as words:
            for place, chain in zip(self.at, self.to, strict=True):
                words[place] = chains[chain] if chain != NEXT else (place + _FROM_END) * _WORD


def no_jumps() -> Jumps:
    """Of a table of which nothing is written yet."""
    return Jumps(array("i"), [])
