"""How many packets the rate of the rules that log has kept out of the log of security groups.

A rule that logs is limited, and the next one in its chain is met by every packet that it is met by: what
it counts more was kept out. The kernel is asked at each resync, when it is read back anyway.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

_PART = "log"
"""The part of a rule's origin that says that it logs."""

Place = tuple[int, str, str]


class Limited:
    """Remembers what it saw, as the kernel's counters go with their rules."""

    def __init__(self) -> None:
        self._seen: dict[Place, int] | None = None

    def since_last(self, chains: Iterable[dict[str, Any]]) -> int:
        """The packets that were kept out since it was last asked; none at first, when nobody knows since when.

        :param chains: as ``Reconciler.live_chains``.
        """
        now: dict[Place, int] = {}
        for chain in chains:
            rules = chain["rules"]
            for rule, after in pairwise(rules):
                if rule["origin"] is not None and rule["origin"][2] == _PART:
                    now[chain["family"], chain["table"], chain["chain"]] = max(0, after["packets"] - rule["packets"])
        before, self._seen = self._seen, now
        if before is None:
            return 0
        # What is less than before is a rule's that was made anew.
        return sum(
            count - before.get(place, 0) if count >= before.get(place, 0) else count for place, count in now.items()
        )
