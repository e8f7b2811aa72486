"""The gate of Keystone's tokens: keystonemiddleware says whose a token is, oslo.policy what they may do.

Imported only where it is on; both take most of a second to import, and neither needs to be there otherwise.
"""

import io
import logging
import threading
from collections.abc import Mapping
from typing import Any
from wsgiref.util import setup_testing_defaults

from keystoneauth1.exceptions import ClientException
from keystonemiddleware import opts as middleware_options
from keystonemiddleware.auth_token import AuthProtocol
from oslo_context.context import RequestContext
from oslo_policy import policy

from nova_netagent.api.access import Caller, Unauthorized, Undecided
from nova_netagent.api.agent import Offload
from nova_netagent.api.policies import RULES, list_rules

LOG = logging.getLogger(__name__)

CONNECT_TIMEOUT = 5
"""Seconds that Keystone may take to answer, where [keystone_authtoken] http_connect_timeout does not say."""

_TOKENS = ("HTTP_X_AUTH_TOKEN", "HTTP_X_SERVICE_TOKEN")
_PLACE = ("REQUEST_METHOD", "PATH_INFO")
"""What an application credential's access rules are about."""

_ADMITTED = "204 Admitted"


class Tokens:
    """A gate.

    :param opts: oslo.config's options, read already; [keystone_authtoken] and [oslo_policy] are registered.
    :param offload: runs what waits for Keystone.
    :raises Exception: whatever these libraries make of options that they cannot use.
    """

    def __init__(self, opts: Any, offload: Offload) -> None:
        for group, options in middleware_options.list_auth_token_opts():
            opts.register_opts(options, group=group)
        opts.set_default("http_connect_timeout", CONNECT_TIMEOUT, group="keystone_authtoken")
        self._offload = offload
        self._middleware = AuthProtocol(_admit, {"oslo_config_config": opts})
        self._enforcer = policy.Enforcer(opts)
        self._enforcer.register_defaults(list_rules())
        self._enforcer.load_rules()
        self._enforcing = threading.Lock()

    def __call__(self, environ: Mapping[str, Any]) -> Caller:
        """Whose token it is, and what the policy lets them do."""
        # Nothing else of the request leaves the loop's thread, its socket least of all.
        brought = {name: environ[name] for name in (*_TOKENS, *_PLACE) if name in environ}
        return self._offload(lambda: self._caller(brought))

    def _caller(self, environ: dict[str, Any]) -> Caller:
        setup_testing_defaults(environ)
        environ["wsgi.input"] = io.BytesIO()
        said: list[Any] = []
        admitted: dict[str, Any] = {}
        environ["netagent.admitted"] = admitted
        try:
            list(self._middleware(environ, lambda status, headers, exc_info=None: said.extend((status, dict(headers)))))
        except ClientException as error:  # it lets some of them through
            LOG.warning("Keystone cannot be asked: %s", error)
            said = ["503 ", {}]
        status, headers = said
        if status.startswith("503 "):
            raise Undecided("Keystone does not answer, so that nobody can tell whose the token is")
        # With delay_auth_decision it lets everybody through.
        if status != _ADMITTED or admitted.get("HTTP_X_IDENTITY_STATUS") != "Confirmed":
            reason = "the token is not valid" if "HTTP_X_AUTH_TOKEN" in environ else "X-Auth-Token is missing"
            raise Unauthorized(reason, headers.get("WWW-Authenticate", "Keystone"))
        context = RequestContext.from_environ(admitted, overwrite=False)
        with self._enforcing:  # it reads its files anew when they changed
            may = frozenset(level for level, rule in RULES.items() if self._enforcer.enforce(rule, {}, context))
        return Caller(f"user {context.user_id} of project {context.project_id}", may)


def _admit(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """What the middleware guards: it keeps what the middleware found out."""
    environ["netagent.admitted"].update(environ)
    start_response(_ADMITTED, [])
    return []
