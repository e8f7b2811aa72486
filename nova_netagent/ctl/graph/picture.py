"""What is drawn: chains as boxes, their rules as rows, jumps as edges; what is alike and many is one."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

Document = dict[str, Any]
Key = tuple[int, str, str]
"""A family, a table and a chain."""

MOST_ALIKE = 12
"""So many chains of one kind are drawn one by one in a table; more are one box."""
MOST_ROWS = 14
"""So many rules of a chain are shown; of the others it is only said how many they are."""

_KINDS = ("inst", "vif", "net", "out", "src", "sgi", "sge", "to")
_FAMILY_TABLES = ("raw", "mangle", "nat", "filter")


class Row(NamedTuple):
    """A rule, or what stands for several."""

    text: str
    owner: str
    """In words; empty for what every packet meets."""
    kind: str
    """Whose it is: an object's kind, ``agent`` or ``foreign``."""
    packets: int
    """0 also where it is not counted alone, which is not drawn either."""
    target: Key | None
    verdict: str
    """``ACCEPT``, ``DROP``, ``REJECT`` or empty."""
    met: bool = False
    """The explained packet matches it."""


class Box(NamedTuple):
    """A chain, or many of one kind."""

    key: Key
    title: str
    rows: tuple[Row, ...]
    met: bool = False


class Picture(NamedTuple):
    """Boxes in the order of their tables; every edge's target is one of them."""

    title: str
    boxes: tuple[Box, ...]


def tables_of(boxes: Iterable[Box]) -> list[tuple[int, str]]:
    """Families and tables, in the order in which a packet meets them."""
    found = {(box.key[0], box.key[1]) for box in boxes}
    return sorted(found, key=lambda each: (each[0], _FAMILY_TABLES.index(each[1])))


def picture(
    title: str,
    chains: Iterable[Document],
    *,
    about: Collection[tuple[str, str]] | None = None,
    met: Collection[tuple[Key, int]] = (),
    whole: bool = False,
) -> Picture:
    """What is to be drawn of the live chains.

    :param chains: as ``GET /v1/chains`` gives them.
    :param about: the objects, kind and id, that it is about; ``None``: all of them.
    :param met: the rules that a packet matches, each with its place from 1 on; then only its way is drawn.
    :param whole: fold nothing.
    """
    known = {_key(chain): chain for chain in chains}
    if met:
        met = set(met)
        drawn = {key for key, _ in met}
        relevant: Callable[[Key, int, Document], bool] = lambda key, number, rule: (key, number) in met  # noqa: E731
    elif about is not None:
        core, drawn = _around(known, set(about))

        def relevant(key: Key, number: int, rule: Document) -> bool:
            return key in core or _object(rule) in about or _target(known, key, rule) in drawn
    else:
        drawn = {key for key, chain in known.items() if chain["rules"]}
        relevant = lambda key, number, rule: True  # noqa: E731
    folded = {} if whole or met or about is not None else _folded(drawn)
    boxes = [_box(known, key, drawn, folded, relevant, set(met), whole) for key in known if key in drawn]
    return Picture(title, tuple(_joined(boxes, folded)))


def _key(chain: Document) -> Key:
    return chain["family"], chain["table"], chain["chain"]


def _object(rule: Document) -> tuple[str, str] | None:
    origin = rule.get("origin")
    return (origin[0], origin[1]) if origin else None


def _target(known: Mapping[Key, Document], key: Key, rule: Document) -> Key | None:
    target = (key[0], key[1], rule.get("target") or "")
    return target if target in known else None


def _around(known: Mapping[Key, Document], about: Collection[tuple[str, str]]) -> tuple[set[Key], set[Key]]:
    """The chains that are an object's own with what they lead to, and those with all that lead to its rules."""
    own = {key for key, chain in known.items() if _is_own(key, chain, about)}
    core = _closure(own, lambda key: (_target(known, key, rule) for rule in known[key]["rules"]))
    naming = {key for key, chain in known.items() if any(_object(rule) in about for rule in chain["rules"])}
    callers: dict[Key, set[Key]] = {}
    for key, chain in known.items():
        for rule in chain["rules"]:
            target = _target(known, key, rule)
            if target is not None and not _is_tail(key, rule, target):
                callers.setdefault(target, set()).add(key)
    drawn = core | _closure(own | naming, lambda key: iter(callers.get(key, ())))
    return core, drawn


def _is_own(key: Key, chain: Document, about: Collection[tuple[str, str]]) -> bool:
    """A chain of one object: one of an object's kind, whose every rule names the same."""
    if _kind_of(key[2]) in (None, "to"):
        return False
    rules = [rule for rule in chain["rules"] if rule.get("origin")]
    return any(_object(rule) in about and rule["origin"][0] != "security_groups" for rule in rules) or (
        bool(rules) and _kind_of(key[2]) in ("sgi", "sge") and all(_object(rule) in about for rule in rules)
    )


def _is_tail(key: Key, rule: Document, target: Key) -> bool:
    """What a node of a tree says of everybody else: no way to any one object, and each node has it."""
    return _kind_of(key[2]) == "to" and _object(rule) is None and _kind_of(target[2]) != "to"


