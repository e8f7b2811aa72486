"""The backend itself: what is read, encoded and committed, and what is remembered in between."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

from nova_netagent.backend import RuleRefused, TableChanged
from nova_netagent.backend.nft import Batch, Netlink, expressions
from nova_netagent.backend.nft.commits import Commits, following
from nova_netagent.backend.nft.objects import Chain
from nova_netagent.backend.nft.objects import Family as NftFamily
from nova_netagent.backend.nft.objects import TableId as NftTable
from nova_netagent.backend.nft.watch import Watch
from nova_netagent.backend.nftables import allowances, dispatch, image, keys, layout, members, translations
from nova_netagent.backend.nftables.encoder import Encoder
from nova_netagent.backend.nftables.image import Image, Keys
from nova_netagent.backend.nftables.laid import STRAY, Laid, seen
from nova_netagent.backend.nftables.names import BASE_CHAINS, BEFORE_OTHERS, FILTER, Names
from nova_netagent.backend.nftables.transaction import TableEdits, edited
from nova_netagent.model.lineage import follow
from nova_netagent.netfilter.rule import (
    CUT_SECONDS,
    DROP,
    FAMILIES,
    Conntrack,
    Family,
    IpSet,
    Jump,
    Opaque,
    Physdev,
    Rule,
    Table,
    TableId,
)
from nova_netagent.netfilter.text import BUILTIN_CHAINS
from nova_netagent.plan.sets import SetPlan
from nova_netagent.plan.tables import AddChain, EncodedTable, RemoveChain, TablePlan

LOG = logging.getLogger(__name__)

TABLES = tuple(BUILTIN_CHAINS)
_FAMILIES: dict[Family, NftFamily] = {4: NftFamily.IP, 6: NftFamily.IP6}
_MUCH = 500
"""From so many messages on a transaction of ours is not listened to."""
_ATTEMPTS = 20
"""How often a transaction is sent again, or a table read, when others keep changing theirs."""

Counted = tuple[str | None, Sequence[tuple[int, int, bytes]]]


class NftablesBackend:
    """The tables ``ip W`` and ``ip6 W`` of the network namespace that the thread is in. One thread only.

    :param wrap_name: their name.
    :param owns_set: whether a set is ours by its name.
    :param commits: what others of this agent commit in nf_tables, in the same thread.
    """

    name = "nftables"
    atomic = True
    lead = BEFORE_OTHERS

    def __init__(self, wrap_name: str, owns_set: Callable[[str], bool], commits: Commits | None = None) -> None:
        self._commits = commits or Commits()
        self.see_with = f"nft list table ip {wrap_name} (IPv6: nft list table ip6 {wrap_name})"
        self.lock_wait = 0.0
        self._wrap_name = wrap_name
        self._owns_set = owns_set
        self._names = Names(wrap_name)
        self._root = f"{wrap_name}-local"
        self._encoder = Encoder(self._names)
        self._netlink: Netlink | None = None
        self._watch: Watch | None = None
        self._generation: int | None = None
        """In which the images are right; ``None``: they were never read, or are not to be trusted."""
        self._images: dict[Family, Image] = {}
        self._chains: dict[TableId, Mapping[str, Keys]] = {}
        """The tables of the compiler, as far as anybody asked for them since the images were read."""
        self._read: set[TableId] = set()
        """Those that may be edited."""
        self._told: dict[str, _Told] = {}
        self._shapes: dict[Family, dict[str, dispatch.Shape]] = {}
        """By family and map, what kind of entries it has, as far as any were seen."""
        self._meddled = False
        self._able: dict[TableId, bool] = {}
        self._open: _Transaction | None = None

    def close(self) -> None:
        """Close the socket; what was remembered is forgotten."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self._forget()

    def tables(self, families: Iterable[Family] = FAMILIES) -> list[TableId]:
        """The tables for which this kernel can hold base chains; nothing is left of the question.

        :raises Unavailable: the kernel cannot be asked.
        """
        return [table for family in families for name in TABLES if self._can(table := TableId(family, name))]

    def loaded_tables(self) -> list[TableId]:
        """Those of them that are in use: where anything of ours can be."""
        self._refresh()
        return [TableId(family, name) for family, known in self._images.items() if known.exists for name in TABLES]

    def locked(self) -> AbstractContextManager[None]:
        """There is no lock: a transaction that was made from another state of the ruleset is refused."""
        return nullcontext()

    def meddled(self) -> bool:
        """Whether others changed our tables, since this was asked last.

        :raises BackendError: the kernel does not say.
        """
        self._refresh()
        meddled, self._meddled = self._meddled, False
        return meddled

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is edited inside is committed at the end of the block, all of it or nothing.

        :raises TableChanged: somebody changed anything of nf_tables in between.
        :raises RuleRefused: the kernel refuses it as it stands.
        :raises Unavailable: the kernel cannot do it now.
        """
        if self._open is not None:
            yield
            return
        self._refresh()
        self._open = _Transaction(self._images, self._chains, self._told, self._handles)
        try:
            yield
            self._commit(self._open)
        except BaseException:
            # Not all that changes our tables counts a generation: one that its owner leaves is gone without.
            self._forget()
            raise
        finally:
            self._open = None

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
        self._refresh()
        self._read.add(table)
        return self._chains_of(table)

    def apply(self, plan: TablePlan[bytes]) -> None:
        """Edit a table, in the transaction that is open or in one of its own.

        :raises TableChanged: the table is not what the plan was made from.
        :raises RuleRefused: the kernel refuses the result, or an edit does not fit.
        :raises Unavailable: the kernel cannot do it now.
        """
        if not plan.edits:
            return
        with self.transaction():
            if self._open is None or plan.table not in self._read:
                raise TableChanged(f"{plan.table} was changed by another program, or never read")
            self._edit(plan, self._open)

    def read_sets(self) -> dict[str, IpSet]:
        """The sets of groups that are ours by name. :raises Unavailable: the kernel does not list them."""
        self._refresh()
        found = {}
        for family, known in self._images_now().items():
            for name, each in known.sets.items():
                if not self._owns_set(name):
                    continue
                if each.fits(members.described(name, family)):
                    found[name] = IpSet(name, family, self._members(name, each.elements, family))
                elif each.fits(members.ends_of_flows(name, family)):
                    found[name] = IpSet(name, family, frozenset(), type="hash:ip,port,ip")
        return found

    def prepare_sets(self, plan: SetPlan) -> None:
        """Make new sets, and have every set hold its members.

        :raises RuleRefused: a set or a member is refused.
        :raises TableChanged: a set is gone since it was read.
        """
        if not (plan.create or plan.add):
            return
        with self.transaction():
            assert self._open is not None
            for each in plan.create:
                self._open.table(each.family).add_set(members.set_of(each))
                if each.type == "hash:net":
                    self._fill(each)
            for name, new in plan.add.items():
                self._change_members(name, new, plan.remove.get(name, frozenset()))

    def finish_sets(self, plan: SetPlan) -> None:
        """Take members and sets away.

        :raises RuleRefused: a set that must go is in use.
        :raises TableChanged: a set that must lose members is gone.
        """
        alone = self._open is None
        with self.transaction():
            assert self._open is not None
            for name, gone in plan.remove.items():
                self._change_members(name, frozenset(), gone)
            for name in plan.destroy:
                for family, known in self._open.images.items():
                    if name in known.sets:
                        self._open.table(family).remove_set(name)
            opened = self._open
        if alone and opened.in_use:
            raise RuleRefused(f"cannot remove the set {', '.join(opened.in_use)}: it is in use")

    def note_cut(self, ends: Mapping[str, Collection[str]]) -> None:
        """Remember ends of flows that were cut, in the sets of these names; a full set forgets all others.

        :raises TableChanged: a set is gone.
        """
        if not ends:
            return
        try:
            self._note_cut(ends, forget=False)
        except RuleRefused as error:
            LOG.warning("%s: what was noted before is forgotten", error)
            self._note_cut(ends, forget=True)

    def cut_ago(self, name: str, end: str) -> float | None:
        """How long ago a flow with this end was cut, in seconds. :raises Unavailable: the kernel does not say."""
        family: Family = 6 if ":" in end.partition(",")[0] else 4
        left = self._kernel.remaining(self._table(family), name, members.end(end).key)
        return None if left is None else CUT_SECONDS - left

    def _note_cut(self, ends: Mapping[str, Collection[str]], *, forget: bool) -> None:
        with self.transaction():
            assert self._open is not None
            for name, noted in ends.items():
                family = next((each for each, known in self._open.images.items() if name in known.sets), None)
                if family is None:
                    raise TableChanged(f"the set {name} is gone")
                edits = self._open.table(family)
                if forget:
                    edits.forget(name)
                edits.note(members.ends_of_flows(name, family), list(map(members.end, noted)))

    def describe(self, table: TableId, key: bytes) -> str:
        """A rule as iptables-save writes it, if it is ours."""
        return key.decode() if key == STRAY else keys.described(key, table.family)

    def parse(self, table: TableId, key: bytes) -> Rule:
        """A rule as a value; of one that is not ours only where it leads is known, not what it asks for."""
        if isinstance(key, keys.Key):
            return key.rule
        if key == STRAY:
            return Rule(Opaque("", 0, b""), matches=(Opaque("strays", 0, b""),))
        chain = self.jumps_to(key)
        target = keys.verdict(key) if chain is None else Jump(chain)
        return Rule(target or Opaque("", 0, b""), matches=(Opaque("nft", 0, key),))

    def traced(self, family: Family, chain: str, handle: int) -> tuple[TableId, str, bytes] | None:
        """The rule that has this handle, by its table, chain and key.

        :raises Unavailable: the kernel does not say.
        """
        listed = self._kernel.rules(self._table(family), chain)
        found = next((keys.uncounted(each.expressions) for each in listed if each.handle == handle), None)
        if found is None:
            return None
        table, name = self._names.logical(chain)
        return TableId(family, table), name, found

    def jumps_to(self, key: bytes) -> str | None:
        """The chain that a rule jumps or goes to."""
        if isinstance(key, keys.Key):
            target = key.rule.target
            return target.chain if isinstance(target, Jump) else None
        found = None if key == STRAY else keys.jumps_to(key)
        return None if found is None else self._names.logical(found)[1]

    def counters(self, table: TableId) -> dict[str, Counted]:
        """A table as it is now, with the counters of its rules; what is in maps is not counted.

        :raises Unavailable: the kernel does not say.
        """
        self._refresh()
        nft = self._table(table.family)
        counts: dict[str, list[tuple[int, int, bytes]]] = {}
        for each in self._kernel.rules(nft):
            packets, size = expressions.counted(each.expressions)
            counts.setdefault(each.chain, []).append((packets, size, keys.uncounted(each.expressions)))
        found: dict[str, Counted] = {}
        for name, known in self._chains_of(table).items():
            physical = self._names.physical(table.name, name)
            listed = {bytes(key): (packets, size) for packets, size, key in counts.get(physical, ())}
            policy = "ACCEPT" if name in BUILTIN_CHAINS[table.name] else None
            found[name] = (policy, [(*listed.get(bytes(key), (0, 0)), key) for key in known])
        return found

    # --- the kernel

    @property
    def _kernel(self) -> Netlink:
        if self._netlink is None:
            self._netlink = Netlink()
        return self._netlink

    def _table(self, family: Family) -> NftTable:
        return NftTable(_FAMILIES[family], self._wrap_name)

    def _can(self, table: TableId) -> bool:
        """Whether the kernel takes a table's base chains, and what our rules there ask."""
        if table not in self._able:
            batch = Batch()
            trial = NftTable(_FAMILIES[table.family], f"{self._wrap_name}.trial")
            batch.add_table(trial)
            for chain in BUILTIN_CHAINS[table.name]:
                batch.add_chain(trial, BASE_CHAINS[f"{table.name}-{chain}"])
            if table.name != "nat":
                batch.add_chain(trial, Chain("trial"))
                batch.add_encoded_rule(trial, "trial", _trial(table.family), what=lambda: "a rule about a bridge port")
            try:
                self._kernel.check(batch)
            except RuleRefused as error:
                LOG.info("this kernel cannot have %s in nf_tables: %s", table, error)
                self._able[table] = False
            else:
                self._able[table] = True
        return self._able[table]

    def _refresh(self) -> None:
        """Have the images right: read again what others changed since.

        :raises TableChanged: they did so while a transaction of ours was made, or keep doing so.
        """
        generation = self._kernel.generation()
        if generation == self._generation:
            return
        heard = None if self._generation is None else self._heard(generation)
        if heard is not None and not heard[1]:
            self._generation = heard[0]  # what was changed is not ours
            return
        if self._open is not None and self._open.edited:
            self._forget()
            raise TableChanged("nf_tables was changed by another program")
        self._read.clear()
        self._chains = {}
        before = self._images
        self._generation, self._images = self._read_all() if heard is None else heard
        self._meddled |= any(self._images[family].differs(known) for family, known in before.items())
        if self._open is not None:
            self._open.begin(self._images, self._chains)

    def _heard(self, generation: int) -> tuple[int, dict[Family, Image]] | None:
        """The images as they are now, by what was heard of others' changes; empty when none was of ours.

        ``None`` when something went unheard.
        """
        images, ours = dict(self._images), False
        for _ in range(_ATTEMPTS):
            changes = None if self._watch is None else self._watch.changes(generation, list(map(self._table, FAMILIES)))
            if changes is None:
                return None
            for family, known in images.items():
                if known.table in changes:
                    images[family] = image.read_again(self._kernel, known, changes[known.table])
                    ours = True
            now, generation = generation, self._kernel.generation()
            if now == generation:
                return generation, images if ours else {}
        raise TableChanged("the ruleset keeps changing while it is read")

    def _read_all(self) -> tuple[int, dict[Family, Image]]:
        if self._watch is None:
            self._watch = Watch()
        else:
            self._watch.join()
        return self._kernel.steadily(
            lambda: {family: image.read(self._kernel, self._table(family)) for family in FAMILIES}
        )

    def _forget(self) -> None:
        self._generation = None
        self._images = {}
        self._chains = {}
        self._read.clear()

    def _handles(self, family: Family, physical: str, rules: Keys) -> tuple[int, ...]:
        """The handles of a chain's rules."""
        listed = self._kernel.rules(self._table(family), physical)
        if tuple(keys.uncounted(each.expressions) for each in listed) != rules and len(listed) != len(rules):
            raise TableChanged(f"the chain {physical} was changed by another program")
        return tuple(each.handle for each in listed)

    def _commit(self, opened: "_Transaction") -> None:
        if not opened.edited:
            return
        assert self._generation is not None
        try:
            self._send(opened.batch(destroy=True))
        except RuleRefused:
            if not opened.destroys:
                raise
            self._commit_keeping_sets(opened)
        else:
            self._remember(opened)

    def _send(self, batch: Batch) -> None:
        """Commit; changes of what is not ours make no difference."""
        deaf = len(batch) > _MUCH and self._watch is not None
        for _ in range(_ATTEMPTS):
            assert self._generation is not None
            if deaf:
                # The kernel would take as long to tell us of our changes as to make them.
                assert self._watch is not None
                self._watch.leave()
            try:
                self._kernel.commit(batch, generation=self._generation)
                return
            except TableChanged:
                heard = None if deaf else self._heard(self._kernel.generation())
                if heard is None or heard[1]:
                    self._forget()
                    raise
                self._generation = heard[0]
        raise TableChanged("nf_tables keeps being changed by other programs")

    def _commit_keeping_sets(self, opened: "_Transaction") -> None:
        """Perhaps a set that must go is in use: try without, and then each alone."""
        assert self._generation is not None
        generation = self._generation
        batch = opened.batch(destroy=False)
        if len(batch):
            self._kernel.commit(batch, generation=generation)
            self._note_commit(generation)
            generation = following(generation)
        for family, name in opened.going():
            alone = Batch()
            alone.delete_set(self._table(family), name)
            try:
                self._kernel.commit(alone, generation=generation)
            except RuleRefused as error:
                LOG.warning("%s", error)
                opened.in_use.append(name)
            else:
                self._note_commit(generation)
                generation = following(generation)
        self._forget()

    def _remember(self, opened: "_Transaction") -> None:
        # The kernel took it on this generation and no other, so the next one is ours.
        assert self._generation is not None
        self._note_commit(self._generation)
        self._generation = following(self._generation)
        for each in opened.edits.values():
            each.done()
        self._images, self._chains, self._told = opened.images, opened.chains, opened.told
        heard = self._watch is not None and self._watch.skip(self._generation)
        if not heard and self._kernel.generation() != self._generation:
            self._forget()  # somebody came between

    def _note_commit(self, generation: int) -> None:
        self._commits.note(generation, list(map(self._table, FAMILIES)))

    # --- chains

    def _images_now(self) -> dict[Family, Image]:
        return self._images if self._open is None else self._open.images

    def _chains_of(self, table: TableId) -> Mapping[str, Keys]:
        chains = self._chains if self._open is None else self._open.chains
        if table not in chains:
            chains[table] = self._seen(table)
        return chains[table]

    def _seen(self, table: TableId) -> dict[str, Keys]:
        """A table of the compiler, told from the image."""
        known = self._images_now()[table.family]
        found = image.logical_chains(known, table.name, self._names, lambda name: self._encoder.keys(table, name))
        if table.name == FILTER:
            desired = {name: each for name, each in self._encoder.chains(table).items() if self._dispatches(name, each)}
            found |= layout.seen_dispatch(known, self._root, desired, table.family)
        for name, each in self._encoder.chains(table).items():
            physical = self._names.physical(table.name, name)
            wanted = self._laid(table, name, physical, each)
            if wanted is not None:
                told = seen(known, physical, each, wanted, _beside(known, physical))
                found |= {} if told is None else {name: told}
        return found

    def _dispatches(self, chain: str, known: Keys) -> bool:
        """Whether a chain of the filter table is the root of the dispatch or a node of it."""
        head = f"{self._wrap_name}-"
        return dispatch.is_root(chain, head) or (dispatch.is_node(chain, head) and layout.is_dispatched(known))

    def _laid(self, table: TableId, chain: str, physical: str, known: Keys) -> Laid | None:
        """How a chain stands that has sets or maps beside it; ``None`` where its rules are its rules."""
        head = f"{self._wrap_name}-"
        if table.name == "nat" and translations.has_maps(chain, head):
            return translations.lay_out(known, physical, table.family)
        if allowances.has_set(chain, head):
            egress = allowances.is_egress(chain, head)
            place = partial(self._names.physical, table.name)
            return allowances.lay_out(known, physical, table.family, place, egress)
        return None

    def _edit(self, plan: TablePlan[bytes], opened: "_Transaction") -> None:
        table = plan.table
        _refuse_builtin(plan)
        chains = self._chains_of(table)
        after = edited(plan.edits, chains, str(table))
        edits = opened.table(table.family)
        put: dict[str, Keys] = {}
        entered: list[tuple[Keys, Keys]] = []
        for name, rules in after.items():
            before = chains.get(name)
            if rules is not None:
                encoded = self._encoder.keys(table, name)
                put[name] = rules = encoded if encoded == rules and encoded is not None else rules
            if table.name == FILTER and (self._dispatches(name, before or ()) or self._dispatches(name, rules or ())):
                entered.append((before or (), rules or ()))
                if dispatch.is_root(name, f"{self._wrap_name}-"):
                    continue
                before = before if before and not layout.is_dispatched(before) else None
                rules = rules if rules and not layout.is_dispatched(rules) else None
                if before is None and rules is None:
                    continue
            physical = self._names.physical(table.name, name)
            laid = self._laid(table, name, physical, rules or ())
            if laid is None:
                edits.set_rules(physical, rules)
            else:
                _edit_laid(physical, None if rules is None else laid, edits)
        now = follow(chains, put, [name for name, rules in after.items() if rules is None and name in chains])
        if entered:
            self._edit_dispatch(table, now, entered, edits)
        opened.chains[table] = now

    def _edit_dispatch(
        self, table: TableId, now: Mapping[str, Keys], entered: Sequence[tuple[Keys, Keys]], edits: TableEdits
    ) -> None:
        family, root = table.family, self._root
        stray = any(STRAY in before for before, _ in entered)
        known = edits.image.sets
        if stray:
            nodes = [each for name, each in now.items() if self._dispatches(name, each)]
            wanted, shapes = layout.entries(nodes, root, family)
            wanted = {**{name: {} for name in layout.maps_of(known, root)}, **wanted}
            shapes = self._shapes[family] = {**self._shapes.get(family, {}), **shapes}
            for name, elements in wanted.items():
                if elements:
                    self._have_map(shapes[name], edits)
                if name in shapes and name in known:
                    edits.set_elements(dispatch.map_of(shapes[name], root, family), elements)
        else:
            gone, shapes = layout.entries((before for before, _ in entered), root, family)
            come, come_shapes = layout.entries((after for _, after in entered), root, family)
            shapes = self._shapes[family] = {**self._shapes.get(family, {}), **shapes, **come_shapes}
            for name in {**gone, **come}:
                old, new = gone.get(name, {}), come.get(name, {})
                if new:
                    self._have_map(shapes[name], edits)
                described = dispatch.map_of(shapes[name], root, family)
                edits.edit_elements(
                    described,
                    [each for key, each in new.items() if key not in old or old[key].data != each.data],
                    [each for key, each in old.items() if key not in new or new[key].data != each.data],
                )
        maps = layout.maps_of(known, root)
        used = {name for name, each in maps.items() if name in shapes and each.elements}
        rules = now.get(root)
        looked_into = [shapes[name] for name in used]
        edits.set_rules(root, None if rules is None else layout.root_rules(rules, looked_into, root, family))
        for name in maps.keys() - used:
            edits.remove_map(name)

    def _have_map(self, shape: dispatch.Shape, edits: TableEdits) -> None:
        described = dispatch.map_of(shape, self._root, edits.family)
        known = edits.image.sets.get(described.name)
        if known is None or not known.fits(described):
            edits.add_set(described)

    # --- sets

    def _members(self, name: str, elements: image.Elements, family: Family) -> frozenset[str]:
        told = (self._told if self._open is None else self._open.told).get(name)
        if told is not None and (told.elements is elements or told.elements.keys() == elements.keys()):
            return told.members
        return members.prefixes(elements, family)

    def _change_members(self, name: str, add: frozenset[str], remove: frozenset[str]) -> None:
        assert self._open is not None
        for family, known in self._open.images.items():
            if name in known.sets:
                _refuse_family(name, family, add)
                held = known.sets[name].elements
                before = self._members(name, held, family)
                change = members.change(before, add - before, remove & before - add)
                edits = self._open.table(family)
                described = members.described(name, family)
                if change is None or members.is_torn(held, change):
                    edits.set_elements(described, members.elements((before - remove) | add))
                else:
                    edits.edit_elements(described, *change)
                self._open.told[name] = _Told((before - remove) | add, edits.image.sets[name].elements)
                return
        raise TableChanged(f"the set {name} is gone")

    def _fill(self, each: IpSet) -> None:
        """Have a new set hold its members."""
        assert self._open is not None
        _refuse_family(each.name, each.family, each.members)
        edits = self._open.table(each.family)
        edits.set_elements(members.described(each.name, each.family), members.elements(each.members))
        self._open.told[each.name] = _Told(each.members, edits.image.sets[each.name].elements)


