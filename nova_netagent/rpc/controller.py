"""Ask a controller for the whole state of this host, and apply what it answers as one change.

Nothing goes before the answer is there whole, and what was changed here meanwhile by somebody
else stays: the answer may be older than that.
"""

import logging
import threading
from collections.abc import Callable
from itertools import islice
from typing import Any

import oslo_messaging

from nova_netagent.api import wire
from nova_netagent.engine import Answer, Change, Look
from nova_netagent.events import Replace
from nova_netagent.metrics import Metrics
from nova_netagent.model import State
from nova_netagent.rpc.asked import Request
from nova_netagent.rpc.errors import RpcError
from nova_netagent.rpc.methods import judged
from nova_netagent.settings import Settings

LOG = logging.getLogger(__name__)

MOST_TOLD = 5
"""How many objects that stay as they are a line of the log names."""
RETRY_FIRST, RETRY_MOST = 2.0, 60.0
"""Seconds to the next attempt when a controller does not answer, doubled up to the most."""


class Controller:
    """Whoever answers on the sync topic.

    :param on_synced: told whether a state was applied, and when none was for a failure the reason.
    """

    def __init__(
        self,
        transport: Any,
        settings: Settings,
        submit: Callable[[Request], None],
        metrics: Metrics,
        on_synced: Callable[[bool, str], None],
    ) -> None:
        target = oslo_messaging.Target(
            exchange=settings.rpc.exchange, topic=settings.rpc.sync_topic, namespace="netagent", version="1.0"
        )
        self._client = oslo_messaging.get_rpc_client(transport, target)
        self._host = settings.host
        self._submit = submit
        self._count = metrics.rpc_syncs_total.labels
        self._on_synced = on_synced
        self._wanted = threading.Event()
        threading.Thread(target=self._run, name="rpc-sync", daemon=True).start()

    def want_sync(self) -> None:
        """The broker is there, perhaps again: what it lost meanwhile is to be made up for."""
        self._wanted.set()

    def _run(self) -> None:
        delay = RETRY_FIRST
        while True:
            self._wanted.wait()
            self._wanted.clear()
            try:
                applied = self.sync()
            except Exception as error:
                LOG.warning("no state of a controller was applied: %s; next attempt in %.0f s", error, delay)
                self._count("failed").inc()
                self._on_synced(False, f"no state of a controller was applied: {error}")
                self._wanted.wait(delay)
                self._wanted.set()
                delay = min(delay * 2, RETRY_MOST)
            else:
                self._count("ok").inc()
                self._on_synced(applied, "")
                delay = RETRY_FIRST

    def sync(self) -> bool:
        """Ask once, and apply the answer; whether there was a state in it.

        :raises Exception: nobody answered, the answer is no state, or it could not be applied; nothing was swept.
        """
        since = self._have(Look(lambda engine: engine.view.state))
        answer = self._client.call({}, "get_host_state", host=self._host)
        if answer is None:
            LOG.info("the controller has no state to tell of %s", self._host)
            return False
        applied: Answer = self._have(Change(Replace(self._state(answer), since), source="rpc"))
        LOG.info("the controller's state of %s was applied: %s", self._host, applied.change)
        if applied.kept:
            first = "; ".join(islice(applied.kept.values(), MOST_TOLD))
            LOG.warning("%d objects are newer here than the controller says, and stay: %s", len(applied.kept), first)
        return True

    def _state(self, answer: object) -> State:
        try:
            return wire.convert_state(judged(answer, "state"))
        except (wire.BadRequest, RpcError) as error:
            raise ValueError(f"the answer is no state: {error}") from error

    def _have(self, request: Any) -> Any:
        self._submit(request)
        return request.answer.result()
