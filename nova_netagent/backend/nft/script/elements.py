"""Elements of sets and maps in nft(8)'s words."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from nova_netagent.backend.nft import expressions, objects
from nova_netagent.backend.nft.objects import DataType, Element, Set, padded
from nova_netagent.backend.nft.script import values

TYPES: Mapping[DataType, str] = {
    objects.IPV4_ADDRESS: "ipv4_addr",
    objects.IPV6_ADDRESS: "ipv6_addr",
    objects.ETHER_ADDRESS: "ether_addr",
    objects.INET_PROTOCOL: "inet_proto",
    objects.INET_SERVICE: "inet_service",
    objects.INTERFACE_NAME: "ifname",
    objects.VERDICT: "verdict",
}
_WORDS: Mapping[DataType, Callable[[bytes], str]] = {
    objects.IPV4_ADDRESS: values.address,
    objects.IPV6_ADDRESS: values.address,
    objects.ETHER_ADDRESS: values.mac,
    objects.INET_PROTOCOL: values.protocol,
    objects.INET_SERVICE: values.number,
    objects.INTERFACE_NAME: values.interface,
    objects.VERDICT: expressions.verdict_text,
}
_ADDRESSES = (objects.IPV4_ADDRESS, objects.IPV6_ADDRESS)


def element_lines(described: Set, elements: Sequence[Element]) -> Iterator[str]:
    """The elements of a set, each with its comment and, of a map, what it leads to."""
    for each in _closed(elements) if described.interval and len(described.key) == 1 else elements:
        words = _key(described.key, each)
        if each.comment is not None:
            words += f' comment "{each.comment}"'
        if described.data is not None and each.data is not None:
            words += f" : {_WORDS[described.data](each.data)}"
        yield words


def _closed(elements: Sequence[Element]) -> Iterator[Element]:
    """Ranges of one field, each as one element instead of where it begins and the one that closes it."""
    begun: Element | None = None
    for each in sorted(elements, key=lambda end: (end.key, not end.closes)):
        if begun is not None and each.closes:
            last = int.from_bytes(each.key, "big") - 1
            yield replace(begun, end=last.to_bytes(len(each.key), "big"))
        begun = None if each.closes else each
    if begun is not None:
        # A range that ends with the last address is closed by nothing.
        yield replace(begun, end=b"\xff" * len(begun.key))


def _key(types: Sequence[DataType], element: Element) -> str:
    at, words = 0, []
    for each in types:
        low = element.key[at : at + each.size]
        high = low if element.end is None else element.end[at : at + each.size]
        words.append(_range(each, low, high))
        at += padded(each.size)
    return " . ".join(words)


def _range(of: DataType, low: bytes, high: bytes) -> str:
    if of in _ADDRESSES:
        return values.addresses(low, high)
    words = _WORDS[of]
    return words(low) if low == high else f"{words(low)}-{words(high)}"
