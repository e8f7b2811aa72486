"""How many packets the rate of the rules that log has kept out of the log of security groups.

A rule that logs is limited, and the next one in its chain is met by every packet that it is met by: what
it counts more was kept out. The kernel is asked at each resync, when it is read back anyway.
"""

from collections.abc import Callable, Collection, Iterable
from itertools import pairwise
from typing import Any

from nova_netagent.netfilter.rule import Table

_PART = "log"
"""The part of a rule's origin that says that it logs."""

Place = tuple[int, str, str]
"""Family, table and chain."""
LiveChains = Callable[[Table, Collection[str]], Iterable[dict[str, Any]]]


class Limited:
    """Remembers what it saw, as the kernel's counters go with their rules.

    :param live: some chains of a table as the kernel has them, as ``Rules.live_chains``.
    """

    def __init__(self, live: LiveChains) -> None:
        self._live = live
        self._seen: dict[Place, int] | None = None

    def since_last(self, tables: Iterable[Table]) -> int:
        """The packets that were kept out since it was last asked; none at first, when nobody knows since when.

        :raises BackendError: the kernel cannot be read.
        """
        before, self._seen = self._seen, {place: count for each in tables for place, count in self._counts(each)}
        if before is None:
            return 0
        # What is less than before is a rule's that was made anew.
        return sum(
            count - before.get(place, 0) if count >= before.get(place, 0) else count
            for place, count in self._seen.items()
        )

    def _counts(self, table: Table) -> Iterable[tuple[Place, int]]:
        logging = {name for name, chain in table.chains.items() if any(map(_logs, chain.origins()))}
        for chain in self._live(table, logging) if logging else ():
            kept_out = (
                max(0, after["packets"] - rule["packets"])
                for rule, after in pairwise(chain["rules"])
                if _logs(rule["origin"])
            )
            yield (table.id.family, table.id.name, chain["chain"]), sum(kept_out)


def _logs(origin: Collection[str] | None) -> bool:
    return origin is not None and tuple(origin)[2:3] == (_PART,)
