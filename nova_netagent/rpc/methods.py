"""The ``netagent`` namespace: what a controller that knows this agent calls."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from nova_netagent.api import wire
from nova_netagent.api.agent import Agent
from nova_netagent.api.answers import Repairs, state_changed
from nova_netagent.api.errors import ObjectFailed
from nova_netagent.api.health import report
from nova_netagent.api.requests import REVISION_MAX
from nova_netagent.engine import Answer, Change, Look, NotApplied
from nova_netagent.events import Delete, Put, Replace
from nova_netagent.model import KINDS
from nova_netagent.rpc.asked import Asked, Method
from nova_netagent.rpc.errors import NotFound, bad


class Netagent:
    """Each method takes what came over the wire, and returns what it comes to.

    Answers are those of the HTTP API, as builtins.
    """

    NAMESPACE = "netagent"
    VERSION = "1.0"

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def methods(self) -> Mapping[str, Method]:
        """What may be called."""
        return {each: getattr(self, each) for each in ("update", "delete", "sync", "get", "status", "resync")}

    def update(self, kind: Any, body: Any) -> Asked:
        """Create or replace an object; answers it with its status once the kernel has it."""
        item = wire.convert_object(known_kind(kind), judged(body, "body"))
        return Asked((Change(Put(item), source="rpc"),), lambda answer: _described(answer))

    def delete(self, kind: Any, id: Any, revision: Any = None) -> Asked:  # noqa: A002 - the contract's word
        """Delete an object; answers whether it was there once its rules are gone."""
        kind = known_kind(kind)
        if revision is not None and (type(revision) is not int or not 0 <= revision <= REVISION_MAX):
            raise bad("revision", f"{revision!r:.80} is not an integer from 0 to {REVISION_MAX}")
        change = Change(Delete(kind, _known_id(kind, id), revision), source="rpc")
        return Asked((change,), lambda answer: {"deleted": answer.change == "deleted"})

    def sync(self, state: Any) -> Asked:
        """Make the host match a whole state; answers how its objects fare."""
        wanted = wire.convert_state(judged(state, "state"))
        return Asked((Change(Replace(wanted), source="rpc"),), lambda answer: _plain(state_changed(answer)))

    def get(self, kind: Any, id: Any = None) -> Asked:  # noqa: A002
        """One object with its status, or without an id all of a kind."""
        kind = known_kind(kind)
        id_ = None if id is None else _known_id(kind, id)
        # Asked of the engine, in turn: what was called before this is seen.
        return Asked((Look(lambda _: self._agent.view()),), lambda view: _listed(view, kind, id_))

    def status(self) -> Asked:
        """How the agent does."""
        return Asked(answer=lambda: _plain(report(self._agent)))

    def resync(self) -> Asked:
        """Read everything back now and repair it; answers the repairs, a line each."""

        def answer(repaired: list[str]) -> object:
            failure = self._agent.view().failure
            if failure:
                raise NotApplied(failure)
            return _plain(Repairs(repaired))

        return Asked((Look(lambda engine: engine.resync()),), answer)


def known_kind(kind: Any) -> str:
    """A kind as it may be written: dashes or underscores, one or many."""
    plural = kind.lower().replace("-", "_").removesuffix("s") + "s" if isinstance(kind, str) else ""
    if plural not in KINDS:
        raise bad("kind", f"{kind!r:.80} is not a kind: {', '.join(KINDS)} are")
    return plural


def judged(value: Any, name: str) -> Any:
    """A document that came over the wire, refused where JSON of the HTTP API would be."""
    if not isinstance(value, dict):
        raise bad(name, f"{value!r:.80} is not an object of JSON")
    try:
        return wire.parse(json.dumps(value).encode())
    except wire.BadRequest as error:
        raise wire.BadRequest(error.field or name, error.message) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise bad(name, f"is no JSON: {error}") from None


def _known_id(kind: str, id_: Any) -> str:
    if not isinstance(id_, str):
        raise bad("id", f"{id_!r:.80} is not an id")
    return wire.canonical_id(kind, id_)


def _described(answer: Answer) -> object:
    if answer.status is not None and answer.status.state == "error":
        raise ObjectFailed(answer.status.message)
    assert answer.object is not None
    return _plain(wire.described(answer.object, answer.status))


def _listed(view: Any, kind: str, id_: str | None) -> object:
    entries = view.state.entries(kind)
    if id_ is None:
        listed = [wire.described(entries[each].object, view.status((kind, each))) for each in sorted(entries)]
        return _plain({kind: listed})
    if id_ not in entries:
        raise NotFound(f"there is no {id_} among the {kind}")
    return _plain(wire.described(entries[id_].object, view.status((kind, id_))))


_plain: Callable[[object], object] = msgspec.to_builtins
