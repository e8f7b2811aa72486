"""An event leaves nothing behind but what is remembered on purpose; test_endurance has all of the agent's memory."""

import json
import sys

import pytest

from tests.lab import Lab
from tests.lab.agent import BACKENDS

EVENTS = 150


@pytest.mark.parametrize("backend", BACKENDS)
def test_events_with_ever_new_rules_leave_nothing_behind(lab: Lab, backend: str) -> None:
    """Garbage in cycles is looked for after half a million objects: until then it must hold next to nothing."""
    host = lab.host()
    done = host.run([sys.executable, "-m", "tests.functional.agent.growing", backend, str(EVENTS)])
    parts = json.loads(done.stdout.splitlines()[-1])
    assert all(each["remembered"] > 3 * EVENTS for each in parts)
    assert [each["in_cycles"] for each in parts if each["in_cycles"] > EVENTS // 2] == []
    objects = [each["objects"] for each in parts]
    assert max(objects[1:]) - objects[0] < EVENTS, objects
