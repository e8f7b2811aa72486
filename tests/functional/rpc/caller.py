"""A controller's side of RPC: oslo.messaging's client, as any OpenStack service uses it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import oslo_messaging
from oslo_config import cfg

from tests.functional.rpc.broker import PORT, URL

EXCEPTIONS = ["nova_netagent.rpc.errors"]


class Caller:
    """Calls and casts to the agents of one topic.

    :param options: of the group oslo_messaging_rabbit; those of the last one that was made count for all.
    """

    def __init__(self, topic: str = "network", **options: object) -> None:
        self._transport = oslo_messaging.get_rpc_transport(
            cfg.CONF, url=URL.format(PORT), allowed_remote_exmods=EXCEPTIONS
        )
        # It reads its options when it connects, and from the global configuration only.
        self._options = {"amqp_durable_queues": True, **options}
        for name, value in self._options.items():
            cfg.CONF.set_override(name, value, "oslo_messaging_rabbit")
        target = oslo_messaging.Target(exchange="nova", topic=topic)
        self._client = oslo_messaging.get_rpc_client(self._transport, target)
        self._pool = ThreadPoolExecutor(16)

    def call(self, host: str | None, method: str, timeout: float = 30, **arguments: Any) -> Any:
        """Call a method of the netagent namespace."""
        return self._netagent(host, timeout=timeout).call({}, method, **arguments)

    def cast(self, host: str | None, method: str, **arguments: Any) -> None:
        """Cast to one host; without one to all of them."""
        self._netagent(host, fanout=host is None).cast({}, method, **arguments)

    def nova(self, server: str | None, method: str, version: str = "1.6", /, **arguments: Any) -> Any:
        """Call one of nova's methods, as its client writes it on the wire."""
        return self._client.prepare(server=server, version=version, timeout=30).call({}, method, **arguments)

    def later(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> "Future[Any]":
        """Do one of these in another thread."""
        return self._pool.submit(function, *arguments, **named)

    def _netagent(self, host: str | None, **options: Any) -> Any:
        return self._client.prepare(server=host, namespace="netagent", version="1.0", **options)

    @property
    def reply_queue(self) -> str:
        """Where it is answered; it has one after its first call."""
        return str(self._transport._driver._reply_q)

    def answering(self, topic: str, endpoint: object) -> Any:
        """A server of a controller's own, started."""
        target = oslo_messaging.Target(exchange="nova", topic=topic, server="controller")
        server = oslo_messaging.get_rpc_server(self._transport, target, [endpoint])
        server.start()
        return server

    def close(self) -> None:
        """Disconnect, or leave that to the end of the process: it waits for a broker."""
        self._pool.shutdown(wait=False)
        for name in self._options.keys() - {"amqp_durable_queues"}:
            cfg.CONF.clear_override(name, "oslo_messaging_rabbit")
        threading.Thread(target=self._transport.cleanup, daemon=True).start()
