"""The compiler's chains: told from what our tables hold, and edited there, each as it is laid out."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial

from nova_netagent.backend import RuleRefused
from nova_netagent.backend.nft import Netlink
from nova_netagent.backend.nftables import allowances, comments, dispatch, image, keys, layout, translations
from nova_netagent.backend.nftables.edits import TableEdits, edited
from nova_netagent.backend.nftables.encoder import Encoder
from nova_netagent.backend.nftables.image import Image, Keys
from nova_netagent.backend.nftables.kinds import FORMER_TRANSLATING, LAID, Kind, kind
from nova_netagent.backend.nftables.laid import STRAY, Laid, seen
from nova_netagent.backend.nftables.names import FILTER, Names
from nova_netagent.backend.nftables.notes import Reasons, reasons
from nova_netagent.backend.nftables.transaction import Held, Transaction
from nova_netagent.model.lineage import beside, changed, follow
from nova_netagent.netfilter.rule import Family, TableId
from nova_netagent.netfilter.text import BUILTIN_CHAINS
from nova_netagent.plan.tables import AddChain, RemoveChain, TablePlan


class Chains:
    """The chains of one agent.

    :param encoder: who knows them as they were encoded last.
    """

    def __init__(self, names: Names, encoder: Encoder) -> None:
        self._names = names
        self._encoder = encoder
        self._head = f"{names.wrap_name}-"
        self._root = f"{names.wrap_name}-local"
        self._shapes: dict[Family, dict[str, dispatch.Shape]] = {}
        """By family and map, what kind of entries it has."""

    def of(self, table: TableId, held: Held) -> Mapping[str, Keys]:
        """A table of the compiler, by chain."""
        if table not in held.chains:
            known = held.images[table.family]
            held.chains[table] = self._seen(table, known)
            if not known.chains:  # nor are there any of other tables: they need not be looked for among what comes
                for name in BUILTIN_CHAINS:
                    other = TableId(table.family, name)
                    held.chains.setdefault(other, self._seen(other, known))
        return held.chains[table]

    def edit(self, plan: TablePlan[bytes], opened: Transaction) -> None:
        """Edit a table.

        :raises RuleRefused: an edit does not fit.
        :raises TableChanged: the table is not what the plan was made from.
        """
        table = plan.table
        _refuse_builtin(plan)
        chains = self.of(table, opened.held)
        after = edited(plan.edits, chains, str(table))
        edits = opened.table(table.family)
        desired = self._encoder.chains(table)
        put: dict[str, Keys] = {}
        entered: list[tuple[Keys, Keys]] = []
        for name, rules in after.items():
            before, physical = chains.get(name), self._names.physical(table.name, name)
            of, known = self._kind(table, name), None
            if rules is not None:
                encoded = self._encoder.keys(table, name)
                if encoded is not None and encoded == rules:
                    rules = encoded
                    known = reasons(self._encoder.chain(table, name)) if name in desired else None
                put[name] = rules
            if of is not Kind.PLAIN and (_dispatches(of, before or ()) or _dispatches(of, rules or ())):
                entered.append((before or (), rules or ()))
                if of is Kind.ROOT:
                    continue
                stands = physical in edits.image.chains
                if rules is not None and layout.is_dispatched(rules) and (rules or not stands):
                    rules = None
                if rules is None and not stands:
                    continue
            laid = self._laid(table, of, physical, rules or (), known)
            if laid is None:
                edits.set_rules(physical, rules, known)
            else:
                _edit_laid(of, physical, None if rules is None else laid, edits)
        gone = [name for name, rules in after.items() if rules is None and name in chains]
        now = _of_its_line(chains, put, gone, desired)
        if entered:
            self._edit_dispatch(table, now, entered, edits)
        opened.held.chains[table] = now

    def say_anew(self, table: TableId, name: str, opened: Transaction, kernel: Netlink) -> None:
        """Have the comments of a chain say what its rules are there for now.

        :raises Unavailable: the kernel does not list them.
        """
        rules = self._encoder.chains(table).get(name)
        if rules is None:
            return  # it is gone, and was on its way
        physical, known = self._names.physical(table.name, name), reasons(self._encoder.chain(table, name))
        laid = self._laid(table, self._kind(table, name), physical, rules, known) or Laid(rules, {}, known)
        comments.say_anew(physical, laid, opened.table(table.family), kernel)

    def _seen(self, table: TableId, known: Image) -> dict[str, Keys]:
        """A table of the compiler, told from the image."""
        found = image.logical_chains(known, table.name, self._names, partial(self._encoded_rules, table))
        former = f"{self._head}{FORMER_TRANSLATING}"
        if table.name == FILTER and former not in found and translations.maps_of(known, former):
            found[former] = (STRAY,)  # the chain was swept without its maps
        if not known.chains:
            return found
        chains = self._encoder.chains(table)
        if table.name == FILTER:
            desired = {name: each for name, each in chains.items() if _dispatches(self._kind(table, name), each)}
            dispatched, self._shapes[table.family] = layout.seen_dispatch(known, self._root, desired, table.family)
            found |= dispatched
        for name, each in chains.items():
            of = self._kind(table, name)
            if of not in LAID:
                continue
            physical = self._names.physical(table.name, name)
            wanted = self._laid(table, of, physical, each) if physical in known.chains else None
            if wanted is not None:
                told = seen(known, physical, each, wanted, _beside(of, known, physical))
                found |= {} if told is None else {name: told}
        return found

    def _encoded_rules(self, table: TableId, name: str) -> Keys | None:
        """A chain's keys as they were encoded last, where they are what stands there."""
        return None if self._kind(table, name) in LAID else self._encoder.keys(table, name)

    def _kind(self, table: TableId, chain: str) -> Kind:
        return kind(table.name, chain, self._head)

    def _laid(self, table: TableId, of: Kind, physical: str, rules: Keys, known: Reasons | None = None) -> Laid | None:
        """How a chain stands that has sets or maps beside it; ``None`` where its rules are its rules.

        :param of: of what kind it is.
        :param known: what each rule is there for, if they do not say it themselves.
        """
        match of:
            case Kind.TRANSLATIONS:
                return translations.lay_out(rules, physical, table.family)
            case Kind.INGRESS | Kind.EGRESS:
                place = partial(self._names.physical, table.name)
                return allowances.lay_out(rules, physical, table.family, place, of is Kind.EGRESS, known)
            case _:
                return None

    def _edit_dispatch(
        self, table: TableId, now: Mapping[str, Keys], entered: Sequence[tuple[Keys, Keys]], edits: TableEdits
    ) -> None:
        family, root = table.family, self._root
        stray = any(STRAY in before for before, _ in entered)
        known = edits.image.sets
        if stray:
            nodes = [each for name, each in now.items() if _dispatches(self._kind(table, name), each)]
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
        maps = layout.maps_of(known, root) if stray else [name for name in shapes if name in known]
        used = {name for name in maps if name in shapes and known[name].elements}
        rules = now.get(root)
        looked_into = [shapes[name] for name in used]
        edits.set_rules(root, None if rules is None else layout.root_rules(rules, looked_into, root, family))
        for name in maps:
            if name not in used:
                edits.remove_map(name)

    def _have_map(self, shape: dispatch.Shape, edits: TableEdits) -> None:
        described = dispatch.map_of(shape, self._root, edits.family)
        known = edits.image.sets.get(described.name)
        if known is None or not known.fits(described):
            if known is not None:
                edits.empty(self._root)  # perhaps it looks into this one, which has to go
            edits.add_set(described)


