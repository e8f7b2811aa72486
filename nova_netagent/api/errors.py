"""Every failure in one shape, with the status that says whose turn it is."""

import logging
from typing import Any

import falcon

from nova_netagent.api.access import Forbidden, Unauthorized, Undecided
from nova_netagent.api.agent import Unanswered
from nova_netagent.api.answers import refusal_body
from nova_netagent.api.wire import BadRequest
from nova_netagent.backend import BackendError
from nova_netagent.engine import NotApplied
from nova_netagent.events import LateRevision
from nova_netagent.store import StoreError

LOG = logging.getLogger(__name__)


class ObjectFailed(Exception):
    """An object is stored, and the host cannot have it; its status says why."""


class NotFound(Exception):
    """There is no such object."""


_CODES: tuple[tuple[type[Exception], int], ...] = (
    (LateRevision, 409),
    (NotApplied, 503),
    (StoreError, 503),
    (BackendError, 503),
    (Unanswered, 503),
    (ObjectFailed, 503),
    (NotFound, 404),
    (Forbidden, 403),
    (Undecided, 503),
)
"""What is raised, and what it means over HTTP."""


def add_handlers(app: "falcon.App[Any, Any]") -> None:
    """Have an app answer every failure in the API's shape."""
    app.set_error_serializer(_serialize)
    app.add_error_handler(BadRequest, _bad_request)
    app.add_error_handler(Unauthorized, _unauthorized)
    for kind, code in _CODES:
        app.add_error_handler(kind, _handler(code))
    app.add_error_handler(Exception, _unexpected)


def answer(resp: falcon.Response, code: int, message: str, field: str | None = None) -> None:
    """Make a response say what went wrong."""
    resp.status = code
    resp.content_type = falcon.MEDIA_JSON
    resp.data = refusal_body(code, message, field)


def _serialize(_req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError) -> None:
    """Falcon's own: no such route, no such method, a header that does not read."""
    message = error.description or error.title or ""
    if error.status_code == 404:
        message = "there is nothing at this path"
    elif error.status_code == 405:
        message = f"this path takes {dict(error.headers or ()).get('Allow', 'no method')}"
    answer(resp, error.status_code, message)


def _bad_request(_req: falcon.Request, resp: falcon.Response, error: BadRequest, _params: object) -> None:
    answer(resp, error.code, error.message, error.field)


def _unauthorized(_req: falcon.Request, resp: falcon.Response, error: Unauthorized, _params: object) -> None:
    if error.challenge is not None:
        resp.set_header("WWW-Authenticate", error.challenge)
    answer(resp, 401, str(error))


def _handler(code: int) -> Any:
    def handle(_req: falcon.Request, resp: falcon.Response, error: Exception, _params: object) -> None:
        answer(resp, code, str(error))

    return handle


def _unexpected(req: falcon.Request, resp: falcon.Response, error: Exception, _params: object) -> None:
    LOG.error("%s %s failed", req.method, req.path, exc_info=error)
    answer(resp, 500, "the agent failed to answer; its log has the reason")
