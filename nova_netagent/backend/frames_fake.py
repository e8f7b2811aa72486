"""Frames in memory, as strict as the kernel: for tests, and for looking at what would happen."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from nova_netagent.backend import RuleRefused, TableChanged, Unavailable
from nova_netagent.backend.frames import layout
from nova_netagent.backend.frames.layout import CHAINS, RULES, SETS
from nova_netagent.backend.frames.plan import FramesPlan, Image, plan_frames
from nova_netagent.backend.nft.objects import Chain, Element, Set, element_text, padded
from nova_netagent.backend.nft.statements import Rule
from nova_netagent.netfilter.frames import Frames


@dataclass
class FakeTable:
    """A table as "the kernel" holds it; tests change it behind our back."""

    awake: bool = True
    chains: dict[str, Chain] = field(default_factory=dict)
    rules: dict[str, tuple[Rule, ...]] = field(default_factory=dict)
    sets: dict[str, Set] = field(default_factory=dict)
    elements: dict[str, dict[bytes, Element]] = field(default_factory=dict)

    def copy(self) -> "FakeTable":
        """Another one that holds the same."""
        elements = {name: dict(each) for name, each in self.elements.items()}
        return FakeTable(self.awake, dict(self.chains), dict(self.rules), dict(self.sets), elements)


class FakeFrames:
    """The ``FramesBackend`` protocol without a kernel."""

    def __init__(self, wrap_name: str = "nova-netagent") -> None:
        self.table: FakeTable | None = None
        """What "the kernel" holds of ours."""
        self.generation = 1
        """Counts up with every commit; whoever changes ``table`` counts it up too."""
        self.commits = 0
        """How many transactions of ours were carried out."""
        self.unsupported: str | None = None
        """A fault: why the kernel cannot hold frames."""
        self.unavailable = 0
        """A fault: how many times more the kernel cannot be reached."""
        self.refuse: Callable[[str, Element], bool] = lambda set_name, element: False
        """A fault: elements that the kernel refuses, for whatever reason."""
        self.before_commit: Callable[[], None] = lambda: None
        """A fault: what another program does just before a commit of ours."""
        self._wrap_name = wrap_name
        self._held: Frames | None = None

    def supported(self) -> str | None:
        """Why this kernel cannot hold it."""
        return self.unsupported

    def read(self) -> Mapping[str, frozenset[str]]:
        """What is held now: by set, the elements as people read them."""
        self._reach()
        return {
            name: frozenset(element_text(SETS[name], each) for each in elements.values())
            for name, elements in _image(self.table).elements.items()
        }

    def passing(self, asked: Frames) -> Frames | None:
        """What the vifs of these frames may claim of it already, and who of them is closed."""
        self._reach()
        image = _image(self.table)
        return layout.passing(asked, image.elements) if image.judges else None

    def plan(self, desired: Frames) -> list[str]:
        """What ``apply`` would do."""
        self._reach()
        return self._lines(plan_frames(_image(self.table), layout.elements(desired)))

    def apply(self, desired: Frames) -> list[str]:
        """Hold what is desired; the edits, one a line.

        :raises TableChanged: somebody changed something in between.
        :raises RuleRefused: an element is refused.
        :raises Unavailable: as often as ``unavailable`` says.
        """
        self._reach()
        plan = plan_frames(_image(self.table), layout.elements(desired))
        if plan:
            read = self.generation
            self.before_commit()
            if self.generation != read:
                raise TableChanged("the transaction: another program was faster")
            self.table = self._edited(plan)
            self.generation += 1
            self.commits += 1
        self._held = desired
        return self._lines(plan)

    def meddled(self) -> bool:
        """Whether others changed the table since it held what was desired; told once."""
        if self._held is None or not plan_frames(_image(self.table), layout.elements(self._held)):
            return False
        self._held = None
        return True

    def remove(self) -> list[str]:
        """Take the table away."""
        self._reach()
        self._held = None
        if self.table is None:
            return []
        self.table = None
        self.generation += 1
        self.commits += 1
        return [f"bridge {self._wrap_name}: - table"]

    def counters(self) -> Mapping[str, Sequence[tuple[int, int, str]]]:
        """Every rule, as a kernel that never saw a frame has it."""
        self._reach()
        held = self.table.rules if self.table else {}
        return {chain: [(0, 0, each.text) for each in rules] for chain, rules in held.items() if rules}

    def close(self) -> None:
        """Nothing to close."""

    def _reach(self) -> None:
        if self.unavailable:
            self.unavailable -= 1
            raise Unavailable("cannot reach nf_tables")
        if self.unsupported is not None:
            raise RuleRefused(self.unsupported)

    def _lines(self, plan: FramesPlan) -> list[str]:
        return [f"bridge {self._wrap_name}: {line}" for line in plan.lines()]

    def _edited(self, plan: FramesPlan) -> FakeTable:
        table = FakeTable() if self.table is None or plan.remove_table else self.table.copy()
        if plan.wake_table:
            table.awake = True
            _must(not any(CHAINS[name].hook for name in plan.add_chains), "chain: Invalid argument")
        for name in plan.flush:
            table.rules[name] = ()
        _remove_objects(table, plan)
        for name in plan.add_chains:
            _must(name not in table.chains, f"chain {name}: File exists")
            table.chains[name], table.rules[name] = CHAINS[name], ()
        for name in plan.add_sets:
            _must(name not in table.sets, f"set {name}: File exists")
            table.sets[name], table.elements[name] = SETS[name], {}
        for name, gone in plan.remove.items():
            for each in gone:
                _must(each.key in table.elements[name], f"delete from set {name}: No such file or directory")
                del table.elements[name][each.key]
        for name, new in plan.add.items():
            self._add(table, name, new)
        for name in plan.fill:
            table.rules[name] += RULES[name]
        _judge_rules(table)
        return table

    def _add(self, table: FakeTable, set_name: str, new: Sequence[Element]) -> None:
        described, held = table.sets[set_name], table.elements[set_name]
        for each in new:
            what = f"add to set {set_name}: {element_text(described, each)}"
            sizes = {len(each.key), len(each.end or each.key)}
            _must(sizes == {described.key_size}, f"{what}: Invalid argument")
            _must((each.end is not None) <= described.interval, f"{what}: Invalid argument")
            _must((each.data is None) == (described.data is None), f"{what}: Invalid argument")
            _must(not self.refuse(set_name, each), f"{what}: Invalid argument")
            overlapping = described.interval and any(_overlap(described, each, other) for other in held.values())
            _must(not overlapping, f"{what}: File exists")
            held[each.key] = each


def _image(table: FakeTable | None) -> Image:
    if table is None:
        return Image()
    sets = {name: SETS.get(name) == each for name, each in table.sets.items()}
    return Image(
        exists=True,
        awake=table.awake,
        chains={name: CHAINS.get(name) == each for name, each in table.chains.items()},
        rules={name: RULES.get(name) == table.rules[name] for name in table.chains},
        sets=sets,
        elements={name: dict(table.elements[name]) for name, right in sets.items() if right},
    )


def _remove_objects(table: FakeTable, plan: FramesPlan) -> None:
    """Sets and chains go only when no rule refers to them."""
    for name in plan.remove_sets:
        _must(name not in set(_looked_into(table)), f"delete set {name}: Device or resource busy")
        del table.sets[name], table.elements[name]
    for name in plan.remove_chains:
        _must(name not in set(_jumped_to(table)), f"delete chain {name}: Device or resource busy")
        del table.chains[name], table.rules[name]


def _judge_rules(table: FakeTable) -> None:
    missing = (set(_looked_into(table)) - set(table.sets)) | (set(_jumped_to(table)) - set(table.chains))
    _must(not missing, f"a rule refers to {', '.join(sorted(missing))}: No such file or directory")


def _looked_into(table: FakeTable) -> Iterator[str]:
    return (
        expression.looked_into
        for rules in table.rules.values()
        for each in rules
        for expression in each.expressions
        if expression.looked_into is not None
    )


def _jumped_to(table: FakeTable) -> Iterator[str]:
    return (
        expression.jumped_to
        for rules in table.rules.values()
        for each in rules
        for expression in each.expressions
        if expression.jumped_to is not None
    )


def _overlap(described: Set, one: Element, other: Element) -> bool:
    """Whether two elements share a key: whether each of their fields has a value in common."""
    at = 0
    for each in described.key:
        part = slice(at, at + each.size)
        if max(one.key[part], other.key[part]) > min((one.end or one.key)[part], (other.end or other.key)[part]):
            return False
        at += padded(each.size)
    return True


def _must(holds: bool, refusal: str) -> None:
    if not holds:
        raise RuleRefused(refusal)
