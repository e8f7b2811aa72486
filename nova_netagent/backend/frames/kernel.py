"""Frames in the kernel: a table of our own in nf_tables' bridge family."""

from collections.abc import Iterable, Mapping, Sequence

from nova_netagent.backend import BackendError
from nova_netagent.backend.frames import layout
from nova_netagent.backend.frames.layout import CHAINS, RULES, SETS, Elements, Laid
from nova_netagent.backend.frames.plan import FramesPlan, Image, image_of, plan_frames
from nova_netagent.backend.nft import Batch, Netlink, expressions
from nova_netagent.backend.nft.commits import Commits, following
from nova_netagent.backend.nft.netlink import ListedChain, ListedRule, ListedSet
from nova_netagent.backend.nft.objects import DORMANT, Family, TableId, element_text
from nova_netagent.backend.nft.statements import Rule
from nova_netagent.netfilter.frames import Closed, Frames, Gateway, Isolated, Redirected, Secured

_ACCEPT = 1

_SAMPLE = Frames(
    secured=(
        Secured(
            "tap0",
            "02:00:00:00:00:01",
            (
                ("192.0.2.1/32", "02:00:00:00:00:01"),
                ("192.0.2.0/24", "02:00:00:00:00:02"),
                ("2001:db8::1/128", "02:00:00:00:00:01"),
                ("2001:db8::/64", "02:00:00:00:00:02"),
            ),
            origin=("instances", "", ""),
        ),
    ),
    closed=(Closed("tap1"),),
    isolated=(Isolated("eth0", "192.0.2.1"),),
    redirected=(Redirected("192.0.2.2/32", "198.51.100.0/24", inverted=True),),
    gateways=(Gateway("tap0", "02:00:00:00:00:03"),),
    hairpins=("tap0",),
    unjudged=(6,),
)
"""One of each, to find out what the kernel can do."""


