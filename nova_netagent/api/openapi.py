"""The OpenAPI 3.1 description, generated from the classes that validate and answer."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from msgspec import json

from nova_netagent.api.host import MOST_TRACED, TABLES
from nova_netagent.api.objects import LIMIT_MAX, path_of
from nova_netagent.api.requests import REVISION_MAX
from nova_netagent.api.schemas import Schema, components, id_schema, reference
from nova_netagent.api.wire import described
from nova_netagent.model import KINDS, Object

_ABOUT = """\
What a host's network should be, told to its agent, which makes the kernel agree.

Every object is described by a PUT to its own path, whole each time; the order in which
objects arrive does not matter. A PUT or DELETE answers when the kernel has it. What refers
to something that is not described yet answers 202 and is completed when that comes.
"""
_REFUSED = {
    400: "What was sent cannot be meant; field says where.",
    401: "It is not known who asks: over TCP a token of Keystone's is missing or not valid.",
    403: "Who asks may not do this.",
    404: "There is no such object.",
    408: "The body did not come in time.",
    409: "The revision is behind what is known; nothing was changed.",
    411: "The body has no Content-Length.",
    413: "The body is too large.",
    415: "The body is no JSON.",
    503: "It cannot be done now. A change that is on disk stays and is retried; its object's status says why.",
}
_SECURITY = {
    "certificate": {"type": "mutualTLS", "description": "Over TCP: one that [api] ca_file has signed."},
    "token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token", "description": "Over TCP: Keystone's."},
}
"""Over the unix socket there is none of them."""

_BODY = (400, 408, 411, 413, 415)


@cache
def description(version: str) -> bytes:
    """The description as JSON.

    :param version: the program's.
    """
    return json.encode(document_of(version))


def document_of(version: str) -> dict[str, Any]:
    """The description as builtins."""
    paths: dict[str, Any] = {}
    for kind, cls in KINDS.items():
        paths[path_of(kind)] = {"get": _list(kind, cls)}
        paths[f"{path_of(kind)}/{{id}}"] = _item(kind, cls)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nova-netagent",
            "version": version,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": {**paths, **_host_paths(), **_health_paths()},
        "components": {"schemas": components(), "responses": _refusals(), "securitySchemes": _SECURITY},
        "security": [{}, *({name: []} for name in _SECURITY)],
    }


# --- objects


def _list(kind: str, cls: type[Object]) -> Schema:
    return _operation(
        f"list_{kind}",
        f"List {_plural(kind)} in order of id.",
        {200: (f"The {_plural(kind)}.", reference(f"{cls.__name__}List"), None)},
        refused=(400,),
        parameters=[
            _query(
                "limit", {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX}, "At most so many; all by default."
            ),
            _query("marker", id_schema(cls), "Only what comes after this id."),
        ],
    )


def _item(kind: str, cls: type[Object]) -> Schema:
    name, one = cls.__name__, _plural(kind).removesuffix("s")
    a = "an" if one[0] in "aeiou" else "a"
    example = _examples()[kind]
    answer = reference(f"{name}Answer")
    answered, waiting = {**example, "status": _DONE}, {**example, "status": _WAITING}
    wait = _query("wait", {"type": "boolean", "default": True}, "With false it answers 202 as soon as it is on disk.")
    revision = {"type": "integer", "minimum": 0, "maximum": REVISION_MAX}
    return {
        "parameters": [{"name": "id", "in": "path", "required": True, "schema": id_schema(cls)}],
        "get": _operation(
            f"show_{kind}", f"Show {a} {one}.", {200: (f"The {one}.", answer, answered)}, refused=(400, 404)
        ),
        "put": _operation(
            f"set_{kind}",
            f"Create or replace {a} {one}.",
            {
                200: ("It was there; it is as described now.", answer, answered),
                201: ("It is new.", answer, answered),
                202: ("It is on disk; it waits for another object, or nobody waited for it.", answer, waiting),
            },
            refused=(*_BODY, 409, 503),
            parameters=[wait],
            body=(reference(f"{name}Body"), example),
        ),
        "delete": _operation(
            f"delete_{kind}",
            f"Delete {a} {one}.",
            {204: ("It is gone, its rules too.", None, None)},
            refused=(400, 404, 409, 503),
            parameters=[_query("revision", revision, "Remembered, so that an older PUT does not bring it back.")],
        ),
    }


_DONE = {"state": "done", "revision": 1, "message": ""}
_WAITING = {
    "state": "pending",
    "revision": 1,
    "message": "network e0000001-0000-4000-8000-000000000001 is not there yet",
}


def _plural(kind: str) -> str:
    return kind.replace("_", " ").replace("ips", "IPs")


@cache
def _examples() -> dict[str, dict[str, Any]]:
    """One object of each kind, made by the model, so that it is a valid one."""
    from nova_netagent import testing  # builders: needed by this page alone

    web = testing.make_rule(1, protocol="tcp", port_range_min=443, port_range_max=443, remote_ip_prefix="0.0.0.0/0")
    made: tuple[Object, ...] = (
        testing.make_network(1),
        testing.make_group(1, web),
        testing.make_instance(1, groups=(1,)),
        testing.make_floating_ip(1),
        testing.make_provider_rule(1),
    )
    return {each.KIND: described(each, None) for each in made}


# --- the host


def _host_paths() -> dict[str, Any]:
    return {
        "/v1/state": _state(),
        "/v1/plan": {"get": _plan()},
        "/v1/plans": {"get": _plans()},
        "/v1/resync": {"post": _resync()},
        "/v1/status": {"get": _status()},
        "/v1/chains": {"get": _chains()},
        "/v1/explain": {"post": _explain()},
    }


def _state() -> Schema:
    whole = {kind: [each] for kind, each in _examples().items()}
    schema = reference("State")
    changed = {"anyOf": [reference("StateChanged"), reference("StatePlan")]}
    dry_run = {"type": "boolean", "default": False}
    return {
        "get": _operation(
            "export_state",
            "Everything that is described, as a PUT takes it.",
            {200: ("The state.", schema, whole)},
            refused=(400,),
        ),
        "put": _operation(
            "replace_state",
            "Make the host match a state, removing what it does not name.",
            {200: ("What became of it, or with dry_run the plan.", changed, None)},
            refused=(*_BODY, 409, 503),
            parameters=[_query("dry_run", dry_run, "With true nothing changes; the plan is answered.")],
            body=(schema, whole),
        ),
    }


_LINES = ["IPv4 filter: -A nova-netagent-inst-a0000001 -j nova-netagent-sg-fallback"]


def _plan() -> Schema:
    return _operation(
        "plan",
        "What the agent would change in the kernel now.",
        {200: ("Edits, a line each.", reference("Plan"), {"plan": _LINES})},
        refused=(400, 503),
    )


def _plans() -> Schema:
    return _operation(
        "plans",
        "The last attempts to make the kernel agree, and what came of them.",
        {200: ("The newest first.", reference("Plans"), None)},
        refused=(400, 503),
    )


def _resync() -> Schema:
    return _operation(
        "resync",
        "Read everything back from the kernel now and repair it.",
        {200: ("Repairs, a line each.", reference("Repairs"), {"repaired": _LINES})},
        refused=(400, 503),
    )


def _status() -> Schema:
    return _operation(
        "status", "How the agent does, at a glance.", {200: ("A report.", reference("Report"), None)}, refused=(400,)
    )


_QUESTION = {"proto": "tcp", "src": "203.0.113.9:40000", "dst": "10.1.0.2:443", "in_dev": "eth0"}


def _explain() -> Schema:
    return _operation(
        "explain",
        "What becomes of a packet here, rule by rule, by the rules that the kernel has now.",
        {200: ("Its way, and what refused it.", reference("Explanation"), None)},
        refused=(*_BODY, 503),
        body=(reference("Question"), _QUESTION),
        parameters=[
            _query(
                "trace",
                {"type": "integer", "minimum": 1, "maximum": MOST_TRACED},
                "Seconds for which real packets of this kind are watched.",
            )
        ],
    )


def _chains() -> Schema:
    return _operation(
        "chains",
        "Our chains as the kernel has them, with counters and owners.",
        {200: ("The chains.", reference("LiveChains"), None)},
        refused=(400, 503),
        parameters=[
            _query("table", {"enum": list(TABLES)}, "Those of one table."),
            _query("family", {"enum": [4, 6]}, "Those of one address family."),
        ],
    )


def _health_paths() -> dict[str, Any]:
    text = {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    schema = {"description": "This.", "content": {"application/json": {"schema": {"type": "object"}}}}
    well = {200: ("It is.", reference("Health"), {"ok": True})}
    versions = {200: ("The versions.", reference("Versions"), None)}
    version = {200: ("The version.", reference("VersionAnswer"), None)}
    return {
        "/": {"get": _operation("versions", "Name and versions.", versions)},
        "/v1": {"get": _operation("version", "What is told of this version.", version)},
        "/openapi.json": {
            "get": {"operationId": "openapi", "summary": "This description.", "responses": {"200": schema}}
        },
        "/livez": {"get": _operation("livez", "Whether the loop turns.", well, refused=(503,))},
        "/readyz": {"get": _operation("readyz", "Whether the stored state was applied once.", well, refused=(503,))},
        "/metrics": {"get": {"operationId": "metrics", "summary": "What is counted.", "responses": {"200": text}}},
    }


# --- parts

_Answers = Mapping[int, tuple[str, Schema | None, object]]
"""By HTTP status what it means, the schema of its body and an example."""


def _operation(
    name: str,
    summary: str,
    answers: _Answers,
    *,
    refused: tuple[int, ...] = (),
    parameters: list[Schema] | None = None,
    body: tuple[Schema, object] | None = None,
) -> Schema:
    found: Schema = {"operationId": name, "summary": summary}
    if parameters:
        found["parameters"] = parameters
    if body is not None:
        found["requestBody"] = {"required": True, "content": _json(*body)}
    responses: Schema = {}
    for code, (text, schema, example) in answers.items():
        responses[str(code)] = {"description": text} | ({} if schema is None else {"content": _json(schema, example)})
    responses |= {str(code): {"$ref": f"#/components/responses/{code}"} for code in sorted({*refused, 401, 403})}
    return found | {"responses": responses}


def _json(schema: Schema, example: object) -> Schema:
    return {"application/json": {"schema": schema} | ({} if example is None else {"example": example})}


def _query(name: str, schema: Schema, text: str) -> Schema:
    return {"name": name, "in": "query", "description": text, "schema": schema}


def _refusals() -> dict[str, Schema]:
    return {
        str(code): {"description": text, "content": _json(reference("Error"), None)} for code, text in _REFUSED.items()
    }
