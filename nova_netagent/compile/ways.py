"""The trees by which a packet finds an instance, written into the tables of one family."""

from collections.abc import Sequence

from msgspec import Struct

from nova_netagent.compile import dispatch
from nova_netagent.compile.dispatch import DeviceEntry, Node, Written
from nova_netagent.compile.memo import Memo
from nova_netagent.compile.network import BRIDGED
from nova_netagent.compile.parts import Placed, Scope
from nova_netagent.compile.pieces import Pattern, sent_by, sent_to
from nova_netagent.compile.uplinks import uplink_of
from nova_netagent.netfilter.rule import DROP, RETURN, Family, Jump, Rule


class Bridges(Struct, frozen=True, gc=False):
    """The rules about bridges and their uplinks, before those about vifs."""

    to_ports: tuple[Rule, ...]
    to_senders: tuple[Rule, ...]
    receiving: tuple[Rule, ...]
    """Uplinks that receive."""
    sending: tuple[Rule, ...]


def enter_bridges(scope: Scope) -> Bridges:
    """The rules about the bridges that there are."""
    to_ports, to_senders = Jump(scope.chain("ports"), goto=True), Jump(scope.chain("senders"))
    bridges = _bridges(scope)
    return Bridges(
        to_ports=tuple(Rule(to_ports, out_interface=bridge, matches=(BRIDGED,)) for bridge in bridges),
        to_senders=tuple(Rule(to_senders, in_interface=bridge) for bridge in bridges),
        receiving=tuple(_uplinks_pass(sent_to, False, scope)),
        sending=tuple(_uplinks_pass(sent_by, True, scope)),
    )


def _uplinks_pass(side: Pattern, incoming: bool, scope: Scope) -> list[Rule]:
    """Addresses behind a bridge's physical interface are other hosts', and not filtered here."""
    found = {
        (each.bridge, uplink.device)
        for each in scope.resolved.networks.values()
        if (uplink := uplink_of(each, scope.settings.network)) is not None
    }
    return [
        Rule(
            RETURN,
            in_interface=bridge if incoming else None,
            out_interface=None if incoming else bridge,
            matches=(side(device),),
        )
        for bridge, device in sorted(found)
    ]


def _bridges(scope: Scope) -> Sequence[str | None]:
    """The bridges whose ports are judged; ``None``: every bridge of the host.

    Links that somebody else manages may carry a vif whose network is not known yet.
    """
    if not scope.settings.network.manage_links:
        return [None] if scope.resolved.ports else []
    return sorted({each.bridge for each in scope.resolved.networks.values()})


_NOBODYS = Rule(DROP, origin=("networks", "", "unknown port"))
"""A port of our bridges that is nobody's passes nothing."""
_INTO_RECEIVERS = dispatch.enter_names(sent_to, goto=False)
_INTO_SENDERS = dispatch.enter_names(sent_by, goto=True)


class Ways:
    """Writes the ways to the instances in one family."""

    def __init__(self, family: Family, scope: Scope, memo: Memo, placed: Placed, bridges: Bridges) -> None:
        self._family = family
        self._bridges = bridges
        self._scope = scope
        self._memo = memo
        self._placed = placed

    def place_receivers(self, ports: Node, addresses: Node) -> None:
        """filter: bridged frames find the receiving vif by port; routed packets, and the host's own, by address."""
        scope = self._scope
        names = dispatch.name_nodes((*ports.keys, *addresses.keys))
        self._add("filter", "local", *self._bridges.to_ports)
        self._add("filter", "ports", *self._bridges.receiving)
        self._write("filter", "ports", ports, names, _INTO_RECEIVERS)
        if scope.settings.network.manage_links:  # other people's bridges are theirs
            self._add("filter", "ports", _NOBODYS)
        self._write("filter", "local", addresses, names, dispatch.enter_prefix)

    def place_senders(self, sources: Node, ports: Node, astray: Node) -> None:
        """raw: every frame of a bridge port proves whose it is, and what is on no bridge says nothing.

        An address leads to its vif in fewer and cheaper comparisons than a port's name (a third, measured
        at 5,000 vifs), so that it is looked at first.
        """
        tree = "astray "
        judged = (*sources.keys, *ports.keys)
        taken = dispatch.name_nodes((*judged, *(tree + key for key in astray.keys)))
        if astray.first or astray.below:
            self._write("raw", "PREROUTING", astray, dispatch.Names(taken.exceptions, tree), dispatch.enter_interfaces)
        self._add("raw", "PREROUTING", *self._bridges.to_senders)
        self._add("raw", "senders", *self._bridges.sending)
        names = taken if not astray.keys else dispatch.name_nodes(judged)
        self._write("raw", "senders", sources, names, dispatch.enter_source)
        self._write("raw", "ports", ports, names, _INTO_SENDERS)

    def place_judged(self, devices: Sequence[DeviceEntry], tree: Node) -> None:
        """mangle: the vifs whose egress is judged at all."""
        for bridge in sorted({rule.in_interface for entry in devices for rule in entry.rules}, key=str):
            enter = Rule(Jump(self._scope.chain("ports")), in_interface=bridge)
            self._add("mangle", "PREROUTING", enter)
        self._write("mangle", "ports", tree, dispatch.name_nodes(tree.keys), _INTO_SENDERS)

    def _add(self, table: str, chain: str, *rules: Rule) -> None:
        self._placed.add(self._family, table, self._scope.chain(chain), *rules)

    def _write(self, table: str, root: str, node: Node, names: dispatch.Names, enter: dispatch.Enter) -> None:
        where = (self._family, table, root)
        # Interned: the names of nodes are other ones when hashes of their keys come to clash.
        names = self._memo.intern(("names", *where), names)
        written = self._memo.get(("written", *where), (names,), Written)
        way = dispatch.Way(names, enter, self._scope.owner, written)
        self._add(table, root, *way.root(node))
        self._placed.add_chains(self._family, table, way.below(node))
