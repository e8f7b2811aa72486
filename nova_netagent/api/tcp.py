"""The API over TCP: guarded by Keystone's tokens, by clients' certificates, or by both."""

import ipaddress
import logging
import ssl
from typing import TYPE_CHECKING, Any

from nova_netagent.api import tls
from nova_netagent.api.access import Gate, by_certificate
from nova_netagent.api.agent import Agent, Offload
from nova_netagent.api.app import make_app
from nova_netagent.api.sockets import listen_tcp
from nova_netagent.conf import ConfigError
from nova_netagent.settings import ApiSettings

if TYPE_CHECKING:
    from nova_netagent.api.hub import Hub

LOG = logging.getLogger(__name__)

CONNECTIONS = 512
"""How many connections are served at a time; the socket has its own."""


class Tcp:
    """Where the API is to listen over TCP, and whom it lets in.

    :param agent: what it speaks for; its settings have ``bind_host`` and ``bind_port``.
    :param opts: oslo.config's options, for the libraries of Keystone.
    :raises ConfigError: a file, or what Keystone needs, cannot be used.
    """

    def __init__(self, hub: "Hub", agent: Agent, opts: Any) -> None:
        self._hub, self._api = hub, agent.settings
        self._context = tls.server_context(self._api)
        self._app = make_app(agent, gate(self._api, opts, hub.outside))

    def serve(self) -> None:
        """Listen.

        :raises ListenFailed: nobody can listen there.
        """
        host, port = self._api.bind_host, self._api.bind_port
        assert host is not None
        assert port is not None
        if self._context is None and not _is_loopback(host):
            LOG.warning("[api] cert_file: without TLS, tokens travel readable to %s", host)
        context = None if self._context is None else self._current
        self._hub.serve(listen_tcp(host, port), self._app, context, CONNECTIONS)

    def _current(self) -> ssl.SSLContext:
        assert self._context is not None
        return self._context

    def renewed(self) -> ssl.SSLContext | None:
        """The certificates as they are in their files now, for ``use``.

        :raises ConfigError: a file cannot be used.
        """
        return tls.server_context(self._api)

    def use(self, context: ssl.SSLContext | None) -> None:
        """Show these certificates on connections that come from now on."""
        self._context = context


def gate(api: ApiSettings, opts: Any, offload: Offload) -> Gate:
    """Who tells who may do what over TCP.

    :param opts: oslo.config's options, read already.
    :param offload: runs what waits for Keystone.
    :raises ConfigError: what it takes is not installed, or cannot be used as configured.
    """
    if api.auth_strategy != "keystone":
        return by_certificate(api.cert_writers)
    try:
        from nova_netagent.api.keystone import Tokens
    except ImportError as error:
        missing = f"{error.name} is not installed; pip install nova-netagent[keystone]"
        raise ConfigError(f"[api] auth_strategy = keystone: {missing}") from error
    try:
        return Tokens(opts, offload)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"[keystone_authtoken], [oslo_policy]: {reason}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
