"""RPC's life: connect, watch, stop. All of it on threads of its own; nothing waits for a broker but they."""

import gc
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import oslo_messaging
from msgspec.structs import replace

from nova_netagent.api.agent import Agent
from nova_netagent.rpc.asked import Request
from nova_netagent.rpc.connection import connection_of
from nova_netagent.rpc.controller import Controller
from nova_netagent.rpc.errors import as_nova
from nova_netagent.rpc.methods import Netagent
from nova_netagent.rpc.nova import Nova, Release
from nova_netagent.rpc.server import Endpoint, Server
from nova_netagent.rpc.transport import open_transport
from nova_netagent.settings import Settings
from nova_netagent.status import Connection

LOG = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""How often the connection is looked at."""

RETRY_FIRST, RETRY_MOST = 1.0, 30.0
"""Seconds to the next attempt when a broker does not have us: a password or a queue is wrong, perhaps not for long."""

NO_BROKER = "the broker does not answer"


class Rpc:
    """The RPC server of one agent, connected or not.

    :param opts: the options of oslo.messaging; the global ones, as it registers some only there.
    :param agent: what the API speaks for as well.
    :param submit: gives the engine a request.
    :raises ConfigError: the transport's URL or driver is none.
    """

    def __init__(
        self, settings: Settings, opts: Any, agent: Agent, submit: Callable[[Request], None], release: Release
    ) -> None:
        self._metrics = agent.metrics
        self._metrics.with_rpc()
        self._transport = open_transport(opts)
        netagent = Netagent(agent)
        nova = Nova(agent, settings.host, release)
        endpoints = [
            Endpoint(netagent.NAMESPACE, netagent.VERSION, netagent.methods(), submit),
            Endpoint(nova.NAMESPACE, nova.VERSION, nova.methods(), submit, as_nova),
        ]
        target = oslo_messaging.Target(exchange=settings.rpc.exchange, topic=settings.rpc.topic, server=settings.host)
        self._server = Server(self._transport, target, endpoints, submit, self._metrics)
        self._controller: Controller | None = None
        if settings.rpc.sync_on_connect:
            self._controller = Controller(self._transport, settings, submit, self._metrics, self._synced)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._state = Connection(connected=False, changed_at=time.time(), failure=NO_BROKER)

    def state(self) -> Connection:
        """How it does."""
        return self._state

    def start(self) -> None:
        """Begin to connect; nobody waits for it."""
        threading.Thread(target=self._connect, name="rpc-connect", daemon=True).start()
        threading.Thread(target=self._watch, name="rpc-watch", daemon=True).start()

    def abandon(self, error: BaseException) -> None:
        """The engine is gone: its callers are told this."""
        self._server.abandon(error)

    def stop(self, seconds: float) -> "Future[bool]":
        """Take no more messages, answer those that were taken, and disconnect.

        :returns: whether all were answered in time. Without a broker there is nobody to answer.
        """
        self._stopping.set()
        done: Future[bool] = Future()
        if self._state.connected:
            ended = threading.Event()
            threading.Thread(target=self._end, args=(ended,), name="rpc-stop", daemon=True).start()
            limit = threading.Thread(target=lambda: done.set_result(ended.wait(seconds)), daemon=True)
            limit.start()
        else:
            done.set_result(True)
        return done

    def _end(self, ended: threading.Event) -> None:
        try:
            self._server.stop()
            self._server.wait()
            self._server.drain()
            self._transport.cleanup()
        except Exception:
            LOG.exception("RPC did not stop cleanly")
        ended.set()

    # --- the connection

    def _connect(self) -> None:
        delay = RETRY_FIRST
        while not self._stopping.is_set():
            try:
                self._server.begin()
                return
            except Exception as error:
                failure = f"RPC is not served: {type(error).__name__}: {error}"
                LOG.error("%s; next attempt in %.0f s", failure, delay)
                LOG.debug("this is how", exc_info=True)
            gc.collect(0)  # oslo.messaging leaves its connection in cycles, and these are looked for rarely
            self._note(failure=failure)
            self._stopping.wait(delay)
            delay = min(delay * 2, RETRY_MOST)

    def _watch(self) -> None:
        known: object | None = None
        while not self._stopping.wait(LOOK_SECONDS):
            found = connection_of(self._server)
            if found is known:
                continue
            if found is None:
                LOG.warning("%s; what is described stays enforced", NO_BROKER)
            else:
                LOG.info("RPC is connected")
            known = found
            self._metrics.rpc_connected.set(0 if found is None else 1)
            self._note(connected=found is not None, changed_at=time.time(), failure=NO_BROKER if found is None else "")
            if found is not None and self._controller is not None:
                self._controller.want_sync()

    def _synced(self, applied: bool, failure: str) -> None:
        self._note(failure=failure, **({"synced_at": time.time()} if applied else {}))

    def _note(self, **changes: Any) -> None:
        with self._lock:
            self._state = replace(self._state, **changes)
