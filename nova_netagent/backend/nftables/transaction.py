"""What is edited in one go, in the tables of both families, and what there will be afterwards."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from nova_netagent.backend.nft import Batch
from nova_netagent.backend.nftables.edits import TableEdits
from nova_netagent.backend.nftables.image import Elements, Image, Keys
from nova_netagent.netfilter.rule import Family, TableId


class Told(NamedTuple):
    """What a set was told to hold, and what it held then."""

    members: frozenset[str]
    elements: Elements


@dataclass
class Held:
    """What our tables hold."""

    images: Mapping[Family, Image] = field(default_factory=dict)
    chains: dict[TableId, Mapping[str, Keys]] = field(default_factory=dict)
    """The tables of the compiler, as far as anybody asked for them since the images were read."""
    told: dict[str, Told] = field(default_factory=dict)

    def opened(self) -> "Held":
        """The same for a transaction, which edits the images themselves: of one that fails all is read anew."""
        return replace(self, chains=dict(self.chains), told=dict(self.told))


class Transaction:
    """The edits, by family.

    :param held: what there is, before anything is edited.
    :param handles: asks the kernel for the handles of a chain's rules, whose keys are given too.
    """

    def __init__(self, held: Held, handles: Callable[[Family, str, Keys], tuple[int, ...]]) -> None:
        self.held = held.opened()
        self.edits: dict[Family, TableEdits] = {}
        self.in_use: list[str] = []
        """The sets that had to go, and are looked into by somebody."""
        self._handles = handles
        for family, image in self.held.images.items():
            if image.goes:
                self.table(family)

    @property
    def edited(self) -> bool:
        """Whether anything is edited."""
        return any(each.edited for each in self.edits.values())

    @property
    def destroys(self) -> bool:
        """Whether sets are to go."""
        return any(each.destroys for each in self.edits.values())

    def table(self, family: Family) -> TableEdits:
        """The edits of a family."""
        if family not in self.edits:
            # Nothing in it leads back here: a cycle would keep a copy of what stands until garbage is looked for.
            self.edits[family] = TableEdits(self.held.images[family], family, partial(self._handles, family))
        return self.edits[family]

    def batch(self, *, destroy: bool) -> Batch:
        """Everything as one transaction."""
        batch = Batch()
        for each in self.edits.values():
            each.write(batch, destroy=destroy)
        return batch

    def going(self) -> list[tuple[Family, str]]:
        """The sets that are to go."""
        return [(family, name) for family, each in self.edits.items() for name in each.going]