class _Told(NamedTuple):
    """What a set was told to hold, and what it held then."""

    members: frozenset[str]
    elements: image.Elements


class _Transaction:
    """What is edited in one go, and what there will be afterwards."""

    def __init__(
        self,
        images: Mapping[Family, Image],
        chains: Mapping[TableId, Mapping[str, Keys]],
        told: Mapping[str, _Told],
        handles: Callable[[Family, str, Keys], tuple[int, ...]],
    ) -> None:
        self.begin(images, chains)
        self.told = dict(told)
        self.edits: dict[Family, TableEdits] = {}
        self.in_use: list[str] = []
        self._handles = handles

    def begin(self, images: Mapping[Family, Image], chains: Mapping[TableId, Mapping[str, Keys]]) -> None:
        """Begin with what there is, before anything is edited."""
        self.images = {family: known.copy() for family, known in images.items()}
        self.chains = dict(chains)

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
            self.edits[family] = TableEdits(
                self.images[family], family, lambda chain, rules: self._handles(family, chain, rules)
            )
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


def _edit_laid(physical: str, laid: Laid | None, edits: TableEdits) -> None:
    known = edits.image.sets
    maps = {} if laid is None else laid.maps
    for name, (described, elements) in maps.items():
        if name not in known or not known[name].fits(described):
            edits.add_set(described)
        edits.set_elements(described, elements)
    edits.set_rules(physical, None if laid is None else laid.rules)
    for name in _beside(edits.image, physical):
        if name not in maps:
            edits.remove_map(name)


def _beside(known: Image, physical: str) -> list[str]:
    """The sets and maps that belong to a chain, of those that are there."""
    names = [f"{physical}-allowed"] if f"{physical}-allowed" in known.sets else []
    return names or translations.maps_of(known, physical)


def _trial(family: Family) -> bytes:
    """A rule that asks what only some kernels can answer."""
    asked = (Physdev(incoming="trial"), Conntrack(frozenset({"NEW"})))
    return keys.key(Rule(DROP, matches=asked), family, str)


def _refuse_family(name: str, family: Family, wanted: Iterable[str]) -> None:
    if any((":" in member) != (family == 6) for member in wanted):
        raise RuleRefused(f"the set {name} is of the family IPv{family}")


def _refuse_builtin(plan: TablePlan[bytes]) -> None:
    for edit in plan.edits:
        if isinstance(edit, AddChain):
            keys.refuse_name(edit.chain)
        if isinstance(edit, AddChain | RemoveChain) and edit.chain in BUILTIN_CHAINS[plan.table.name]:
            raise RuleRefused(f"{plan.table}: {edit.chain} is a built-in chain")
