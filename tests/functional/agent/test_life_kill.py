"""Law 10: killed with -9 at any instant, the agent comes back to what was acknowledged.

A busy run is killed again and again. After each kill nothing may be missing that was
acknowledged, nothing may be there that was not asked for, and the kernel must be what a host
that was never killed has for the same state.
"""

import http.client
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nova_netagent.model import Object, document
from nova_netagent.testing import (
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
    make_vif,
)
from tests.functional.agent.forkserver import ForkedAgent
from tests.functional.agent.kernel import chains, cleanup, kernel
from tests.lab import Lab, needs, veth

KILLS = int(os.environ.get("NOVA_NETAGENT_KILLS", "24"))
SEED = int(os.environ.get("NOVA_NETAGENT_SEED", "0")) or random.randrange(1, 1 << 32)
CLIENTS = 4
LONGEST_RUN = 0.15
"""Seconds after which a run is killed at the latest: some ten requests of each client."""

TAPS = range(1, 7)
ALWAYS = make_network(1)

Key = tuple[str, str]
Body = dict[str, Any]


def universe() -> list[Object]:
    """Everything that clients put and delete; the groups refer to each other, instance 6 is on network 2."""
    web = make_rule(1, protocol="tcp", port_range_min=80, port_range_max=80)
    return [
        make_network(2),
        make_group(1, web),
        make_group(2, make_rule(2, remote_group_id=make_group(1).id), make_rule(3, direction="egress")),
        make_group(3, make_rule(4, remote_ip_prefix="192.0.2.0/24"), members=("203.0.113.0/25",)),
        *(make_instance(n, ((n % 3) + 1, ((n + 1) % 3) + 1)) for n in range(1, 6)),
        make_instance(6, (1,), network=2),
        *(make_floating_ip(n, n) for n in range(1, 4)),
        make_provider_rule(1),
    ]


class Ledger:
    """What was acknowledged, and what was asked for and not answered yet. ``None``: it is not to be there."""

    def __init__(self) -> None:
        self.acknowledged: dict[Key, Body | None] = {key_of(each): None for each in universe()}
        self.acknowledged[key_of(ALWAYS)] = None
        self.in_flight: dict[Key, Body | None] = {}
        self.only_on_disk: set[Key] = set()
        self.answered = 0

    def ask(self, agent: ForkedAgent, key: Key, body: Body | None, how: str = "") -> None:
        """Send a request and write down what became of it."""
        kind, id_ = key
        self.in_flight[key] = body
        path = f"/v1/{kind.replace('_', '-')}/{id_}{how}"
        code, answer = agent.request("DELETE" if body is None else "PUT", path, body)
        assert code in ((204, 404) if body is None else (200, 201, 202)), (code, answer)
        self.answered += 1
        self.acknowledged[key] = body
        (self.only_on_disk.add if how else self.only_on_disk.discard)(key)
        del self.in_flight[key]

    def replace(self, agent: ForkedAgent, wanted: dict[Key, Body | None]) -> None:
        """Send a whole state."""
        self.in_flight.update(wanted)
        agent.state(as_state(wanted))
        self.answered += 1
        self.acknowledged.update(wanted)
        self.only_on_disk.clear()
        self.in_flight.clear()


def key_of(each: Object) -> Key:
    return each.KIND, each.id


def as_state(bodies: dict[Key, Body | None]) -> dict[str, list[Body]]:
    state: dict[str, list[Body]] = {}
    for (kind, _), body in bodies.items():
        if body is not None:
            state.setdefault(kind, []).append(body)
    return state


class Bodies:
    """A new body of an object at each call: its revision tells which one is stored."""

    def __init__(self) -> None:
        self._revision = 0
        self._lock = threading.Lock()

    def next(self, each: Object) -> Body:
        with self._lock:
            self._revision += 1
            return {**document(each), "revision": self._revision}


