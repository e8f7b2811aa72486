"""An agent that does nothing but serve DHCP: to be killed, and to run as somebody who may little.

Reads its orders, a line of JSON each, from standard input: ``{"networks": [N, ...], "instances":
[[N, NETWORK], ...], "options": {...}}``; answers with what its plan said once all is in place.
``--ignoring``: it has signals blocked and ignored, as a careless parent leaves them.
"""

import json
import select
import signal
import sys
from pathlib import Path

from nova_netagent.backend.links.image import LinkImage
from nova_netagent.services import DnsmasqServers, plan_dhcp
from nova_netagent.testing import make_instance, make_network
from tests.unit.dhcp.world import services_of


def main(state_path: str, *words: str) -> None:
    """Serve until standard input ends."""
    if "--ignoring" in words:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    links = LinkImage()
    servers = DnsmasqServers(Path(state_path) / "networks", lambda: None)
    while True:
        due = servers.next_due()
        if select.select([sys.stdin], [], [], 0.05 if due is not None else 0.2)[0]:
            line = sys.stdin.readline()
            if not line:
                return
            orders = json.loads(line)
            objects = [make_network(number) for number in orders["networks"]]
            objects += [make_instance(number, network=network) for number, network in orders["instances"]]  # type: ignore[misc]
            desired = services_of(*objects, state_path=state_path, **orders["options"])
            plan = plan_dhcp(desired, servers.read(), links.read())
            servers.apply(plan)
            servers.settle(5)
            print(json.dumps(list(plan.lines())), flush=True)
        servers.do_due()


if __name__ == "__main__":
    main(*sys.argv[1:])
