"""Somebody sets the host's clock while the agent runs."""

import sys
from pathlib import Path
from typing import Any

import pytest

from nova_netagent.testing import make_group, make_instance, make_network, make_rule
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import kernel
from tests.functional.conftest import ON_ONE
from tests.lab import Agent, Lab, Namespace, connect, needs

pytestmark = [needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge"), ON_ONE]

DAY = 86400
GROUPS = "/v1/security-groups"


class SetClock(Agent):
    """The daemon, by a program whose clock can be set."""

    def __init__(self, namespace: Namespace, directory: Path, config: dict[str, dict[str, Any]]) -> None:
        command = [sys.executable, str(Path(__file__).with_name("set_clock_agent.py"))]
        super().__init__(namespace, directory, config, command=command)

    def set_clock(self, seconds: int) -> None:
        """Set it beside the true time."""
        self.config_file.with_name("clock").write_text(str(seconds))


@pytest.mark.parametrize("step", [DAY, -365 * DAY])
def test_nothing_is_done_or_lost_and_the_status_says_for_how_long_it_ran(lab: Lab, backend: str, step: int) -> None:
    cloud = Cloud(lab, kind=SetClock, backend=backend)
    agent = cloud.agent
    assert isinstance(agent, SetClock)
    cloud.put(make_network(1), make_group(1, make_rule(1, protocol="tcp")))
    one, other = cloud.instance(1, (1,)), cloud.instance(2, (1,))
    with connect(one, other, 8080) as connection:
        before = kernel(cloud.host)
        for seconds in (step, 0):
            agent.set_clock(seconds)
            assert 0 < agent.request("GET", "/v1/status")[1]["uptime_seconds"] < DAY / 2
            assert agent.resync()["repaired"] == []
            cloud.put(make_instance(3, (1,)))
            cloud.delete(make_instance(3))
            agent.restart()
        assert kernel(cloud.host) == before
        assert connection.alive()


def test_a_deletion_with_the_clock_behind_is_remembered_when_it_is_right(lab: Lab, backend: str) -> None:
    cloud = Cloud(lab, kind=SetClock, backend=backend)
    agent, group = cloud.agent, make_group(1)
    assert isinstance(agent, SetClock)
    agent.set_clock(-365 * DAY)
    assert agent.request("DELETE", f"{GROUPS}/{group.id}?revision=5")[0] == 404
    agent.set_clock(0)
    assert agent.request("PUT", f"{GROUPS}/{group.id}", {"id": group.id, "rules": [], "revision": 4})[0] == 409