class KernelFrames:
    """What may pass the bridges of the network namespace that the thread is in. One thread only.

    :param wrap_name: the name of the table.
    :param commits: what others of this agent commit in nf_tables, in the same thread.
    """

    def __init__(self, wrap_name: str, commits: Commits | None = None) -> None:
        self._commits = commits or Commits()
        self._table = TableId(Family.BRIDGE, wrap_name)
        self._netlink: Netlink | None = None
        self._known: tuple[int, Image] | None = None
        self._held: Laid | None = None
        """What the table as we know it was made from."""
        self._right: tuple[int, Elements] | None = None
        """What the table held when it was as desired last, and in which generation; ``None``: told that it does not."""

    def close(self) -> None:
        """Close the socket; nothing in the kernel changes."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None
        self._known = self._held = self._right = None

    def supported(self) -> str | None:
        """Why this kernel cannot hold it; ``None`` when it can. Nothing is left, or seen by others."""
        trial = TableId(Family.BRIDGE, f"{self._table.name}.trial")
        plan = plan_frames(Image(), layout.elements(_SAMPLE))
        try:
            self._kernel.check(_batch(trial, plan))
        except BackendError as error:
            return f"the kernel refuses {error}"
        return None

    def read(self) -> Mapping[str, frozenset[str]]:
        """What the kernel holds now: by set, the elements as people read them; empty without a table.

        :raises Unavailable: the kernel does not say.
        :raises TableChanged: it keeps changing.
        """
        _, image = self._look(fresh=True)
        return {
            name: frozenset(element_text(SETS[name], each) for each in elements.values())
            for name, elements in image.elements.items()
        }

    def passing(self, asked: Frames) -> Frames | None:
        """What the vifs of these frames may claim of it already, and who of them is closed; ``None``: none is judged.

        :raises Unavailable: the kernel does not say.
        :raises TableChanged: it keeps changing.
        """
        _, image = self._look(fresh=False)
        return layout.passing(asked, image.elements) if image.judges else None

    def plan(self, desired: Frames) -> list[str]:
        """What ``apply`` would do, an edit a line. Changes nothing.

        :raises Unavailable: the kernel does not say.
        :raises TableChanged: it keeps changing.
        """
        _, image = self._look(fresh=True)
        return self._lines(plan_frames(image, layout.elements(desired)))

    def apply(self, desired: Frames) -> list[str]:
        """Make the kernel hold what is desired, all at once; the edits, one a line.

        What drifted is put right in the same transaction. Nothing to do writes nothing.

        :raises TableChanged: somebody did so in between: call again.
        :raises RuleRefused: the kernel refuses it, and says what of it.
        :raises Unavailable: the kernel cannot do it now.
        """
        generation, image = self._look(fresh=False)
        held = self._held
        if held is not None and (desired is held.frames or desired == held.frames):
            return []
        laid = layout.lay_out(desired, held)
        plan = plan_frames(image, laid.elements)
        if plan:
            self._known = self._held = None
            self._kernel.commit(_batch(self._table, plan), generation=generation)
            # The kernel took it on this generation and no other, so the next one is ours.
            self._commits.note(generation, (self._table,))
            generation = following(generation)
        self._known = generation, image_of(laid.elements)
        self._held = laid
        self._right = generation, laid.elements
        return self._lines(plan)

    def meddled(self) -> bool:
        """Whether others changed our table since it held what was desired; told once.

        :raises TableChanged: it keeps changing; asked again, it is told all the same.
        :raises Unavailable: the kernel does not say; likewise.
        """
        if self._right is None:
            return False
        since, elements = self._right
        generation = self._kernel.generation()
        spared = self._commits.spared(self._table, since, generation)
        # It is read once: who changes anything meanwhile counts the generation up, and is looked for the next time.
        meddled = not spared and bool(plan_frames(self._read(), elements))
        self._right = None if meddled else (generation, elements)
        return meddled

    def remove(self) -> list[str]:
        """Take the table away with all that is in it; the edits, one a line. Raises what ``apply`` does."""
        self._known = self._held = self._right = None
        if self._kernel.table_flags(self._table) is None:
            return []
        batch = Batch()
        batch.delete_table(self._table)
        self._kernel.commit(batch)
        return [f"{self}: - table"]

    def counters(self) -> Mapping[str, Sequence[tuple[int, int, str]]]:
        """By chain: packets, bytes and text of each rule; a rule that does not count has zeros.

        :raises Unavailable: the kernel does not say.
        """
        found: dict[str, list[tuple[int, int, str]]] = {}
        for listed in self._kernel.rules(self._table):
            packets, size = expressions.counted(listed.expressions) or (0, 0)
            found.setdefault(listed.chain, []).append((packets, size, _text(listed)))
        return found

    def __str__(self) -> str:
        return f"bridge {self._table.name}"

    @property
    def _kernel(self) -> Netlink:
        if self._netlink is None:
            self._netlink = Netlink(recalls=True)
        return self._netlink

    def _lines(self, plan: FramesPlan) -> list[str]:
        return [f"{self}: {line}" for line in plan.lines()]

    # reading

    def _look(self, *, fresh: bool) -> tuple[int, Image]:
        """Our table, and the generation of the ruleset in which it is so."""
        if not fresh and self._known is not None:
            known, image = self._known
            generation = self._kernel.generation()
            if self._commits.spared(self._table, known, generation):
                self._known = generation, image
                return self._known
        self._held = None
        self._known = self._kernel.steadily(self._read)
        return self._known

    def _read(self) -> Image:
        flags = self._kernel.table_flags(self._table)
        if flags is None:
            return Image()
        sets = {each.name: _is_right_set(each) for each in self._kernel.sets(self._table)}
        listed: dict[str, list[ListedRule]] = {}
        for each in self._kernel.rules(self._table):
            listed.setdefault(each.chain, []).append(each)
        chains = {each.name: _is_right_chain(each) for each in self._kernel.chains(self._table)}
        return Image(
            exists=True,
            awake=not flags & DORMANT,
            chains=chains,
            rules={name: _are_right_rules(name, listed.get(name, ())) for name in chains},
            sets=sets,
            elements=self._elements(name for name, right in sets.items() if right),
        )

    def _elements(self, names: Iterable[str]) -> Elements:
        return {name: {each.key: each for each in self._kernel.elements(self._table, name)} for name in names}


def _batch(table: TableId, plan: FramesPlan) -> Batch:
    batch = Batch()
    if plan.remove_table:
        batch.delete_table(table)
    if plan.make_table or plan.wake_table:
        batch.add_table(table, layout.COMMENT)
    for name in plan.flush:
        batch.flush_rules(table, name)
    for name in plan.remove_sets:
        batch.delete_set(table, name)
    for name in plan.remove_chains:
        batch.delete_chain(table, name)
    for name in plan.add_chains:
        batch.add_chain(table, CHAINS[name])
    for name in plan.add_sets:
        batch.add_set(table, SETS[name])
    for name, gone in plan.remove.items():
        batch.delete_elements(table, SETS[name], gone)
    for name, new in plan.add.items():
        batch.add_elements(table, SETS[name], new)
    for name in plan.fill:
        for rule in RULES[name]:
            batch.add_rule(table, name, rule)
    return batch


def _is_right_chain(listed: ListedChain) -> bool:
    ours = CHAINS.get(listed.name)
    if ours is None or ours.hook is None:
        return ours is not None and listed.hook is None
    hook = ours.hook
    return (listed.hook, listed.priority, listed.type, listed.policy) == (hook.hook, hook.priority, hook.type, _ACCEPT)


def _are_right_rules(chain: str, listed: Sequence[ListedRule]) -> bool:
    ours = RULES.get(chain, ())
    return len(ours) == len(listed) and all(map(_is_right_rule, ours, listed))


def _is_right_rule(ours: Rule, listed: ListedRule) -> bool:
    return ours.comment == listed.comment and expressions.same(ours.expressions, listed.expressions)


def _is_right_set(listed: ListedSet) -> bool:
    ours = SETS.get(listed.name)
    if ours is None:
        return False
    fields = tuple(each.size for each in ours.key) if ours.interval else ()
    data_size = 0 if ours.data is None else ours.data.size
    return (listed.flags, listed.key_size, listed.data_size, listed.fields) == (
        ours.flags,
        ours.key_size,
        data_size,
        fields,
    )


def _text(listed: ListedRule) -> str:
    ours = (each for each in RULES.get(listed.chain, ()) if _is_right_rule(each, listed))
    return next((each.text for each in ours), "a rule that is not ours")
