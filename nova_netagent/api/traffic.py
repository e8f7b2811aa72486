"""Every request counted and timed by its route, and every change in the log with who asked."""

import logging
import time
from typing import Any

import falcon

from nova_netagent.api.access import Caller
from nova_netagent.metrics import Metrics

LOG = logging.getLogger(__name__)

_METHODS = frozenset(falcon.HTTP_METHODS)
_CHANGING = frozenset({"PUT", "DELETE", "POST"})


class Traffic:
    """Falcon middleware that measures."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def process_request(self, req: falcon.Request, _resp: falcon.Response) -> None:
        """Note when it began."""
        req.context.began = time.perf_counter()

    def process_response(self, req: falcon.Request, resp: falcon.Response, _resource: object, _succeeded: bool) -> None:
        """Count it under its route's template: raw paths would make a series each."""
        seconds = time.perf_counter() - req.context.began
        method = req.method if req.method in _METHODS else "other"
        route: Any = req.uri_template or "none"
        self._metrics.http_requests_total.labels(method, route, str(resp.status_code)).inc()
        self._metrics.http_request_seconds.labels(method, route).observe(seconds)
        level = logging.INFO if method in _CHANGING else logging.DEBUG
        if LOG.isEnabledFor(level):
            milliseconds = seconds * 1e3
            LOG.log(level, "%s %s: %d, %.1f ms%s", method, _target(req), resp.status_code, milliseconds, _by(req))


def _target(req: falcon.Request) -> str:
    return ascii(req.relative_uri[:200])[1:-1]


def _by(req: falcon.Request) -> str:
    caller: Caller | None = getattr(req.context, "caller", None)
    return f", by {'a stranger' if caller is None else caller.name}"
