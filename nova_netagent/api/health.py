"""What watches the agent: versions, liveness, readiness, metrics and the status at a glance."""

from datetime import UTC, datetime

import falcon
from prometheus_client import CONTENT_TYPE_LATEST

from nova_netagent.api import errors, wire
from nova_netagent.api.agent import Agent
from nova_netagent.api.answers import (
    MOST_TROUBLES,
    Broker,
    Health,
    Link,
    Report,
    Version,
    VersionAnswer,
    Versions,
    counts_by_kind,
    totals,
    troubles,
)
from nova_netagent.api.requests import parameters
from nova_netagent.status import Connection

V1 = Version("v1.0", "CURRENT", (Link("self", "/v1/"), Link("describedby", "/openapi.json")))
NOT_READY = "the stored state was not applied yet"


class Root:
    """``/``."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Name and versions."""
        resp.data = wire.encode(Versions("nova-netagent", self._agent.about().version, (V1,)))


class OneVersion:
    """``/v1``, where the versions' links lead."""

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """What is told of the version."""
        resp.data = wire.encode(VersionAnswer(V1))


class Live:
    """``/livez``."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Whether the loop turns."""
        live, reason = self._agent.live()
        _answer(resp, live, reason or "the engine's loop does not turn")


class Ready:
    """``/readyz``."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Whether the stored state has been in the kernel once."""
        view = self._agent.view()
        _answer(resp, view.ready, view.failure or NOT_READY)


def _answer(resp: falcon.Response, well: bool, reason: str) -> None:
    if well:
        resp.data = wire.encode(Health())
    else:
        errors.answer(resp, 503, reason)


class MetricsText:
    """``/metrics``."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Everything counted, in Prometheus' text format."""
        view = self._agent.view()
        gauge = self._agent.metrics.objects
        for kind, counts in counts_by_kind(view, troubles(view)).items():
            for state, count in counts.items():
                gauge.labels(kind, state).set(count)
        resp.content_type = CONTENT_TYPE_LATEST
        resp.data = self._agent.metrics.text()


class StatusReport:
    """``/v1/status``."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """How the agent does. Never waits for the engine."""
        parameters(req)
        resp.data = wire.encode(report(self._agent))


def report(agent: Agent) -> Report:
    """How an agent does now."""
    view, about = agent.view(), agent.about()
    live, reason = agent.live()
    failure = view.failure or view.revocation_failure or ("" if view.ready else NOT_READY)
    if not live:
        failure = reason or failure
    not_done = troubles(view)
    kinds = counts_by_kind(view, not_done)
    return Report(
        enforcing=live and view.ready and not failure,
        live=live,
        ready=view.ready,
        failure=failure,
        warnings=view.warnings,
        host=about.host,
        version=about.version,
        backend=about.backend,
        see_with=about.see_with,
        started_at=_written(about.started) or "",
        uptime_seconds=round(about.uptime, 1),
        applied_at=_written(view.applied_at),
        verified_at=_written(view.verified_at),
        counts=totals(kinds),
        kinds=kinds,
        troubles=not_done[:MOST_TROUBLES],
        troubles_total=len(not_done),
        rpc=_broker(agent.rpc()),
    )


def _broker(found: Connection | None) -> Broker | None:
    if found is None:
        return None
    return Broker(found.connected, _written(found.changed_at) or "", _written(found.synced_at), found.failure)


def _written(seconds: float | None) -> str | None:
    """A time of the epoch as RFC 3339 has it, in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
