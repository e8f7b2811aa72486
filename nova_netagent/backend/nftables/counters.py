"""A table's counters, a chain at a time: the kernel's time for all rules of a table is quadratic in them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from nova_netagent.backend import Count
from nova_netagent.backend.nft import expressions
from nova_netagent.backend.nftables.allowances import Allowance
from nova_netagent.backend.nftables.image import Keys
from nova_netagent.backend.nftables.translations import Translation
from nova_netagent.netfilter.rule import Family

Counted = tuple[str | None, Sequence[tuple[Count, bytes]]]
"""A chain's policy, where it has one, and of each rule its counters and key."""


class Counters(Mapping[str, Counted]):
    """A table's chains; each is read once, when somebody looks at it.

    :param read: reads a chain, whose keys are known.
    """

    def __init__(self, chains: Mapping[str, Keys], read: Callable[[str, Keys], Counted]) -> None:
        self._chains = chains
        self._read = read
        self._known: dict[str, Counted] = {}

    def __getitem__(self, name: str) -> Counted:
        if name not in self._known:
            self._known[name] = self._read(name, self._chains[name])
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in self._chains

    def __iter__(self) -> Iterator[str]:
        return iter(self._chains)

    def __len__(self) -> int:
        return len(self._chains)


def counted(chain: Keys, held: Mapping[bytes, bytes], physical: str, family: Family) -> Iterator[tuple[Count, bytes]]:
    """A chain's rules with what they counted; those in a set or map with what the rule counted that looks there.

    :param held: the chain as it was listed, by its rules without their counters.
    """
    together: dict[str, int | None] | None = None
    for key in chain:
        if key in held:
            yield Count(*(expressions.counted(held[key]) or ())), key
        elif isinstance(key, Allowance | Translation):
            together = _together(held.values()) if together is None else together
            yield Count(together=together.get(key.held_by(physical, family))), key
        else:
            yield Count(), key


def _together(listed: Iterable[bytes]) -> dict[str, int | None]:
    """By set or map, the packets for which something was found there, if the rule that looks there counts."""
    found: dict[str, int | None] = {}
    for each in listed:
        name, count = expressions.looked_into(each), expressions.counted(each)
        if name is not None:
            found[name] = None if count is None else count[0]
    return found
