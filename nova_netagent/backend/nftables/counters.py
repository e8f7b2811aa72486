"""A table's counters, a chain at a time: the kernel's time for all rules of a table is quadratic in them."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from nova_netagent.backend.nftables.image import Keys

Counted = tuple[str | None, Sequence[tuple[int, int, bytes]]]
"""A chain's policy, where it has one, and of each rule packets, bytes and key."""


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
