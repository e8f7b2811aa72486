"""An agent that is started again and again leaves what one would that never was: who reads it finds nothing to do."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from nova_netagent import cleanup
from nova_netagent.events import Delete, Put, fold
from nova_netagent.model import DesiredState, Object
from nova_netagent.settings import Settings
from nova_netagent.testing import (
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
)
from tests.functional.backend import legacy
from tests.lab import isolation, rules_only
from tests.lab.rules_only import RulesOnly

SEED = int(os.environ.get("NOVA_NETAGENT_SEED", "0")) or random.randrange(1, 1 << 32)
CHANGES = 60
INSTANCES = range(1, 61)
"""So many that ways to them are trees."""


def universe() -> list[Object]:
    """What comes and goes: floating IPs are at one end of the addresses, so that most nodes know of none."""
    ports = [make_rule(n, protocol="tcp", port_range_min=n, port_range_max=n) for n in range(1, 6)]
    return [
        make_network(2),
        make_group(1, *ports),
        make_group(2, make_rule(6, remote_group_id=make_group(1).id), make_rule(7, direction="egress")),
        *(make_instance(n, (n % 2 + 1,)) for n in INSTANCES),
        *(make_instance(n, (1,), network=2) for n in (61, 62)),
        *(make_floating_ip(n, n) for n in INSTANCES if n > 50),
        make_provider_rule(1),
    ]


@pytest.fixture(params=["iptables", "nftables"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    isolation.require()
    legacy.empty()
    made = rules_only.settings(str(tmp_path), request.param)
    yield made
    cleanup.run(made)


def test_whoever_comes_after_it_finds_nothing_to_do(settings: Settings) -> None:
    chance = random.Random(SEED)
    print(f"NOVA_NETAGENT_SEED={SEED}")
    objects = universe()
    state = DesiredState()
    for each in (make_network(1), *objects):
        state = fold(state, Put(each), 0.0)
    agent = RulesOnly(settings)
    agent.apply(state, verify=True)
    for _ in range(CHANGES):
        if chance.random() < 0.3:
            agent.close()
            agent = RulesOnly(settings)
            agent.apply(state, verify=True)
        for each in chance.choices(objects, k=chance.choice((1, 1, 1, 3))):
            state = fold(state, Put(each) if chance.random() < 0.5 else Delete(each.KIND, each.id), 0.0)
        agent.apply(state)
        another = RulesOnly(settings)
        assert another.plan(state) == []
        another.close()
    agent.close()
