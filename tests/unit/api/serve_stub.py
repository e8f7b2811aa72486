"""The API of a stub engine on a unix socket, as a program: ``python -m tests.unit.api.serve_stub SOCKET``.

It serves until SIGTERM; then it says on its output whether all requests were finished.
"""

import json
import logging
import signal
import sys

from msgspec import structs

from nova_netagent import conf
from nova_netagent.api import hub as hub_module
from nova_netagent.api import tcp
from nova_netagent.api.access import by_peer
from nova_netagent.api.agent import Agent, Unanswered
from nova_netagent.api.app import make_app
from nova_netagent.api.hub import Hub
from nova_netagent.api.sockets import UnixListener
from nova_netagent.metrics import Metrics
from nova_netagent.settings import ApiSettings
from tests.unit.api.stub_engine import StubEngine, about


def main(socket: str, options: dict[str, object]) -> None:
    opts = conf.global_options() if "config" in options else None
    settings = ApiSettings() if opts is None else conf.load([str(options["config"])], conf=opts).api
    settings = structs.replace(settings, socket=socket, max_body_size=int(str(options.get("max_body_size", 1 << 20))))
    engine = StubEngine()
    engine.delay = float(str(options.get("delay", 0)))
    hub_module.SOCKET_TIMEOUT = float(str(options.get("socket_timeout", hub_module.SOCKET_TIMEOUT)))
    hub_module.HANDSHAKE_TIMEOUT = float(str(options.get("handshake_timeout", hub_module.HANDSHAKE_TIMEOUT)))
    hub_module.REQUEST_TIMEOUT = float(str(options.get("request_timeout", hub_module.REQUEST_TIMEOUT)))
    tcp.CONNECTIONS = int(str(options.get("connections", tcp.CONNECTIONS)))
    hub_module.KEEP_ALIVE = float(str(options.get("keep_alive", hub_module.KEEP_ALIVE)))
    hub = Hub(engine.submit)
    stopping = False

    def note(number: signal.Signals) -> None:
        nonlocal stopping
        stopping = number is signal.SIGTERM

    hub.on_signals([signal.SIGTERM, signal.SIGUSR1], note)
    listener = UnixListener(settings.socket, settings.socket_mode)
    agent = Agent(
        submit=hub.submit_and_wait,
        view=lambda: engine.view,
        live=lambda: engine.alive,
        about=about,
        metrics=Metrics(),
        settings=settings,
        offload=hub.offload,
    )
    hub.serve(listener.socket, make_app(agent, by_peer(listener.group)))
    if settings.bind_host is not None:
        tcp.Tcp(hub, agent, opts).serve()
    engine.start()
    print("serving", flush=True)
    while not stopping:
        if hub.rest(60) and not stopping:  # SIGUSR1: the engine dies
            engine.stop()
            hub.abandon(Unanswered("the engine ended"))
    listener.remove()
    print("finished" if hub.stop(5) else "cut off", flush=True)
    hub.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    main(sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})
