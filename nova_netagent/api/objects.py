"""Networks, instances, security groups, floating IPs and provider rules: lists and single objects."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import falcon

from nova_netagent.api import wire
from nova_netagent.api.agent import Agent
from nova_netagent.api.answers import Link
from nova_netagent.api.errors import NotFound, ObjectFailed
from nova_netagent.api.requests import REVISION_MAX, boolean, integer, parameters, read_body
from nova_netagent.engine import Change
from nova_netagent.events import Delete, Put
from nova_netagent.status import Status, View

LIMIT_MAX = 10_000
"""The longest page that is given when a page is asked for."""

MANY = 50
"""How many objects are written at once; more of them are written aside."""


def path_of(kind: str) -> str:
    """A kind as it stands in a path: ``security_groups`` is at ``/v1/security-groups``."""
    return f"/v1/{kind.replace('_', '-')}"


def _singular(kind: str) -> str:
    return kind.removesuffix("s").replace("_ip", " IP").replace("_", " ")


class Collection:
    """``/v1/{kind}``."""

    def __init__(self, agent: Agent, kind: str) -> None:
        self._agent = agent
        self._kind = kind

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """All objects in order of id, or a page of them."""
        asked = parameters(req, {"limit": integer(1, LIMIT_MAX), "marker": self._marker})
        view = self._agent.view()
        ids = sorted(view.state.entries(self._kind))
        if "marker" in asked:
            ids = [id_ for id_ in ids if id_ > asked["marker"]]
        page = ids[: asked.get("limit")]
        if len(page) > MANY:
            resp.data = self._agent.offload(lambda: self._written(view, page, ids))
        else:
            resp.data = self._written(view, page, ids)

    def _marker(self, text: str) -> str:
        try:
            return wire.canonical_id(self._kind, text)
        except wire.BadRequest as error:
            raise ValueError(error.message) from None

    def _written(self, view: View, page: Sequence[str], ids: Sequence[str]) -> bytes:
        entries = view.state.entries(self._kind)
        listed = [wire.described(entries[id_].object, view.status((self._kind, id_))) for id_ in page]
        body: dict[str, Any] = {self._kind: listed}
        if len(page) < len(ids):
            query = urlencode({"limit": len(page), "marker": page[-1]})
            body[f"{self._kind}_links"] = [Link("next", f"{path_of(self._kind)}?{query}")]
        return wire.encode(body)


class Item:
    """``/v1/{kind}/{id}``."""

    def __init__(self, agent: Agent, kind: str) -> None:
        self._agent = agent
        self._kind = kind

    def on_get(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:  # noqa: A002 - the contract's word
        """One object with its status."""
        parameters(req)
        view = self._agent.view()
        key = (self._kind, self._known(id))
        entry = view.state.entries(self._kind).get(key[1])
        if entry is None:
            raise self._not_found(id)
        resp.data = wire.encode(wire.described(entry.object, view.status(key)))

    def on_put(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:  # noqa: A002
        """Create or replace an object; answers when the kernel has it, or with wait=false when the disk has."""
        wait = parameters(req, {"wait": boolean}).get("wait", True)
        item = wire.decode_object(self._kind, id, read_body(req, self._agent.settings.max_body_size))
        answer = self._agent.submit(Change(Put(item), wait=wait))
        assert answer.object is not None
        resp.status = _code(answer.change, answer.status, wait)
        resp.data = wire.encode(wire.described(answer.object, answer.status))

    def on_delete(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:  # noqa: A002
        """Delete an object; its rules are gone when this answers."""
        revision = parameters(req, {"revision": integer(0, REVISION_MAX)}).get("revision")
        event = Delete(self._kind, self._known(id), revision)
        if self._agent.submit(Change(event)).change == "missing":
            raise self._not_found(id)
        resp.status = falcon.HTTP_204

    def _known(self, id_: str) -> str:
        """The canonical id; one that no object can have names nothing."""
        try:
            return wire.canonical_id(self._kind, id_)
        except wire.BadRequest:
            raise self._not_found(id_) from None

    def _not_found(self, id_: str) -> NotFound:
        return NotFound(f"there is no {_singular(self._kind)} {id_}")


def _code(change: str, status: Status | None, wait: bool) -> int:
    """The HTTP status that tells what became of a PUT.

    :raises ObjectFailed: it cannot be had.
    """
    if not wait or (status is not None and status.state == "pending"):
        return 202
    if status is not None and status.state == "error":
        raise ObjectFailed(status.message)
    return 201 if change == "created" else 200
