"""Our own transactions in nf_tables: what one part of the agent commits is no stranger's change to another."""

from collections.abc import Collection

from nova_netagent.backend.nft.objects import TableId

_LAST_GENERATION = 0xFFFFFFFF
_REMEMBERED = 64


def following(generation: int) -> int:
    """The generation after a commit (``nft_net->base_seq``, which is never 0)."""
    return generation % _LAST_GENERATION + 1


class Commits:
    """What the agent committed in one network namespace, of late."""

    def __init__(self) -> None:
        self._edited: dict[int, frozenset[TableId]] = {}

    def note(self, generation: int, tables: Collection[TableId]) -> None:
        """Note a transaction that the kernel took on a generation, and on no other, and which tables it edited."""
        self._edited[generation] = frozenset(tables)
        if len(self._edited) > _REMEMBERED:
            del self._edited[next(iter(self._edited))]

    def spared(self, table: TableId, since: int, now: int) -> bool:
        """Whether between two generations there was nothing but transactions of ours that left a table alone."""
        for _ in range(_REMEMBERED):
            if since == now:
                return True
            if table in self._edited.get(since, (table,)):
                return False
            since = following(since)
        return False