def _dispatches(of: Kind, rules: Keys) -> bool:
    """Whether a chain is the root of the dispatch or a node of it."""
    return of is Kind.ROOT or (of is Kind.NODE and layout.is_dispatched(rules))


def _of_its_line(
    before: Mapping[str, Keys], put: Mapping[str, Keys], gone: Collection[str], desired: Mapping[str, Keys]
) -> Mapping[str, Keys]:
    """A table as it stands now, if it can be as a version of what is desired: then what changes next is known.

    :param before: as it stood.
    :param put: what stands there now instead or besides.
    :param gone: the chains that are there no more.
    """
    now = {**{name: before.get(name) for name in changed(before, desired)}, **put, **dict.fromkeys(gone)}
    # Equal ones may be two objects: of a chain whose rules stayed while what they are there for changed.
    if any(known is not desired[name] and known != desired[name] for name, known in now.items() if name in desired):
        return follow(before, put, gone)
    return beside(desired, {name: known for name, known in now.items() if name not in desired and known is not None})


def _edit_laid(of: Kind, physical: str, laid: Laid | None, edits: TableEdits) -> None:
    known = edits.image.sets
    maps = {} if laid is None else laid.maps
    for name, (described, elements) in maps.items():
        if name not in known or not known[name].fits(described):
            edits.add_set(described)
        edits.set_elements(described, elements, laid.reasons_of.get(name) if laid else None)
    if laid is None:
        edits.set_rules(physical, None)
    else:
        edits.set_rules(physical, laid.rules, laid.reasons)
    for name in _beside(of, edits.image, physical):
        if name not in maps:
            edits.remove_map(name)


def _beside(of: Kind, known: Image, physical: str) -> list[str]:
    """The sets and maps that belong to a chain of this kind, of those that are there."""
    return (translations.maps_of if of is Kind.TRANSLATIONS else allowances.sets_of)(known, physical)


def _refuse_builtin(plan: TablePlan[bytes]) -> None:
    for edit in plan.edits:
        if isinstance(edit, AddChain):
            keys.refuse_name(edit.chain)
        if isinstance(edit, AddChain | RemoveChain) and edit.chain in BUILTIN_CHAINS[plan.table.name]:
            raise RuleRefused(f"{plan.table}: {edit.chain} is a built-in chain")