def _closure(start: Iterable[Key], follow: Callable[[Key], Iterable[Key | None]]) -> set[Key]:
    found, left = set(), list(start)
    while left:
        key = left.pop()
        if key not in found:
            found.add(key)
            left += [each for each in follow(key) if each is not None]
    return found


def _kind_of(chain: str) -> str | None:
    """The kind of an object's chain: its name ends in ``-KIND-`` and eight digits."""
    parts = chain.rsplit("-", 2)
    return parts[1] if len(parts) == 3 and len(parts[2]) == 8 and parts[1] in _KINDS else None


def _folded(drawn: Iterable[Key]) -> dict[Key, Key]:
    """For each chain of which there are too many of its kind, the box that stands for them."""
    alike: dict[Key, list[Key]] = {}
    for key in drawn:
        kind = _kind_of(key[2])
        if kind is not None:
            alike.setdefault((key[0], key[1], f"{key[2].rsplit('-', 2)[0]}-{kind}-…"), []).append(key)
    return {key: one for one, keys in alike.items() if len(keys) > MOST_ALIKE for key in keys}


def _box(
    known: Mapping[Key, Document],
    key: Key,
    drawn: Collection[Key],
    folded: Mapping[Key, Key],
    relevant: Callable[[Key, int, Document], bool],
    met: Collection[tuple[Key, int]],
    whole: bool,
) -> Box:
    chain = known[key]
    rows, left_out = [], 0
    for number, rule in enumerate(chain["rules"], 1):
        if not relevant(key, number, rule):
            left_out += 1
            continue
        target = _target(known, key, rule)
        shown = folded.get(target, target) if target is not None and target in drawn else None
        rows.append(_row(key, rule, shown, (key, number) in met))
    if not whole:
        rows = list(_without_repeats(rows))
        if len(rows) > MOST_ROWS:
            left_out += len(rows) - MOST_ROWS + 1
            rows = rows[: MOST_ROWS - 1]
    if left_out:
        rows.append(Row(f"… {left_out} more", "", "agent", 0, None, ""))
    policy = chain.get("policy")
    if policy:
        end = "" if policy == "ACCEPT" else policy
        rows.append(Row(f"policy {policy}", "", "foreign", 0, None, end, (key, 0) in met))
    return Box(key, key[2], tuple(rows), any(row.met for row in rows))


def _row(key: Key, rule: Document, target: Key | None, met: bool) -> Row:
    words = rule["rule"].split()
    verdict = words[-1] if words[-2:-1] == ["-j"] and words[-1] in ("ACCEPT", "DROP") else ""
    verdict = "REJECT" if "-j REJECT" in rule["rule"] else verdict
    origin = rule.get("origin")
    kind = origin[0] if origin else ("agent" if _kind_of(key[2]) or _is_ours(key[2], rule) else "foreign")
    return Row(rule["rule"], rule.get("owner") or "", kind, rule["packets"] or 0, target, verdict, met)


def _is_ours(chain: str, rule: Document) -> bool:
    """Whether a rule without an object is the agent's: in a chain of ours, or a jump to one."""
    builtin = chain in ("INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING")
    return not builtin or (bool(rule.get("target")) and rule["rule"] == f"-j {rule['target']}")


def _without_repeats(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows that lead to the same box of many one after the other are one row."""
    group: list[Row] = []

    def given() -> Iterator[Row]:
        if len(group) > 2 and group[0].target is not None and group[0].target[2].endswith("…"):
            met = any(row.met for row in group)
            total = sum(row.packets for row in group)
            yield Row(f"{len(group)} rules that lead to them", "", group[0].kind, total, group[0].target, "", met)
        else:
            yield from group

    for row in rows:
        if group and row.target != group[0].target:
            yield from given()
            group.clear()
        group.append(row)
    yield from given()


def _joined(boxes: Iterable[Box], folded: Mapping[Key, Key]) -> Iterator[Box]:
    """The boxes, those that are folded as one in the place of the first."""
    many: dict[Key, list[Box]] = {}
    order: list[Box | Key] = []
    for box in boxes:
        one = folded.get(box.key)
        if one is None:
            order.append(box)
            continue
        if one not in many:
            order.append(one)
        many.setdefault(one, []).append(box)
    for each in order:
        yield each if isinstance(each, Box) else _one(each, many[each])


def _one(key: Key, boxes: list[Box]) -> Box:
    """A box for many: what they lead to, and how many of each there are."""
    found: dict[tuple[Key | None, str, str], list[Row]] = {}
    for box in boxes:
        for row in box.rows:
            if not row.text.startswith("…"):
                found.setdefault((row.target, row.verdict, row.kind), []).append(row)
    rows = []
    for (target, verdict, kind), rules in found.items():
        goal = f"-> {target[2]}" if target is not None else verdict or "other rules"
        rows.append(Row(f"{len(rules)} x {goal}", "", kind, sum(row.packets for row in rules), target, verdict))
    return Box(key, f"{key[2]}  ({len(boxes)} chains)", tuple(rows))
