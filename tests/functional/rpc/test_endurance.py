"""Nothing grows: memory, descriptors and threads over many events, with restarts of the broker among them.

Short every day; the whole of it with ``ENDURANCE_EVENTS=50000`` (``tox -e endurance``), which prints what it saw.
"""

import os
import time
from typing import Any

from tests.functional.agent.kernel import eventually
from tests.functional.rpc.broker import Broker
from tests.functional.rpc.conftest import NodeMaker
from tests.functional.rpc.endurance import Held, Load

EVENTS = int(os.environ.get("ENDURANCE_EVENTS", "1500"))
PARTS = 10

CONNECTIONS = 2
"""How many connections oslo.messaging keeps for answers: it makes them when they are wanted, 30 by default."""

GROWTH = 6 * 1024
"""KiB that the agent's own memory may differ by: garbage in cycles is collected rarely."""


def test_nothing_grows_over_many_events_and_restarts_of_the_broker(
    make_node: NodeMaker, caller: Any, rabbit: Broker
) -> None:
    node = make_node({"oslo_messaging_rabbit": {"rpc_conn_pool_size": CONNECTIONS}})
    load = Load(node, caller)

    def restart() -> None:
        rabbit.kill()
        rabbit.start()
        rabbit.wait()

    seen: list[Held] = []
    began = time.monotonic()
    for part in range(1, PARTS + 1):
        # One while it warms up, so that what a connection leaves once is there before anything is compared.
        load.send(EVENTS // PARTS, restart if part in (2, 6) else None)
        node.wait_connected()
        seen.append(load.held())
        found = f"{seen[-1].memory:6} KiB, {seen[-1].descriptors} descriptors, {seen[-1].threads} threads"
        print(f"{part * EVENTS // PARTS:6} events, {time.monotonic() - began:4.0f} s: {found}", flush=True)

    warm = seen[2:5]
    assert seen[-1].memory - max(each.memory for each in warm) < GROWTH
    descriptors = max(each.descriptors for each in warm) + CONNECTIONS
    threads = max(each.threads for each in warm)
    eventually(lambda: load.held().descriptors <= descriptors and load.held().threads <= threads, within=2)

    stored = {
        each["id"]: each.get("revision")
        for kind in ("security-groups", "instances", "floating-ips")
        for each in node.agent.get(kind)
        if each["status"]["state"] == "done"
    }
    for sender in load.senders:
        assert {id_: stored[id_] for id_ in sender.expected()} == sender.expected()
    assert node.agent.request("POST", "/v1/resync")[1] == {"repaired": []}
    load.close()
    node.agent.stop()
