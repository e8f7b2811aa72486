"""The whole state, and what is asked of the engine: plan, resync, live chains."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import falcon
import msgspec
from msgspec.structs import replace

from nova_netagent.api import wire
from nova_netagent.api.access import Level, require
from nova_netagent.api.agent import Agent
from nova_netagent.api.answers import LiveChains, Plan, Plans, Repairs, StateChanged, StatePlan, state_changed, told
from nova_netagent.api.requests import boolean, integer, one_of, parameters, read_body
from nova_netagent.engine import Change, Informant, Look, NotApplied
from nova_netagent.events import Replace
from nova_netagent.explain.question import Question
from nova_netagent.explain.report import Trace
from nova_netagent.model import State, document
from nova_netagent.model.objects import Invalid

T = TypeVar("T")

MOST_TRACED = 60
"""Seconds for which packets can be watched."""
TABLES = ("filter", "nat", "mangle", "raw")


class WholeState:
    """``/v1/state``."""

    NEEDS: Mapping[str, Level] = {"PUT": "admin"}

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Everything that is described, as a PUT takes it."""
        parameters(req)
        state = self._agent.view().state
        resp.data = self._agent.offload(lambda: wire.encode(document(state.export())))

    def on_put(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Make the host match a state; with dry_run=true tell what that would change."""
        dry_run = parameters(req, {"dry_run": boolean}).get("dry_run", False)
        data = read_body(req, self._agent.settings.max_state_size)
        state = self._agent.offload(lambda: wire.decode_state(data))
        resp.data = wire.encode(self._planned(state) if dry_run else self._applied(state))

    def _planned(self, state: State) -> StatePlan:
        event = Replace(state)

        def plan(engine: Informant) -> StatePlan:
            known = engine.inspect()
            return StatePlan(known.plan(event), told(known.kept(event)))

        return self._agent.submit(Look(plan, meanwhile=True))

    def _applied(self, state: State) -> StateChanged:
        return state_changed(self._agent.submit(Change(Replace(state))))


class _Look:
    """A call that runs something in the engine's thread."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def look(self, ask: Callable[[Informant], T]) -> T:
        """What the engine answers."""
        return self._agent.submit(Look(ask, meanwhile=True))


class PlanNow(_Look):
    """``/v1/plan``."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """What the agent would change in the kernel now."""
        parameters(req)
        resp.data = wire.encode(Plan(self.look(lambda engine: engine.inspect().plan())))


class LastPlans(_Look):
    """``/v1/plans``."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The last attempts to make the kernel agree, and what came of them."""
        parameters(req)
        resp.data = wire.encode(Plans(self.look(lambda engine: engine.history.told())))


class Resync(_Look):
    """``/v1/resync``."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Read everything back now and repair it."""
        parameters(req)
        repaired = self.look(lambda engine: engine.resync())
        failure = self._agent.view().failure
        if failure:
            raise NotApplied(failure)
        resp.data = wire.encode(Repairs(repaired))


class Explain(_Look):
    """``/v1/explain``."""

    NEEDS: Mapping[str, Level] = {"POST": "read"}

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """What becomes of a packet here, rule by rule; with trace=SECONDS of real ones as well, which are watched."""
        seconds = parameters(req, {"trace": integer(1, MOST_TRACED)}).get("trace", 0)
        if seconds:
            require(req, "write")  # packets are marked in the kernel
        question = wire.decode_question(read_body(req, self._agent.settings.max_body_size))
        try:
            explained = self.look(lambda engine: engine.inspect().explain(question))
            trace = self._trace(question, seconds) if seconds else None
            resp.data = wire.encode(replace(explained, trace=trace))
        except Invalid as error:
            raise wire.BadRequest(error.field, error.reason) from None

    def _trace(self, question: Question, seconds: int) -> Trace:
        watch = self.look(lambda engine: engine.inspect().watcher(question))
        watched = self._agent.apart(lambda ended: watch(seconds, ended))
        return self.look(lambda engine: engine.inspect().traced(watched, seconds))


class Chains(_Look):
    """``/v1/chains``."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The chains of ours in the kernel, with counters, and what each rule is there for."""
        asked: dict[str, Any] = parameters(req, {"table": one_of(*TABLES), "family": _family})
        chains = self.look(lambda engine: engine.inspect().live_chains(asked.get("table"), asked.get("family")))
        resp.data = wire.encode(msgspec.convert({"chains": chains}, LiveChains))


def _family(text: str) -> int:
    return {"4": 4, "6": 6}[one_of("4", "6")(text)]
