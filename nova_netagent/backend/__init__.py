"""The kernel, behind one interface: what a packet-filter backend does and how it fails."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, TypeVar

from nova_netagent.netfilter.rule import FAMILIES, Family, IpSet, Rule, Table, TableId
from nova_netagent.plan.sets import SetPlan
from nova_netagent.plan.tables import EncodedTable, TablePlan

K = TypeVar("K")

NO_SETS: Mapping[str, IpSet] = {}


class Count(NamedTuple):
    """The packets and bytes that a rule matched; ``None`` where it is not counted alone."""

    packets: int | None = None
    octets: int | None = None
    together: int | None = None
    """The packets that it matched or another one that the kernel asks for at once with it, in a set or map."""


class BackendError(Exception):
    """The kernel did not do what it was asked; subclasses say what the caller does next."""


class TableChanged(BackendError):
    """Somebody changed the table since it was read: read again and plan again."""


class RuleRefused(BackendError):
    """The kernel refused the plan as it stands: find the object whose rule it is."""


class Unavailable(BackendError):
    """The kernel cannot be reached now (lock held by others, memory, permission): retry later."""


def seen_with(ipv4: str, ipv6: str, families: Collection[Family]) -> str:
    """See ``Backend.see_with``: the command of each family, IPv6's only where it is one of these."""
    return f"{ipv4} (IPv6: {ipv6})" if 6 in families else ipv4


class Backend(Protocol[K]):
    """The packet filter of the network namespace that the process is in.

    One thread only. Everything between the read of a table and the commit of its plan
    happens inside one ``locked()``, so that no other well-behaved program comes between.
    """

    name: str
    """``iptables`` or ``nftables``."""

    atomic: bool
    """Whether a ``transaction`` is carried out whole or not at all."""

    own_tables: bool
    """Whether its tables are ours alone: who puts a rule into a built-in chain there has put it among ours."""

    lead: int
    """By how much its chains' priorities come before those of iptables' tables."""

    @property
    def lock_wait(self) -> float:
        """How long the last ``locked`` waited, in seconds."""

    def see_with(self, families: Collection[Family]) -> str:
        """The command with which an operator sees our rules, which are in these families."""

    def tables(self, families: Iterable[Family] = FAMILIES) -> Sequence[TableId]:
        """The tables of these families that this kernel has and that we use. Those of others are not touched."""

    def loaded_tables(self) -> Sequence[TableId]:
        """Those of them that are in use already: whoever only looks need not load any."""

    def locked(self) -> AbstractContextManager[None]:
        """Hold off other programs that take the same lock; raises ``Unavailable`` on time-out."""

    def meddled(self) -> bool:
        """Whether the kernel told that others changed what is ours, since this was asked last.

        Always false where only a fresh reading shows it.
        """

    def start_over(self) -> bool:
        """Have the next transaction make everything anew, of ours and in it; whether that can be done.

        For what others put among ours, so that no edit of ours is taken any more.
        """

    def transaction(self) -> AbstractContextManager[None]:
        """What is prepared, applied and finished inside belongs together.

        A backend that can commits it at the end of the block, all of it or nothing; then the
        block raises what ``apply`` does. Another one commits each table by itself, and waits for the last.
        """

    def encode(self, table: Table) -> EncodedTable[K]:
        """A table's rules as keys; chains that did not change since the last call are not encoded anew."""

    def read(self, table: TableId, *, fresh: bool) -> Mapping[str, Sequence[K]]:
        """Every chain of a table with its rules' keys.

        Unless ``fresh`` the answer may be what the last read or commit left, as long as
        nothing shows that somebody changed the table.
        """

    def apply(self, plan: TablePlan[K], done: Callable[[], object] = lambda: None, *, more: bool = False) -> None:
        """Commit a table's edits, all or none, if there are any; in a transaction the kernel may have them later.

        Where tables are committed one by one, that is in this order, and none after one that failed.

        :param done: called when the kernel has them, or they are part of a transaction.
        :param more: whether another table comes in this transaction.
        """

    def settle(self) -> None:
        """Wait until the kernel has what was applied, unless that is for the end of the transaction.

        It raises what ``apply`` does.
        """

    def counters(self, table: TableId) -> Mapping[str, tuple[str | None, Sequence[tuple[Count, K]]]]:
        """Every chain with its policy (built-in chains) and each rule's counters and key."""

    def read_sets(self, wanted: Mapping[str, IpSet] = NO_SETS) -> Mapping[str, IpSet]:
        """The sets that are ours by name.

        :param wanted: what they should be: the same members may stand in a kernel's set in several ways.
        """

    def prepare_sets(self, plan: SetPlan) -> None:
        """Make new sets and add members: what must be there before rules refer to it."""

    def finish_sets(self, plan: SetPlan) -> None:
        """Take members and sets away: what rules no longer refer to."""

    def note_cut(self, ends: Mapping[str, Collection[str]]) -> None:
        """Remember ends of flows that were cut, as ``ADDRESS,tcp:PORT,PEER``, in the sets of these names.

        Of one that is there the time until it is forgotten begins anew. Nothing that is only read back
        tells of them: ``read_sets`` shows such a set as empty.
        """

    def cut_ends(self) -> Mapping[str, Collection[str]]:
        """By set of ours, the ends that are noted and not forgotten yet, as ``note_cut`` takes them.

        How long ago each was cut is not among it: noted elsewhere they last as if they had been cut then.
        """

    def cut_ago(self, name: str, end: str) -> float | None:
        """How many seconds ago a flow with this end was cut; ``None``: it was not, or is forgotten.

        :param end: as ``note_cut`` was told.
        """

    def describe(self, table: TableId, key: K) -> str:
        """A rule as iptables-save writes it, as far as we know its matches."""

    def parse(self, table: TableId, key: K) -> Rule:
        """A rule as a value; what our values cannot say of it is ``Opaque``."""

    def traced(self, family: Family, chain: str, handle: int) -> tuple[TableId, str, K] | None:
        """The rule of ours that the trace of nf_tables calls so, by its table, chain and key.

        ``None`` when there is no such rule, or ours are not in nf_tables.
        """

    def jumps_to(self, key: K) -> str | None:
        """The chain that a rule jumps or goes to."""

    def close(self) -> None:
        """Close sockets, if any are open; the kernel keeps everything."""
