"""From what the kernel told of real packets to rules with their owners."""

from collections.abc import Iterator, Mapping

from nova_netagent.backend.nflog import Logged
from nova_netagent.backend.nft.objects import Family as NftFamily
from nova_netagent.backend.trace import Traced, Watch
from nova_netagent.explain import owners
from nova_netagent.explain.foreign.decode import decode
from nova_netagent.explain.foreign.decoded import target_of
from nova_netagent.explain.live import LEGACY, LiveRules
from nova_netagent.explain.report import MetRule, Outcome, Trace, TracedPacket
from nova_netagent.explain.sightings import ENDS, Passage, Sighting, legacy_place, sightings
from nova_netagent.model import DesiredState
from nova_netagent.netfilter.hooks import HOOKS
from nova_netagent.netfilter.owner import Owner
from nova_netagent.netfilter.packet import Packet, Step
from nova_netagent.netfilter.rule import DROP, Family, Rule, TableId, Target, Verdict
from nova_netagent.netfilter.text import BUILTIN_CHAINS, end_text

MOST = 20
"""So many packets are told of one by one."""


def told(
    watch: Watch, seconds: int, state: DesiredState, live: LiveRules, owner: Owner, links: Mapping[int, str]
) -> Trace:
    """What became of the packets that were watched.

    :param links: the names of the host's links by their numbers.
    :raises BackendError: the kernel cannot be read.
    """
    found = sightings(watch.events, watch.bases)
    teller = _Teller(state, live, owner, links)
    notes = [watch.blind] if watch.blind else []
    if watch.lost:
        notes.append("the kernel told more than there was room for: some rules are missing")
    packets = tuple(map(teller.packet, found[:MOST]))
    return Trace(seconds, packets, len(found) - len(packets), tuple(notes))


class _Teller:
    def __init__(self, state: DesiredState, live: LiveRules, owner: Owner, links: Mapping[int, str]) -> None:
        self._state = state
        self._live = live
        self._owner = owner
        self._links = links

    def packet(self, sighting: Sighting) -> TracedPacket:
        """One packet, as it came and as it went."""
        first, last = sighting.passages[0], sighting.passages[-1]
        callers = owners.Callers(self._owner)
        rules = [rule for passage in sighting.passages for rule in self._rules(passage, callers)]
        refused = next((each.effect for each in rules if each.effect in ("DROP", "REJECT")), None)
        verdict: Outcome = "ACCEPT" if last.hook in ENDS else "UNKNOWN"
        if refused is not None:
            verdict = "DROP" if refused == "DROP" else "REJECT"
        return TracedPacket(
            src=end_text(first.packet.source, first.packet.source_port),
            dst=end_text(first.packet.destination, first.packet.destination_port),
            left_src=end_text(last.packet.source, last.packet.source_port),
            left_dst=end_text(last.packet.destination, last.packet.destination_port),
            in_dev=self._links.get(first.links[0]),
            out_dev=self._links.get(last.links[1]),
            verdict=verdict,
            rules=rules,
        )

    def _rules(self, passage: Passage, callers: owners.Callers) -> Iterator[MetRule]:
        for each in passage.rules:
            found = self._logged(each, passage) if isinstance(each, Logged) else self._traced(each, passage)
            if found is not None:
                yield callers.named(*found) if isinstance(found, tuple) else found

    def _logged(self, event: Logged, passage: Passage) -> tuple[MetRule, Step] | MetRule | None:
        """A rule of a legacy table, or the policy; the end of a chain is nothing that is met."""
        place = legacy_place(event)
        assert place is not None
        name, chain, number = place
        family = passage.packet.family
        table = self._live.table(TableId(family, name)) if self._live.reads_legacy else None
        table = table or self._live.table(TableId(family, LEGACY + name))
        if table is None:
            return None
        rules = table.chain(chain) or ()
        hook = HOOKS[passage.hook]
        if number <= len(rules):
            step = Step(chain, number - 1, rules[number - 1].rule)
            return owners.met(self._state, table, hook, step), step
        if chain in BUILTIN_CHAINS.get(name, ()) and table.policy(chain) != "ACCEPT":
            return owners.policy(table, hook, table.policy(chain))
        return None

    def _traced(self, event: Traced, passage: Passage) -> tuple[MetRule, Step] | MetRule | None:
        """A rule of nf_tables, or the policy."""
        code, to = event.verdict
        family: Family = passage.packet.family
        hook = HOOKS[passage.hook]
        if event.handle is not None and self._is_ours(event.table.family, event.table.name):
            return self._ours(event, passage.packet, family, hook)
        base = passage.place[1] if isinstance(passage.place, tuple) else ""
        if event.table.family not in (NftFamily.IP, NftFamily.IP6, NftFamily.INET):
            return self._among_frames(event, passage.packet, family) if code == 0 else None
        other = self._live.other(TableId(family, f"{event.table.family.name.lower()} {event.table.name} {base}"))
        if other is None:
            return None
        if event.handle is None:
            return owners.policy(other, hook, "DROP") if code == 0 else None
        step = other.step(event.chain, event.handle, target_of(code, to), passage.packet)
        return None if step is None else (owners.met(self._state, other, hook, step), step)

    def _among_frames(self, event: Traced, packet: Packet, family: Family) -> tuple[MetRule, Step] | MetRule | None:
        """Where a frame was refused: by somebody's rule or policy, or by our own table of frames."""
        table = TableId(family, f"{event.table.family.name.lower()} {event.table.name}")
        other = self._live.among_frames(table, event.chain)
        if other is None:
            return owners.unplaced(table, "", event.chain, "", "DROP")
        if event.handle is None:
            return owners.policy(other, other.hook, "DROP")
        step = other.step(event.chain, event.handle, DROP, packet)
        return None if step is None else (owners.met(self._state, other, other.hook, step), step)

    def _is_ours(self, family: NftFamily, name: str) -> bool:
        return not self._live.reads_legacy and family in (NftFamily.IP, NftFamily.IP6) and name == self._owner.wrap_name

    def _ours(self, event: Traced, packet: Packet, family: Family, hook: str) -> tuple[MetRule, Step] | MetRule | None:
        """A rule of our table; one that asks a set or a map stands for the rule that the packet fits."""
        assert event.handle is not None
        held = self._live.held(family, event.chain, event.handle)
        if held is None:
            return None
        table, chain, key = held
        live = self._live.table(table)
        if live is None:
            return None
        rules = live.chain(chain) or ()
        target = target_of(*event.verdict)
        index = live.index_of(chain, key)
        if index is None:
            index = self._live.fitting(table, hook, chain, packet, target)
        if index is None:
            text = decode(key, family, {}).text
            step = Step(chain, 0, Rule(target if isinstance(target, Target) else Verdict("RETURN")))
            found = owners.unplaced(table, hook, chain, text, owners.effect(step))
            return found, step
        step = Step(chain, index, rules[index].rule)
        return owners.met(self._state, live, hook, step), step
