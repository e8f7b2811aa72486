"""One base chain of somebody's in nf_tables, and a packet's way through it."""

from collections.abc import Callable
from functools import cached_property

from nova_netagent.backend import Count
from nova_netagent.backend.nft import expressions
from nova_netagent.backend.nft.netlink import ListedChain
from nova_netagent.backend.nft.objects import Family as NftFamily
from nova_netagent.backend.nft.others import OtherTable
from nova_netagent.explain.foreign.decode import decode
from nova_netagent.explain.foreign.decoded import UNKNOWN, Decoded
from nova_netagent.explain.foreign.fields import Around, NoMatchError
from nova_netagent.explain.foreign.sets import OtherSet, sets_of
from nova_netagent.explain.rules import LiveRule
from nova_netagent.netfilter.foreign import Surroundings
from nova_netagent.netfilter.packet import Packet, Step, Walk, walk
from nova_netagent.netfilter.rule import DROP, Family, Jump, Opaque, Reject, Rule, TableId, Target, Verdict

_TRACKING = -200
"""The priority at which connection tracking sees a packet first (NF_IP_PRI_CONNTRACK)."""
_SEEN = {NftFamily.IP: 4, NftFamily.IP6: 6, NftFamily.INET: 0, NftFamily.BRIDGE: 0, NftFamily.NETDEV: 0}
_DROP = 0

Doubt = Callable[[str, int], bool]
"""Notes a rule, by chain and index, of which it cannot be told whether it applies; whether it is taken to."""


class OtherRules:
    """A table of somebody's, taken apart as its chains are met."""

    def __init__(self, table: OtherTable) -> None:
        self.table = table
        self._chains: dict[str, tuple[Decoded, ...]] = {}

    @cached_property
    def _sets(self) -> dict[str, OtherSet]:
        return sets_of(self.table.sets)

    def decoded(self, chain: str) -> tuple[Decoded, ...]:
        """A chain's rules."""
        if chain not in self._chains:
            family = _SEEN[self.table.id.family]
            listed = self.table.rules.get(chain, ())
            self._chains[chain] = tuple(decode(each.expressions, family, self._sets) for each in listed)
        return self._chains[chain]

    def text(self, chain: str, index: int) -> str:
        """A rule as nft(8) would write it, or nearly."""
        comment = self.table.rules[chain][index].comment
        text = self.decoded(chain)[index].text
        return text if comment is None else f'{text} comment "{comment}"'

    def counted(self, chain: str, index: int) -> Count:
        """What it counted."""
        return Count(*(expressions.counted(self.table.rules[chain][index].expressions) or ()))

    def rule(self, chain: str, index: int, target: Target) -> Rule:
        """A rule as a step has it."""
        return Rule(target, matches=(Opaque("nft", 0, self.table.rules[chain][index].expressions),))


class OtherHook:
    """Where packets of a family enter such a table.

    :ivar id: the family, and the table as nft(8) names it.
    """

    def __init__(self, rules: OtherRules, family: Family, hook: str, base: ListedChain) -> None:
        self.id = TableId(family, rules.table.text)
        self.rules = rules
        self._base = base.name
        self.hook = hook
        self.priority = base.priority
        self.translates = base.type == "nat"
        self.devices = base.devices
        self._policy = "DROP" if base.policy == _DROP else "ACCEPT"

    @property
    def key(self) -> TableId:
        """By which it is known among all that a packet meets."""
        return TableId(self.id.family, f"{self.id.name} {self._base}")

    def start(self, hook: str) -> str:
        """The base chain."""
        return self._base

    def at(self, step: Step) -> LiveRule:
        """A rule that matched."""
        count = self.rules.counted(step.chain, step.index)
        return LiveRule(step.rule, self.rules.text(step.chain, step.index), count, None, False)

    def step(self, chain: str, handle: int, target: Target | None, packet: Packet) -> Step | None:
        """The rule that has this handle, and did that to a packet."""
        listed = self.rules.table.rules.get(chain, ())
        index = next((at for at, each in enumerate(listed) if each.handle == handle), None)
        if index is None:
            return None
        if target == DROP and "reject" in self.rules.decoded(chain)[index].text.split():
            target = Reject()
        return Step(chain, index, self.rules.rule(chain, index, target or UNKNOWN))

    def walk(self, packet: Packet, around: Surroundings, doubt: Doubt, arp: int | None = None) -> Walk:
        """What it does to a packet; ``UNKNOWN`` where that depends on more than the packet.

        :param arp: not to the packet, but to ARP of that operation between the same links.
        """
        tracked = self._tracked() if arp is None else None
        known = Around(self.hook, around, tracked, self._named_family(), arp)
        steps: list[Step] = []
        stack: list[tuple[str, int]] = []
        chain, index = self._base, 0
        while True:
            rules = self.rules.decoded(chain)
            if index >= len(rules):
                if not stack:
                    return Walk(self._policy, packet, tuple(steps))
                chain, index = stack.pop()
                continue
            rule, at = rules[index], index
            index += 1
            holds = rule.holds(packet, known)
            if holds is False or (holds is None and not doubt(chain, at)):
                continue
            target = _target(rule, packet, known)
            if isinstance(target, bool) or (target is None and not doubt(chain, at)):
                continue
            target = target or UNKNOWN
            packet = rule.changed(packet, known)
            steps.append(Step(chain, at, self.rules.rule(chain, at, target)))
            match target:
                case Jump(to, goto):
                    if not goto:
                        stack.append((chain, index))
                    chain, index = to, 0
                case Verdict("RETURN") if stack:
                    chain, index = stack.pop()
                case Verdict("RETURN"):
                    return Walk(self._policy, packet, tuple(steps))
                case Opaque("?"):
                    return Walk("UNKNOWN", packet, tuple(steps))
                case _:
                    done = walk({"": [Rule(target)]}, "", packet, {}, "")
                    packet = done.packet
                    if done.verdict:
                        return Walk(done.verdict, packet, tuple(steps))

    def _tracked(self) -> bool | None:
        """Whether connection tracking has seen the packet; a bridge may have one of its own, or leave it to IP."""
        if self.rules.table.id.family == NftFamily.BRIDGE:
            return None
        if self.hook == "ingress":
            return False
        return self.hook not in ("PREROUTING", "OUTPUT") or self.priority > _TRACKING

    def _named_family(self) -> int | None:
        """What ``meta nfproto`` says, if not the packet's own family."""
        family = self.rules.table.id.family
        return int(family) if family in (NftFamily.BRIDGE, NftFamily.NETDEV) else None


def _target(rule: Decoded, packet: Packet, around: Around) -> Target | bool | None:
    """What a rule does, as ``Act``; also where a header that it needs is not there."""
    try:
        return rule.target(packet, around)
    except NoMatchError:
        return False
