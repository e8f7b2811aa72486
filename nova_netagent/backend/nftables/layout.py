"""From the compiler's chains to what stands in nf_tables, and back: where the two differ."""

from collections.abc import Iterable, Mapping

from nova_netagent.backend.nft.objects import VERDICT, Element
from nova_netagent.backend.nftables import dispatch
from nova_netagent.backend.nftables.dispatch import Entry, Shape, Way
from nova_netagent.backend.nftables.image import HeldSet, Image, Keys, recognized
from nova_netagent.backend.nftables.laid import STRAY
from nova_netagent.netfilter.rule import Family

_DISPATCHED = (Entry, Way)
Maps = Mapping[str, dict[tuple[bytes, bool], Element]]
"""By map, the elements by key."""


def is_dispatched(keys: Keys) -> bool:
    """Whether a chain is only entries and ways: then it is no chain in the kernel."""
    return all(isinstance(each, _DISPATCHED) for each in keys)


def entries(chains: Iterable[Keys], root: str, family: Family) -> tuple[Maps, dict[str, Shape]]:
    """The elements of all entries, and the kinds of the maps that they are in."""
    maps: dict[str, dict[tuple[bytes, bool], Element]] = {}
    shapes: dict[str, Shape] = {}
    names: dict[Shape, str] = {}
    for keys in chains:
        for each in keys:
            if isinstance(each, Entry):
                name = names.get(each.shape)
                if name is None:
                    name = names[each.shape] = dispatch.map_of(each.shape, root, family).name
                    shapes[name] = each.shape
                maps.setdefault(name, {})[each.element.key, False] = each.element
    return maps, shapes


def root_rules(keys: Keys, shapes: Iterable[Shape], root: str, family: Family) -> Keys:
    """The rules of the root: its own, and the lookups where its entries stand."""
    at = next((index for index, each in enumerate(keys) if isinstance(each, Entry | Way)), len(keys))
    plain = [each for each in keys if not isinstance(each, Entry | Way)]
    return (*plain[:at], *dispatch.lookups(shapes, root, family), *plain[at:])


def maps_of(sets: Mapping[str, HeldSet], root: str) -> list[str]:
    """The names of those sets that are maps of the dispatch."""
    head = f"{root}-"
    return [name for name in sets if name.startswith(head) and sets[name].data_size == VERDICT.size]


def seen_dispatch(
    image: Image, root: str, desired: Mapping[str, Keys], family: Family
) -> tuple[dict[str, Keys], dict[str, Shape]]:
    """The root and the nodes as they can be told from the kernel, by what they should be, and the kinds of their maps.

    :param image: what the kernel has; of maps that are as they should be the image has our elements afterwards.
    :param desired: the root and the nodes, as they were encoded last.
    """
    held = image.chains.get(root)
    if held is None:
        return {}, {}
    wanted, shapes = entries(desired.values(), root, family)
    maps = {name: image.sets[name] for name in maps_of(image.sets, root)}
    fit = {
        name for name, shape in shapes.items() if name in maps and maps[name].fits(dispatch.map_of(shape, root, family))
    }
    stray = not maps.keys() <= wanted.keys() or any(
        not _same(element, wanted[name].get(key))
        for name, each in maps.items()
        for key, element in each.elements.items()
    )
    found: dict[str, Keys] = {}
    for name, keys in desired.items():
        kept = tuple(each for each in keys if not isinstance(each, Entry) or _is_there(each, image, root, family, fit))
        found[name] = keys if len(kept) == len(keys) else kept
    expected = root_rules(desired.get(root, ()), shapes.values(), root, family)
    rules = recognized(held.rules, expected)
    for name in () if stray else maps:
        if len(maps[name].elements) == len(wanted[name]):
            image.adopt_elements(name, wanted[name])
    if rules != expected:
        entered = [each for each in found.get(root, ()) if isinstance(each, Entry | Way)]
        found[root] = (*_plain(rules), *entered, STRAY)
    elif stray:
        found[root] = (*found.get(root, ()), STRAY)
    return found, shapes


def _is_there(entry: Entry, image: Image, root: str, family: Family, fit: set[str]) -> bool:
    name = dispatch.map_of(entry.shape, root, family).name
    return name in fit and _same(image.sets[name].elements.get((entry.element.key, False)), entry.element)


def _same(held: Element | None, wanted: Element | None) -> bool:
    return held is not None and wanted is not None and held.data == wanted.data


def _plain(rules: Keys) -> list[bytes]:
    """The rules of a root that are no lookups into maps of verdicts."""
    return [each for each in rules if b"lookup\0" not in each or b"immediate\0" in each]
