"""The backend itself: what it is asked, and who does it."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from nova_netagent.backend import NO_SETS, BackendError, RuleRefused, TableChanged, seen_with
from nova_netagent.backend.nft.commits import Commits
from nova_netagent.backend.nftables import keys, members, sets, telling
from nova_netagent.backend.nftables.chains import Chains
from nova_netagent.backend.nftables.commit import commit
from nova_netagent.backend.nftables.counters import Counted, Counters, counted
from nova_netagent.backend.nftables.encoder import Encoder
from nova_netagent.backend.nftables.image import Keys
from nova_netagent.backend.nftables.mirror import Mirror
from nova_netagent.backend.nftables.names import BEFORE_OTHERS, Names
from nova_netagent.backend.nftables.transaction import Transaction
from nova_netagent.backend.nftables.trial import able
from nova_netagent.netfilter.flow import family_of
from nova_netagent.netfilter.rule import CUT_SECONDS, FAMILIES, Family, IpSet, Rule, Table, TableId
from nova_netagent.netfilter.text import BUILTIN_CHAINS
from nova_netagent.plan.sets import SetPlan
from nova_netagent.plan.tables import EncodedTable, TablePlan

LOG = logging.getLogger(__name__)

TABLES = tuple(BUILTIN_CHAINS)


class NftablesBackend:
    """The tables ``ip W`` and ``ip6 W`` of the network namespace that the thread is in. One thread only.

    :param wrap_name: their name.
    :param owns_set: whether a set is ours by its name.
    :param commits: what others of this agent commit in nf_tables, in the same thread.
    """

    name = "nftables"
    atomic = True
    own_tables = True
    lead = BEFORE_OTHERS

    def __init__(
        self,
        wrap_name: str,
        owns_set: Callable[[str], bool],
        commits: Commits | None = None,
    ) -> None:
        self._wrap_name = wrap_name
        self.lock_wait = 0.0
        self._owns_set = owns_set
        self._names = Names(wrap_name)
        self._encoder = Encoder(self._names)
        self._chains = Chains(self._names, self._encoder)
        self._mirror = Mirror(wrap_name, commits or Commits())
        self._able: dict[TableId, bool] = {}

    def close(self) -> None:
        """Close the socket; what was remembered is forgotten."""
        self._mirror.close()

    def see_with(self, families: Collection[Family]) -> str:
        """The command with which an operator sees our rules, which are in these families."""
        return seen_with(f"nft list table ip {self._wrap_name}", f"nft list table ip6 {self._wrap_name}", families)

    def tables(self, families: Iterable[Family] = FAMILIES) -> list[TableId]:
        """The tables for which this kernel can hold base chains; nothing is left of the question.

        :raises Unavailable: the kernel cannot be asked.
        """
        asked = [TableId(family, name) for family in families for name in TABLES]
        unknown = [table for table in asked if table not in self._able]
        if unknown:
            found = able(self._mirror.kernel, unknown, self._mirror.table)
            self._able |= {table: table in found for table in unknown}
        return [table for table in asked if self._able[table]]

    def loaded_tables(self) -> list[TableId]:
        """Those of them that are in use: where anything of ours can be."""
        self._mirror.refresh()
        images = self._mirror.held.images
        return [TableId(family, name) for family, known in images.items() if known.exists for name in TABLES]

    def locked(self) -> AbstractContextManager[None]:
        """There is no lock: a transaction that was made from another state of the ruleset is refused."""
        return nullcontext()

    def meddled(self) -> bool:
        """Whether others changed our tables, since this was asked last.

        :raises BackendError: the kernel does not say.
        """
        self._mirror.refresh()
        return self._mirror.meddled()

    def start_over(self) -> bool:
        """With the next transaction our tables go, with whatever others put in, and come anew: it is one of both."""
        self._mirror.start_over()
        return True

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is edited inside is committed at the end of the block, all of it or nothing.

        :raises TableChanged: somebody changed anything of nf_tables in between.
        :raises RuleRefused: the kernel refuses it as it stands.
        :raises Unavailable: the kernel cannot do it now.
        """
        with self._transaction():
            yield
        self._say_anew()

    def encode(self, table: Table) -> EncodedTable[bytes]:
        """A table's rules as keys.

        :raises RuleRefused: a rule that cannot be said.
        """
        return self._encoder.encode(table)

    def read(self, table: TableId, *, fresh: bool) -> Mapping[str, Keys]:
        """Every chain of a table; read anew whenever anybody changed anything of nf_tables.

        :raises Unavailable: the kernel does not say.
        :raises TableChanged: it keeps changing.
        """
        self._mirror.refresh()
        self._mirror.read.add(table)
        return self._chains.of(table, self._mirror.now)

    def apply(self, plan: TablePlan[bytes], done: Callable[[], object] = lambda: None, *, more: bool = False) -> None:
        """Edit a table, in the transaction that is open or in one of its own.

        :raises TableChanged: the table is not what the plan was made from.
        :raises RuleRefused: the kernel refuses the result, or an edit does not fit.
        :raises Unavailable: the kernel cannot do it now.
        """
        if not plan.edits:
            return
        with self._transaction() as opened:
            if plan.table not in self._mirror.read:
                raise TableChanged(f"{plan.table} was changed by another program, or never read")
            self._chains.edit(plan, opened)
        done()

    def settle(self) -> None:
        """Nothing: it is for the end of the transaction."""

    def read_sets(self, wanted: Mapping[str, IpSet] = NO_SETS) -> dict[str, IpSet]:
        """The sets of groups that are ours by name.

        :param wanted: what they should be.
        :raises Unavailable: the kernel does not list them.
        """
        self._mirror.refresh()
        return sets.read(self._mirror.now, self._owns_set, wanted)

    def prepare_sets(self, plan: SetPlan) -> None:
        """Make new sets, and have every set hold its members.

        :raises RuleRefused: a set or a member is refused.
        :raises TableChanged: a set is gone since it was read.
        """
        if not (plan.create or plan.add):
            return
        with self._transaction() as opened:
            sets.prepare(plan, opened)

    def finish_sets(self, plan: SetPlan) -> None:
        """Take members and sets away.

        :raises RuleRefused: a set that must go is in use.
        :raises TableChanged: a set that must lose members is gone.
        """
        alone = self._mirror.open is None
        with self._transaction() as opened:
            sets.finish(plan, opened)
        if alone and opened.in_use:
            raise RuleRefused(f"cannot remove the set {', '.join(opened.in_use)}: it is in use")

    def note_cut(self, ends: Mapping[str, Collection[str]]) -> None:
        """Remember ends of flows that were cut, in the sets of these names; a full set forgets all others.

        :raises TableChanged: a set is gone.
        """
        if not ends:
            return
        try:
            with self._transaction() as opened:
                sets.note_cut(ends, opened, forget=False)
        except RuleRefused as error:
            LOG.warning("%s: what was noted before is forgotten", error)
            with self._transaction() as opened:
                sets.note_cut(ends, opened, forget=True)

    def cut_ends(self) -> dict[str, frozenset[str]]:
        """The ends that are noted, by the set.

        :raises Unavailable: the kernel does not list them.
        :raises TableChanged: they keep changing.
        """
        self._mirror.refresh()
        found = sets.of_ends(self._mirror.now, self._owns_set)
        return {name: frozenset(self._noted(family, name)) for family, name in found}

    def _noted(self, family: Family, name: str) -> Iterator[str]:
        for each in self._mirror.kernel.elements(self._mirror.table(family), name):
            yield members.end_text(each.key, family)

    def cut_ago(self, name: str, end: str) -> float | None:
        """How long ago a flow with this end was cut, in seconds. :raises Unavailable: the kernel does not say."""
        left = self._mirror.kernel.remaining(self._mirror.table(family_of(end)), name, members.end(end).key)
        return None if left is None else CUT_SECONDS - left

    def describe(self, table: TableId, key: bytes) -> str:
        """A rule as iptables-save writes it, if it is ours."""
        return telling.described(key, table.family)

    def parse(self, table: TableId, key: bytes) -> Rule:
        """A rule as a value; of one that is not ours only where it leads is known, not what it asks for."""
        return telling.parsed(key, self._names)

    def jumps_to(self, key: bytes) -> str | None:
        """The chain that a rule jumps or goes to."""
        return telling.jumps_to(key, self._names)

    def traced(self, family: Family, chain: str, handle: int) -> tuple[TableId, str, bytes] | None:
        """The rule that has this handle, by its table, chain and key.

        :raises Unavailable: the kernel does not say.
        """
        listed = self._mirror.kernel.rules(self._mirror.table(family), chain)
        found = next((keys.uncounted(each.expressions) for each in listed if each.handle == handle), None)
        if found is None:
            return None
        table, name = self._names.logical(chain)
        return TableId(family, table), name, found

    def counters(self, table: TableId) -> Mapping[str, Counted]:
        """A table as it is now; a chain's counters are read when they are asked for.

        What is in a set or map is counted with all that is there, where the rule that looks there counts.

        :raises Unavailable: the kernel does not say, now or later.
        """
        self._mirror.refresh()
        chains = self._chains.of(table, self._mirror.now)
        return Counters(chains, lambda name, known: self._counted(table, name, known))

    def _counted(self, table: TableId, name: str, known: Keys) -> Counted:
        physical = self._names.physical(table.name, name)
        listed = self._mirror.kernel.rules(self._mirror.table(table.family), physical)
        counts = {keys.uncounted(each.expressions): each.expressions for each in listed}
        policy = "ACCEPT" if name in BUILTIN_CHAINS[table.name] else None
        return policy, list(counted(known, counts, physical, table.family))

    @contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        """The transaction that is open, or a new one that is committed at the end of the block."""
        mirror = self._mirror
        if mirror.open is not None:
            yield mirror.open
            return
        mirror.refresh()
        opened = mirror.begin()
        try:
            yield opened
            commit(opened, mirror)
        except BaseException:
            # Not all that changes our tables counts a generation: one that its owner leaves is gone without.
            mirror.forget()
            raise
        finally:
            mirror.open = None

    def _say_anew(self) -> None:
        """Have the comments say what rules are there for that stayed: by a transaction of its own, after the other."""
        renamed, self._encoder.renamed = self._encoder.renamed, set()
        if not renamed:
            return
        try:
            with self._transaction() as opened:
                for table, name in sorted(renamed):
                    self._chains.say_anew(table, name, opened, self._mirror.kernel)
        except RuleRefused as error:
            LOG.warning("comments of rules that stayed say what these were there for before: %s", error)
        except BackendError as error:
            self._encoder.renamed |= renamed
            self._mirror.doubt()  # nobody else looks at what was found
            LOG.info("comments of rules that stayed are said anew with the next change: %s", error)
