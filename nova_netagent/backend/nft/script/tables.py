"""Tables as ``nft list`` prints them, and ``nft -f`` takes them."""

from collections.abc import Iterator, Sequence

from nova_netagent.backend.nft.objects import BaseHook, Set
from nova_netagent.backend.nft.script import values
from nova_netagent.backend.nft.script.contents import Contents, MadeChain, MadeSet
from nova_netagent.backend.nft.script.elements import TYPES, element_lines
from nova_netagent.backend.nft.script.rules import words
from nova_netagent.netfilter.hooks import HOOKS

UNSPOKEN = "# not for nft -f: "
"""Before a rule that only netlink can say."""
_PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
_ONLY_AT = {"dstnat": "PREROUTING", "srcnat": "POSTROUTING"}
_NEAR = 10
"""So far from a priority that has a name nft(8) counts from there."""


def script_lines(tables: Sequence[Contents]) -> Iterator[str]:
    """Tables, after what has to be known before they are loaded."""
    lines = [line for each in tables for line in table_lines(each)]
    unspoken = sum(line.lstrip().startswith(UNSPOKEN) for line in lines)
    if unspoken:
        yield f"# incomplete for nft -f: rules that only netlink can say stand as comments ({unspoken})"
    for name in sorted({each.table.name for each in tables}):
        if not (name[0].isalpha() or name[0] == "_"):
            yield f"# nothing for nft -f: it takes no table whose name begins like {name}"
    yield from lines


def table_lines(made: Contents) -> Iterator[str]:
    """A table."""
    yield f"table {made.table.family.name.lower()} {made.table.name} {{"
    if made.comment is not None:
        yield f'\tcomment "{made.comment}"'
    blocks = [_set_lines(each) for each in made.sets.values()]
    blocks += [_chain_lines(each, made) for each in made.chains.values()]
    for number, block in enumerate(blocks):
        if number:
            yield ""
        yield from (f"\t{line}" for line in block)
    yield "}"


def _set_lines(made: MadeSet) -> Iterator[str]:
    described = made.described
    yield f"{'set' if described.data is None else 'map'} {described.name} {{"
    yield from (f"\t{line}" for line in _kind(described))
    elements = list(element_lines(described, made.elements))
    for number, each in enumerate(elements, 1):
        begin = "\telements = { " if number == 1 else "\t\t     "
        yield begin + each + ("," if number < len(elements) else " }")
    yield "}"


def _kind(described: Set) -> Iterator[str]:
    leads = "" if described.data is None else f" : {TYPES[described.data]}"
    yield f"type {' . '.join(TYPES[each] for each in described.key)}{leads}"
    if described.size is not None:
        yield f"size {described.size}"
    if described.interval:
        yield "flags interval"
    if described.timeout is not None:
        yield f"timeout {values.seconds(described.timeout)}"
    if described.comment is not None:
        yield f'comment "{described.comment}"'


def _chain_lines(made: MadeChain, table: Contents) -> Iterator[str]:
    chain = made.chain
    yield f"chain {chain.name} {{"
    if chain.comment is not None:
        yield f'\tcomment "{chain.comment}"'
    if chain.hook is not None:
        yield f"\t{_hooked(chain.hook)}"
    for expressions, comment in made.rules:
        told = words(expressions, table.table.family, comment)
        yield f"\t{'' if told.loads else UNSPOKEN}{told.text}"
    yield "}"


def _hooked(at: BaseHook) -> str:
    hook = HOOKS[at.hook]
    return f"type {at.type} hook {hook.lower()} priority {_priority(at.priority, hook)}; policy accept;"


def _priority(number: int, hook: str) -> str:
    for name, base in _PRIORITIES.items():
        if _ONLY_AT.get(name, hook) == hook and abs(number - base) <= _NEAR:
            return name if number == base else f"{name} {'-' if number < base else '+'} {abs(number - base)}"
    return str(number)
