"""The sets of groups, and those of flows that were cut: read, and edited in a transaction."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from nova_netagent.backend import RuleRefused, TableChanged
from nova_netagent.backend.nftables import members
from nova_netagent.backend.nftables.image import Elements
from nova_netagent.backend.nftables.transaction import Held, Told, Transaction
from nova_netagent.netfilter.rule import Family, IpSet
from nova_netagent.plan.sets import SetPlan


def read(held: Held, owns: Callable[[str], bool], wanted: Mapping[str, IpSet]) -> dict[str, IpSet]:
    """The sets that are ours by name and of a kind of ours.

    :param wanted: what they should be: a member that is in another's range leaves no trace in the kernel.
    """
    found = {}
    for family, known in held.images.items():
        for name, each in known.sets.items():
            if not owns(name):
                continue
            if each.fits(members.described(name, family)):
                found[name] = IpSet(name, family, _members(held, name, each.elements, family, wanted.get(name)))
            elif each.fits(members.ends_of_flows(name, family)):
                found[name] = IpSet(name, family, frozenset(), type="hash:ip,port,ip")
    return found


def prepare(plan: SetPlan, opened: Transaction) -> None:
    """Make new sets, and have every set hold its members.

    :raises RuleRefused: a member is of the other family.
    :raises TableChanged: a set is gone since it was read.
    """
    for each in plan.create:
        opened.table(each.family).add_set(members.set_of(each))
        if each.type == "hash:net":
            _fill(each, opened)
    for name, new in plan.add.items():
        _change_members(name, new, plan.remove.get(name, frozenset()), opened)


def finish(plan: SetPlan, opened: Transaction) -> None:
    """Take members and sets away. :raises TableChanged: a set that must lose members is gone."""
    for name, gone in plan.remove.items():
        _change_members(name, frozenset(), gone, opened)
    for name in plan.destroy:
        for family, known in opened.held.images.items():
            if name in known.sets:
                opened.table(family).remove_set(name)


def note_cut(ends: Mapping[str, Collection[str]], opened: Transaction, *, forget: bool) -> None:
    """Remember ends of flows that were cut, in the sets of these names.

    :param forget: what was noted before goes.
    :raises TableChanged: a set is gone.
    """
    for name, noted in ends.items():
        family = next((each for each, known in opened.held.images.items() if name in known.sets), None)
        if family is None:
            raise TableChanged(f"the set {name} is gone")
        edits = opened.table(family)
        if forget:
            edits.forget(name)
        edits.note(members.ends_of_flows(name, family), list(map(members.end, noted)))


def of_ends(held: Held, owns: Callable[[str], bool]) -> Iterator[tuple[Family, str]]:
    """The sets that are ours by name and hold ends of flows: what they hold is not remembered here."""
    for family, known in held.images.items():
        for name, each in known.sets.items():
            if owns(name) and each.fits(members.ends_of_flows(name, family)):
                yield family, name


def _members(held: Held, name: str, elements: Elements, family: Family, wanted: IpSet | None = None) -> frozenset[str]:
    told = held.told.get(name)
    if told is not None and (told.elements is elements or told.elements.keys() == elements.keys()):
        return told.members
    if wanted is not None and members.elements(wanted.members).keys() == elements.keys():
        held.told[name] = Told(wanted.members, elements)
        return wanted.members
    return members.prefixes(elements, family)


def _change_members(name: str, add: frozenset[str], remove: frozenset[str], opened: Transaction) -> None:
    for family, known in opened.held.images.items():
        if name in known.sets:
            _refuse_family(name, family, add)
            elements = known.sets[name].elements
            before = _members(opened.held, name, elements, family)
            change = members.change(before, add - before, remove & before - add)
            edits = opened.table(family)
            described = members.described(name, family)
            if change is None or members.is_torn(elements, change):
                edits.set_elements(described, members.elements((before - remove) | add))
            else:
                edits.edit_elements(described, *change)
            opened.held.told[name] = Told((before - remove) | add, edits.image.sets[name].elements)
            return
    raise TableChanged(f"the set {name} is gone")


def _fill(each: IpSet, opened: Transaction) -> None:
    """Have a new set hold its members."""
    _refuse_family(each.name, each.family, each.members)
    edits = opened.table(each.family)
    edits.set_elements(members.described(each.name, each.family), members.elements(each.members))
    opened.held.told[each.name] = Told(each.members, edits.image.sets[each.name].elements)


def _refuse_family(name: str, family: Family, wanted: Iterable[str]) -> None:
    if any((":" in member) != (family == 6) for member in wanted):
        raise RuleRefused(f"the set {name} is of the family IPv{family}")
