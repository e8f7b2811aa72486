"""The WSGI application: which path leads where."""

from typing import Any

import falcon

from nova_netagent.api import errors
from nova_netagent.api.access import Access, Gate, anybody
from nova_netagent.api.agent import Agent
from nova_netagent.api.health import Live, MetricsText, OneVersion, Ready, Root, StatusReport
from nova_netagent.api.host import Chains, Explain, LastPlans, PlanNow, Resync, WholeState
from nova_netagent.api.objects import Collection, Item, path_of
from nova_netagent.api.openapi import description
from nova_netagent.api.traffic import Traffic
from nova_netagent.model import KINDS


def make_app(agent: Agent, gate: Gate = anybody) -> "falcon.App[falcon.Request, falcon.Response]":
    """The API of an agent, for any WSGI server that gives each request a thread of some kind.

    :param agent: what it speaks for.
    :param gate: tells who sends a request, and what they may do.
    """
    middleware: list[Any] = [Traffic(agent.metrics), Access(gate)]
    app = falcon.App(middleware=middleware)
    app.req_options.strip_url_path_trailing_slash = True
    errors.add_handlers(app)
    for path, resource in _routes(agent).items():
        if hasattr(resource, "on_get"):
            resource.on_head = resource.on_get  # falcon leaves the body out
        app.add_route(path, resource)
    return app


def _routes(agent: Agent) -> dict[str, Any]:
    routes = {
        "/": Root(agent),
        "/v1": OneVersion(),
        "/openapi.json": Description(agent),
        "/livez": Live(agent),
        "/readyz": Ready(agent),
        "/metrics": MetricsText(agent),
        "/v1/state": WholeState(agent),
        "/v1/plan": PlanNow(agent),
        "/v1/plans": LastPlans(agent),
        "/v1/resync": Resync(agent),
        "/v1/status": StatusReport(agent),
        "/v1/chains": Chains(agent),
        "/v1/explain": Explain(agent),
    }
    for kind in KINDS:
        routes[path_of(kind)] = Collection(agent, kind)
        routes[f"{path_of(kind)}/{{id}}"] = Item(agent, kind)
    return routes


class Description:
    """``/openapi.json``."""

    def __init__(self, agent: Agent) -> None:
        self._version = agent.about().version

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """The description of all the others."""
        resp.data = description(self._version)
