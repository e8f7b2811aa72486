"""The backend itself: what is read, encoded and committed, and what is remembered in between."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import NamedTuple

from nova_netagent.backend import NO_SETS, BackendError, RuleRefused, TableChanged, Unavailable, legacy, seen_with
from nova_netagent.backend.iptables import entry
from nova_netagent.backend.iptables.assembly import Assembler
from nova_netagent.backend.iptables.beside import Beside, in_turns
from nova_netagent.backend.iptables.commit import Commit, replace_table
from nova_netagent.backend.iptables.encoder import Encoder
from nova_netagent.backend.iptables.image import CountedChain, Image
from nova_netagent.backend.iptables.lock import XtablesLock
from nova_netagent.backend.iptables.saved import saved_lines
from nova_netagent.backend.iptables.sets import KernelSets
from nova_netagent.backend.iptables.tables import KernelTables
from nova_netagent.netfilter.rule import FAMILIES, Family, IpSet, Opaque, Rule, Table, TableId
from nova_netagent.netfilter.text import rule_text
from nova_netagent.plan.sets import SetPlan
from nova_netagent.plan.tables import EncodedTable, TablePlan

TABLES = ("filter", "nat", "mangle", "raw")

WORTH_A_THREAD = 256 << 10
"""A table of so many bytes is committed beside the preparation of the next one."""


AT_A_TIME = 3
"""So many tables of that size are on their way at most: each is in memory twice."""


class _Commit(NamedTuple):
    """A table that is on its way into the kernel."""

    table: TableId
    before: Image
    after: Image
    is_large: bool
    result: Future[None]
    done: Callable[[], object]


class IptablesBackend:
    """The legacy tables of the network namespace that the process is in.

    One thread only: python-iptables' libraries are not safe in two. Inside a ``transaction`` the kernel
    takes a table while the next ones are read and put together here; those of a family go in one after the other.

    :param lock_timeout: seconds to wait for the xtables lock.
    :param owns_set: whether a set is ours by its name.
    :param commit: how a table is put into the kernel.
    :param beside: how many bytes a table has that is committed beside the next one.
    """

    name = "iptables"
    atomic = False
    own_tables = False
    lead = 0

    def __init__(
        self,
        lock_timeout: float,
        owns_set: Callable[[str], bool],
        commit: Commit = replace_table,
        beside: int = WORTH_A_THREAD,
    ) -> None:
        self._commit = commit
        self._beside = {family: Beside() for family in FAMILIES}
        self._least_beside = beside
        self._together = False
        """Whether a transaction is open."""
        self._on_their_way: deque[_Commit] = deque()
        self._lock = XtablesLock(lock_timeout)
        self._sets = KernelSets(owns_set)
        self._encoder = Encoder(self._sets)
        self._kernel: dict[Family, KernelTables] = {}
        self._images: dict[TableId, Image] = {}
        self._assemblers: dict[TableId, Assembler] = {}
        self._read_in: dict[TableId, int] = {}
        """In which turn of the lock a table was read or committed last."""
        self._doubtful: set[TableId] = set()
        self._missing: set[TableId] = set()
        self._spellings: dict[TableId, dict[bytes, str]] = {}
        """What iptables-save says of rules with matches that are not ours: a process each, so remembered."""

    @property
    def lock_wait(self) -> float:
        """Seconds that the lock was waited for last."""
        return self._lock.waited

    def close(self) -> None:
        """Close the sockets; what was remembered is forgotten."""
        for beside in self._beside.values():
            beside.close()
        for kernel in self._kernel.values():
            kernel.close()
        self._kernel.clear()
        self._sets.close()
        self._images.clear()

    def see_with(self, families: Collection[Family]) -> str:
        """The command with which an operator sees our rules, which are in these families."""
        return seen_with("iptables-legacy-save", "ip6tables-legacy-save", families)

    def tables(self, families: Iterable[Family] = FAMILIES) -> list[TableId]:
        """The tables that this kernel has and that we use; asking makes the kernel load them.

        :raises Unavailable: no permission to ask.
        """
        return [table for family in families for name in TABLES if self._exists(table := TableId(family, name))]

    def loaded_tables(self) -> list[TableId]:
        """Those of them that this namespace uses already: where anything of ours can be.

        Loads no module: see ``legacy.in_use``.

        :raises Unavailable: no permission to ask.
        """
        return [table for family in FAMILIES for table in self._loaded(family)]

    def locked(self) -> AbstractContextManager[None]:
        """Hold the xtables lock. :raises Unavailable: it was not free in time, or cannot be opened."""
        return self._lock.hold()

    def meddled(self) -> bool:
        """The legacy tables tell nobody."""
        return False

    def start_over(self) -> bool:
        """The tables are not ours alone."""
        return False

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Each table is committed by itself, the last of them at the end: the kernel cannot do it otherwise.

        :raises BackendError: see ``settle``.
        """
        self._together = True
        try:
            with in_turns():
                yield
                self.settle()
        finally:
            self._together = False
            with suppress(BackendError):  # what happened first is told
                self.settle()

    def encode(self, table: Table) -> EncodedTable[bytes]:
        """A table's rules as bytes; a set that is not there yet gets an index that no set has.

        :raises RuleRefused: a rule that cannot be said in bytes.
        """
        image = self._images.get(table.id)
        return self._encoder.encode(table, image.chains if image is not None else {})

    def read(self, table: TableId, *, fresh: bool) -> Mapping[str, tuple[bytes, ...]]:
        """Every chain of a table; chains that did not change are the same objects as before.

        :raises Unavailable: the kernel does not give the table.
        """
        return self._image(table, fresh=fresh).chains

    def apply(self, plan: TablePlan[bytes], done: Callable[[], object] = lambda: None, *, more: bool = False) -> None:
        """Commit a table's edits, all or none; the lock is taken unless it is held.

        In a transaction the commit may still be to come afterwards, of this table and the one before.

        :param done: called when it has ended, and well.
        :param more: whether another table comes in this transaction: otherwise there is nothing to do meanwhile.
        :raises TableChanged: the table is not what the plan was made from.
        :raises RuleRefused: the kernel refuses the result, or an edit does not fit.
        :raises Unavailable: lock, permission, memory.
        """
        if not plan.edits:
            return
        self._refuse_absent_sets(plan)
        with self._lock.hold():
            before = self._still(plan)
            replacement = self._assembler(plan.table).replacement(plan, before)
            is_large = replacement.image.size >= self._least_beside
            while is_large and sum(each.is_large for each in self._on_their_way) >= AT_A_TIME:
                self._settle_one()
            # Until it has succeeded nobody knows: a commit that reports an error may have been carried out.
            self._doubtful.add(plan.table)
            commit = partial(self._commit, self._tables(plan.table.family), plan, before, replacement)
            if self._on_their_way or (self._together and more and is_large):
                result = self._beside[plan.table.family].start(commit, self._last_of(plan.table.family))
                self._on_their_way.append(_Commit(plan.table, before, replacement.image, is_large, result, done))
                if not more:
                    self.settle()
            else:
                with self._told_apart(plan.table, before):
                    commit()
                self._remember(plan.table, replacement.image)
                done()

    def settle(self) -> None:
        """Wait until the kernel has what was applied.

        :raises TableChanged: the table that was applied last was changed by another program meanwhile.
        :raises RuleRefused: the kernel refuses it.
        :raises Unavailable: permission, memory.
        """
        while self._on_their_way:
            self._settle_one()

    def _settle_one(self) -> None:
        commit = self._on_their_way.popleft()
        try:
            with self._told_apart(commit.table, commit.before):
                commit.result.result()
        except BaseException:
            # Those of this family do not go in. Those of the other one are told of, if they do.
            while self._on_their_way:
                other = self._on_their_way.popleft()
                if other.result.exception() is None:
                    self._note(other)
            raise
        self._note(commit)

    def _note(self, commit: _Commit) -> None:
        """A table is in."""
        self._remember(commit.table, commit.after)
        commit.done()

    def _last_of(self, family: Family) -> Future[None] | None:
        """The commit of this family that goes in last of those on their way."""
        return next((each.result for each in reversed(self._on_their_way) if each.table.family == family), None)

    def read_sets(self, wanted: Mapping[str, IpSet] = NO_SETS) -> dict[str, IpSet]:
        """The sets that are ours by name.

        :param wanted: what they should be.
        :raises Unavailable: the kernel does not list them.
        """
        return self._sets.read(wanted)

    def prepare_sets(self, plan: SetPlan) -> None:
        """Make new sets and add members.

        :raises RuleRefused: a set or a member is refused.
        :raises TableChanged: a set is gone since it was read.
        """
        self._sets.prepare(plan)

    def finish_sets(self, plan: SetPlan) -> None:
        """Take members and sets away; what can go goes, whatever is refused.

        :raises RuleRefused: a set that must go is in use.
        :raises TableChanged: a set that must lose members is gone.
        """
        self._sets.finish(plan)

    def note_cut(self, ends: Mapping[str, Collection[str]]) -> None:
        """Remember ends of flows that were cut, in the sets of these names.

        :raises TableChanged: a set is gone.
        """
        self._sets.note_cut(ends)

    def cut_ends(self) -> dict[str, frozenset[str]]:
        """The ends that are noted, by the set.

        :raises Unavailable: the kernel does not list them.
        :raises TableChanged: a set is gone meanwhile.
        """
        return self._sets.cut_ends()

    def cut_ago(self, name: str, end: str) -> float | None:
        """How long ago a flow with this end was cut, in seconds. :raises Unavailable: the kernel does not say."""
        return self._sets.cut_ago(name, end)

    def describe(self, table: TableId, key: bytes) -> str:
        """A rule as iptables-save writes it, which is asked about matches that are not ours."""
        rule = self.parse(table, key)
        known = not any(isinstance(each, Opaque) for each in (*rule.matches, rule.target))
        return (None if known else self._spelling(table, key)) or rule_text(rule, table.family)

    def _spelling(self, table: TableId, key: bytes) -> str:
        """What iptables-save says of a rule of a table as it was read last; empty: nothing."""
        spellings = self._spellings.setdefault(table, {})
        if key not in spellings and table in self._images:
            chains = self._images[table].chains
            for gone in spellings.keys() - set().union(*chains.values()):
                del spellings[gone]
            lines = saved_lines(table)
            for chain, keys in chains.items():
                if key in keys and len(keys) == len(lines.get(chain, ())):
                    spellings.update(zip(keys, lines[chain], strict=True))
        return spellings.setdefault(key, "")

    def parse(self, table: TableId, key: bytes) -> Rule:
        """A rule as a value; what our values cannot say of it is ``Opaque``."""
        return entry.decode(key, table.family, self._sets.name)

    def traced(self, family: Family, chain: str, handle: int) -> None:
        """Nothing: our rules are not in nf_tables."""

    def jumps_to(self, key: bytes) -> str | None:
        """The chain that a rule jumps or goes to."""
        return entry.jumps_to(key)

    def counters(self, table: TableId) -> dict[str, CountedChain]:
        """A table as it is now, with the counters of its rules and the policies of built-in chains.

        :raises Unavailable: the kernel does not give the table.
        """
        try:
            return self._tables(table.family).counters(table.name)
        except OSError as e:
            raise _unavailable(table, e) from e

    def _loaded(self, family: Family) -> list[TableId]:
        try:
            names = legacy.in_use(family, TABLES) or ()
        except OSError as e:
            raise Unavailable(f"IPv{family}: the kernel does not say which tables are in use: {e.strerror}") from e
        return [TableId(family, name) for name in TABLES if name in names]

    def _exists(self, table: TableId) -> bool:
        if table in self._missing:
            return False
        try:
            self._open(table.family).info(table.name)
        except OSError as e:
            if e.errno not in legacy.ABSENT:
                raise _unavailable(table, e) from e
            # Each question makes the kernel run modprobe: once is enough.
            self._missing.add(table)
            return False
        return True

    def _open(self, family: Family) -> KernelTables:
        if family not in self._kernel:
            self._kernel[family] = KernelTables(family)
        return self._kernel[family]

    def _tables(self, family: Family) -> KernelTables:
        try:
            return self._open(family)
        except OSError as e:
            raise Unavailable(f"cannot reach the IPv{family} tables: {e.strerror}") from e

    def _image(self, table: TableId, *, fresh: bool) -> Image:
        self._settle_before(table)
        remembered = self._images.get(table)
        if remembered is not None and not fresh and table not in self._doubtful and self._holds(table, remembered):
            return remembered
        return self._read(table)

    def _read(self, table: TableId) -> Image:
        remembered = self._images.get(table)
        try:
            image = self._tables(table.family).read(table.name, remembered, self._encoder.chains(table).get)
        except OSError as e:
            raise _unavailable(table, e) from e
        self._images[table] = image
        self._doubtful.discard(table)
        self._note_turn(table)
        return image

    def _settle_before(self, table: TableId) -> None:
        """A table is looked at: what is on its way into it has to be there."""
        if any(each.table == table for each in self._on_their_way):
            self.settle()

    def _still(self, plan: TablePlan[bytes]) -> Image:
        """The table as it is now, in which what the plan edits is as it was when the plan was made.

        The kernel itself would notice only that the number of rules is another one.
        """
        table = plan.table
        self._settle_before(table)
        remembered = self._images.get(table)
        if remembered is None or table in self._doubtful:
            raise TableChanged(f"{table} has to be read first")
        if self._read_in.get(table) == self._lock.turn:
            return remembered
        image = self._read(table)
        if image.chains is not remembered.chains:
            for chain in {edit.chain for edit in plan.edits}:
                if image.chains.get(chain) != remembered.chains.get(chain):
                    raise TableChanged(f"{table}: the chain {chain} was changed by another program")
            if (image.names, image.starts) != (remembered.names, remembered.starts):
                raise TableChanged(f"{table} was changed by another program")
        return image

    def _assembler(self, table: TableId) -> Assembler:
        if table not in self._assemblers:
            self._assemblers[table] = Assembler(table, partial(self._encoder.chains, table))
        return self._assemblers[table]

    @contextmanager
    def _told_apart(self, table: TableId, before: Image) -> Iterator[None]:
        """A commit is refused for what it is, or because somebody came between."""
        try:
            yield
        except RuleRefused as e:
            # libiptc adds the counters in a second call, which fails then.
            if not self._holds(table, before):
                raise TableChanged(f"{table} changed while it was committed") from e
            raise

    def _remember(self, table: TableId, after: Image) -> None:
        self._images[table] = after
        with suppress(Unavailable):
            if self._holds(table, after):
                self._doubtful.discard(table)
                self._note_turn(table)

    def _note_turn(self, table: TableId) -> None:
        """Note that nobody who takes the lock can have changed a table since, as long as this turn lasts."""
        self._read_in[table] = self._lock.turn if self._lock.held else -1

    def _holds(self, table: TableId, image: Image) -> bool:
        """Whether a table has the size that it had, which is cheap to ask and shows most changes."""
        try:
            info = self._tables(table.family).info(table.name)
        except OSError as e:
            raise _unavailable(table, e) from e
        return (info.entries, info.size) == (image.entries, image.size)

    def _refuse_absent_sets(self, plan: TablePlan[bytes]) -> None:
        if not self._sets.has_absent():
            return
        for chain, key in plan.coming():
            absent = self._sets.absent(entry.set_indexes(key, plan.table.family))
            if absent is not None:
                raise RuleRefused(f"{plan.table}: a rule of {chain} refers to the set {absent}: there is none")


def _unavailable(table: TableId, error: OSError) -> Unavailable:
    return Unavailable(f"{table}: the kernel does not give the table: {error.strerror}")
