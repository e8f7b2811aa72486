"""Frames, actual against desired: what has to be put right, and what to be said differently. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from nova_netagent.backend.frames.layout import CHAINS, SETS, Elements
from nova_netagent.backend.nft.objects import Element, element_text
from nova_netagent.model.lineage import changed

_REMOVED_AND_ADDED = (("-", "remove"), ("+", "add"))


class Image(Struct, frozen=True):
    """Our table as it is, and how much of it is as it should be."""

    exists: bool = False
    awake: bool = False
    """A table can be put to sleep: then its chains are not asked."""
    chains: Mapping[str, bool] = {}
    """Every chain, and whether it is one of ours and hooked in where it should be."""
    rules: Mapping[str, bool] = {}
    """Every chain, and whether its rules are what they should be."""
    sets: Mapping[str, bool] = {}
    """Every set, and whether it is one of ours and of the kind that it should be."""
    elements: Elements = {}
    """The elements of the sets that are as they should be."""

    @property
    def judges(self) -> bool:
        """Whether frames are judged by it as they should be."""
        known = (self.chains, CHAINS), (self.rules, CHAINS), (self.sets, SETS)
        return self.awake and all(right.get(name) for right, ours in known for name in ours)


def image_of(elements: Elements) -> Image:
    """The table as it should be."""
    right = dict.fromkeys(CHAINS, True)
    return Image(True, True, right, right, dict.fromkeys(SETS, True), elements)


class FramesPlan(Struct, frozen=True):
    """The edits of our table, in the order in which a transaction carries them out."""

    remove_table: bool
    make_table: bool
    wake_table: bool
    flush: tuple[str, ...]
    """The chains that lose their rules first."""
    remove_sets: tuple[str, ...]
    remove_chains: tuple[str, ...]
    add_chains: tuple[str, ...]
    add_sets: tuple[str, ...]
    remove: Mapping[str, Sequence[Element]]
    add: Mapping[str, Sequence[Element]]
    fill: tuple[str, ...]
    """The chains that get their rules."""

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__struct_fields__)

    def lines(self) -> Iterator[str]:
        """The plan for people, an edit a line; of a new table only what it is about."""
        if self.remove_table:
            yield "- table"
        if self.make_table:
            yield "+ table"
        else:
            yield from ["wake the table"] if self.wake_table else []
            yield from (f"- set {name}" for name in self.remove_sets)
            yield from (f"- chain {name}" for name in self.remove_chains)
            yield from (f"+ chain {name}" for name in self.add_chains)
            yield from (f"+ set {name}" for name in self.add_sets)
            yield from (f"rules of chain {name} anew" for name in self.fill)
        for sign, which in _REMOVED_AND_ADDED:
            for name, elements in getattr(self, which).items():
                yield from (f"{sign} {name} {_words(name, each)}" for each in elements)


def plan_frames(actual: Image, desired: Elements) -> FramesPlan:
    """The edits that make our table hold these elements, and be as it should be.

    A table that sleeps and lacks a base chain is made anew: the kernel refuses one in a transaction that wakes it.
    """
    if actual.exists and not actual.awake and not all(actual.chains.get(name) for name in CHAINS):
        return replace(plan_frames(Image(), desired), remove_table=True)
    remove_sets = tuple(name for name, right in actual.sets.items() if not right)
    remove_chains = tuple(name for name, right in actual.chains.items() if not right)
    add_chains = tuple(name for name in CHAINS if not actual.chains.get(name))
    add_sets = tuple(name for name in SETS if not actual.sets.get(name))
    if remove_sets or remove_chains:
        # Who refers to them is not known: no rule stays.
        flush, fill = tuple(actual.chains), tuple(CHAINS)
    else:
        fill = tuple(name for name in CHAINS if not actual.rules.get(name))
        flush = tuple(name for name in fill if name in actual.chains)
    remove: dict[str, Sequence[Element]] = {}
    add: dict[str, Sequence[Element]] = {}
    for name, wanted in desired.items():
        present = actual.elements.get(name, {})
        others = [key for key in sorted(changed(present, wanted)) if present.get(key) != wanted.get(key)]
        remove[name] = [present[key] for key in others if key in present]
        add[name] = [wanted[key] for key in others if key in wanted]
    return FramesPlan(
        remove_table=False,
        make_table=not actual.exists,
        wake_table=actual.exists and not actual.awake,
        flush=flush,
        remove_sets=remove_sets,
        remove_chains=remove_chains,
        add_chains=add_chains,
        add_sets=add_sets,
        remove={name: gone for name, gone in remove.items() if gone},
        add={name: new for name, new in add.items() if new},
        fill=fill,
    )


def _words(set_name: str, element: Element) -> str:
    text = element_text(SETS[set_name], element)
    return f"{text} ({element.comment})" if element.comment else text
