"""Law 1 within the compiler: what is compiled step by step is what is compiled at once.

The host has so many instances that a step concerns a few of them: then what was compiled is not
made anew but followed, and one that is left out would be seen.
"""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nova_netagent.compile import Compiled, Compiler
from nova_netagent.events import Delete, Event, Put, Replace, fold
from nova_netagent.model import AllowedAddressPair, DesiredState, Object, State
from nova_netagent.testing import (
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
    make_vif,
    network_id,
    provider_rule_id,
)
from tests.properties import strategies
from tests.unit.compile.world import make_settings

MANY = range(101, 141)
CLASHING = tuple(f"{kind}0000065-ffff-4000-8000-00000000ffff" for kind in "af")
"""An instance and a vif that have the first eight digits of one of those."""
CROWD = State(
    networks=tuple(map(make_network, strategies.NETWORKS)),
    security_groups=tuple(make_group(n, make_rule(n, protocol="tcp")) for n in (*strategies.GROUPS, *MANY)),
    instances=tuple(make_instance(n, (n, n % 4 + 1), n % 3 + 1) for n in MANY),
    floating_ips=(make_floating_ip(59, 59, 1), *(make_floating_ip(n, n, n % 3 + 1) for n in MANY[:10])),
)


@st.composite
def steps(draw: st.DrawFn) -> Event:
    kind = draw(st.sampled_from(("network", "group", "instance", "another", "same name", "floating IP", "provider")))
    item: Object
    match kind:
        case "network":
            item = draw(strategies.networks(draw(st.sampled_from(strategies.NETWORKS))))
        case "group":
            item = draw(strategies.groups(draw(st.sampled_from(strategies.GROUPS))))
        case "instance":
            item = draw(strategies.instances(draw(st.sampled_from(strategies.INSTANCES))))
        case "another":
            number = draw(st.sampled_from(MANY))
            item = make_instance(
                number, (draw(st.sampled_from(strategies.GROUPS)),), draw(st.sampled_from(strategies.NETWORKS))
            )
        case "same name":
            item = make_instance(200, id=CLASHING[0], vifs=(make_vif(200, id=CLASHING[1]),))
        case "floating IP":
            item = draw(strategies.floating_ips(draw(st.sampled_from(range(1, 4)))))
        case _:
            item = draw(strategies.provider_rules(draw(st.sampled_from((1, 2)))))
    return Put(item) if draw(st.sampled_from((True, True, False))) else Delete(item.KIND, item.id)


PAIR = AllowedAddressPair(ip_address="10.1.0.0/25")
ANYTHING = AllowedAddressPair(ip_address="0.0.0.0/0")


@pytest.mark.parametrize("managed", [True, False])
@settings(max_examples=60)
@example([Put(make_network(2, bridge_interface="eth0")), Put(make_network(1, dhcp_server="10.1.0.2"))])
@example([Put(make_network(9, id=f"{network_id(1)[:8]}-ffff-4000-8000-00000000ffff"))])
@example([Put(make_provider_rule()), Delete("provider_rules", provider_rule_id(1))])
@example([Put(make_instance(102, (), 1, vifs=(make_vif(102, 1, allowed_address_pairs=(PAIR,)),)))])
@example(
    [
        Put(make_floating_ip(61, 59, 5)),
        Put(make_instance(102, (), 1, vifs=(make_vif(102, 1, allowed_address_pairs=(ANYTHING,)),))),
        Put(make_network(5)),
        Put(make_network(5, bridge="br1")),
    ]
)
@given(st.lists(steps(), min_size=4, max_size=12))
def test_what_is_compiled_step_by_step_is_what_is_compiled_at_once(managed: bool, events: list[Event]) -> None:
    asked = make_settings(manage_links=managed)
    compiler, state = Compiler(asked), DesiredState()
    for event in (Replace(State(networks=CROWD.networks)), Replace(CROWD), *events):
        state = fold(state, event, 0.0)
        assert told(compiler.compile(state)) == told(Compiler(asked).compile(state))


def test_nodes_whose_names_come_to_clash_are_written_anew() -> None:
    """tap10308+ and tap11c75+ have the same first eight digits of their SHA-1 (test_dispatch.py)."""
    names = [f"{letters}{digit}" for letters in ("tap10308", "tap11c75") for digit in "0123"]
    names += [f"{letters}{digit}0" for letters in ("tap1030", "tap11c7") for digit in "0123abcdef"]
    instances = [make_instance(n, vifs=(make_vif(n, devname=name),)) for n, name in enumerate(reversed(names), 1)]
    asked = make_settings()
    compiler, state = Compiler(asked), DesiredState()
    events: list[Event] = [Put(make_network()), *map(Put, instances)]
    events += [Delete("instances", each.id) for each in reversed(instances)]
    for event in events:
        state = fold(state, event, 0.0)
        assert told(compiler.compile(state)) == told(Compiler(asked).compile(state))


def told(compiled: Compiled) -> object:
    """All that is asked of the host."""
    tables = {id_: table.chains for id_, table in compiled.ruleset.tables.items()}
    return tables, compiled.ruleset.sets, compiled.links, compiled.problems, compiled.frames, compiled.servers