def new_host(lab: Lab, directory: Path, name: str, backend: str) -> ForkedAgent:
    """A host with taps that are on no bridge; both hosts compile the same rules."""
    host = lab.host(name)
    for number in TAPS:
        veth(lab.outside, f"{name}-{number}", host, make_vif(number).device)
    config: dict[str, dict[str, Any]] = {
        "DEFAULT": {"my_ip": "192.0.2.10"},
        "network": {"public_interface": "eth0", "fixed_range": "10.0.0.0/8", "send_arp_for_ha": False},
        "firewall": {"backend": backend},
    }
    agent = ForkedAgent(host, directory / name, config)
    lab.agents.append(agent)
    return agent


class Rig:
    """The host whose agent is killed, and another whose agent never is."""

    def __init__(self, lab: Lab, directory: Path, backend: str) -> None:
        self.random = random.Random(SEED)
        self.agent = new_host(lab, directory, "killed", backend)
        self.reference = new_host(lab, directory, "spared", backend)
        self.before = {agent: self.of_host(agent) for agent in (self.agent, self.reference)}
        self.ledger = Ledger()
        self.bodies = Bodies()
        self.reference.start()

    def of_host(self, agent: ForkedAgent) -> dict[str, Any]:
        """All of a host's kernel but the addresses that it had before."""
        found = kernel(agent.namespace)
        own = {
            (device, address) for device, address in found["addresses"] if "192.0.2." in address or "db8:2" in address
        }
        return {**found, "addresses": found["addresses"] - own}

    # a busy run

    def run(self) -> None:
        """Let clients work and kill the agent at a random instant."""
        work = self._whole_states if self.random.random() < 0.2 else self._objects
        seeds = [self.random.random() for _ in range(CLIENTS)]
        clients = [threading.Thread(target=work, args=(number, seeds[number])) for number in range(CLIENTS)]
        self.errors: list[BaseException] = []
        self.killed = False
        for client in clients:
            client.start()
        time.sleep(self.random.uniform(0, LONGEST_RUN))
        self.killed = True
        self.agent.kill9()
        for client in clients:
            client.join()
        assert not self.errors, self.errors

    def _objects(self, number: int, seed: float) -> None:
        """Put and delete every fourth object, on and on."""
        chance = random.Random(seed)
        mine = universe()[number::CLIENTS]
        while not self.killed and not self.errors:
            each = chance.choice(mine)
            body = self.bodies.next(each) if chance.random() < 0.65 else None
            how = "?wait=false" if body is not None and chance.random() < 0.2 else ""
            self._try(partial(self.ledger.ask, self.agent, key_of(each), body, how))

    def _whole_states(self, number: int, seed: float) -> None:
        """The first client sends whole states, some from scratch; the others look on."""
        chance = random.Random(seed)
        while not self.killed and not self.errors:
            if number:
                self._try(lambda: self.agent.state())
                continue
            kept = {each for each in universe() if chance.random() < 0.6}
            wanted = {key_of(each): self.bodies.next(each) if each in kept else None for each in universe()}
            wanted[key_of(ALWAYS)] = self.ledger.acknowledged[key_of(ALWAYS)]
            self._try(partial(self.ledger.replace, self.agent, wanted))

    def _try(self, request: Callable[[], object]) -> None:
        try:
            request()
        except Exception as error:
            if not (self.killed and isinstance(error, OSError | http.client.HTTPException)):
                self.errors.append(error)

    # what must be so

    def check_kernel_of_the_dead(self) -> None:
        """What was answered is in the kernel, whatever else was on its way."""
        there_are = chains(self.agent.namespace)
        links = self.agent.namespace.links.all()
        for number in TAPS[:5]:
            key = key_of(make_instance(number))
            if key not in self.ledger.in_flight.keys() | self.ledger.only_on_disk:
                there = self.ledger.acknowledged[key] is not None
                assert (f"nova-netagent-inst-{key[1][:8]}" in there_are) >= there
                assert there or links[make_vif(number).device]["master"] is None

    @property
    def unanswered_state(self) -> bool:
        return len(self.ledger.in_flight) > CLIENTS

    def check_state(self) -> dict[str, list[Body]]:
        """Every object is as it was acknowledged, or as a request then in flight has it."""
        state = self.agent.state()
        stored = {(kind, body["id"]): body for kind, bodies in state.items() for body in bodies}
        assert stored.keys() <= self.ledger.acknowledged.keys()
        as_asked = {key: same(stored.get(key), body) for key, body in self.ledger.in_flight.items()}
        for key, body in self.ledger.acknowledged.items():
            assert same(stored.get(key), body) or as_asked.get(key), f"{key} is {stored.get(key)}, not {body}"
        if self.unanswered_state:  # one request, so that it is all there or nothing of it
            untouched = [same(stored.get(key), self.ledger.acknowledged[key]) for key in as_asked]
            assert all(as_asked.values()) or all(untouched)
        self.ledger.in_flight.clear()
        self.ledger.only_on_disk.clear()
        self.ledger.acknowledged = {key: stored.get(key) for key in self.ledger.acknowledged}
        return state

    def check_kernel(self, state: dict[str, list[Body]]) -> None:
        """The kernel is that of a host that was told the same and never killed."""
        self.reference.state(state)
        found, expected = self.of_host(self.agent), self.of_host(self.reference)
        assert {part for part in found if found[part] != expected[part]} == set(), differing(found, expected)

    def check_cold_start(self, state: dict[str, list[Body]]) -> None:
        """And that of a host that starts with this state."""
        self.reference.state({})
        self.reference.kill9()
        cleanup(self.reference)
        assert self.of_host(self.reference) == self.before[self.reference]
        self.reference.start()
        self.check_kernel(state)


def same(stored: Body | None, sent: Body | None) -> bool:
    """Whether a stored body is the one that was sent, but for fields that were left out."""
    if stored is None or sent is None:
        return stored is sent
    return all(stored[name] == value for name, value in sent.items() if value is not None)


def differing(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Where two hosts differ, as a short text: pytest would cut a whole host off before it comes to that."""
    return "\n".join(
        f"{part}: {sign} {one}"
        for part in found
        for sign, ones, others in (("-", expected[part], found[part]), ("+", found[part], expected[part]))
        for one in (ones.items() if isinstance(ones, dict) else ones)
        if one not in (others.items() if isinstance(others, dict) else others)
    )


@pytest.fixture
def rig(lab: Lab, tmp_path: Path, backend: str) -> Iterator[Rig]:
    """Both hosts; a failure tells the seed."""
    made = Rig(lab, tmp_path, backend)
    try:
        yield made
    finally:
        print(f"NOVA_NETAGENT_SEED={SEED} NOVA_NETAGENT_KILLS={KILLS}: {made.ledger.answered} requests were answered")


@needs("iptables", "ip6tables", "ipset", "br_netfilter")
def test_killed_at_any_instant_it_comes_back_to_what_was_acknowledged(rig: Rig) -> None:
    rig.agent.start()
    rig.ledger.ask(rig.agent, key_of(ALWAYS), rig.bodies.next(ALWAYS))
    for number in range(1, KILLS + 1):
        rig.run()
        rig.check_kernel_of_the_dead()
        if rig.random.random() < 0.25:  # and once more while it starts
            rig.agent.start(ready=False)
            time.sleep(rig.random.uniform(0, 0.15))
            rig.agent.kill9()
        rig.agent.start()
        state = rig.check_state()
        rig.check_kernel(state)
        if number % 15 == 0:
            rig.check_cold_start(state)
    assert rig.ledger.answered > 1, "nothing was acknowledged but the first request"
    rig.agent.state({})
    rig.agent.kill9()
    cleanup(rig.agent)
    assert rig.of_host(rig.agent) == rig.before[rig.agent]
