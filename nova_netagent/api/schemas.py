"""JSON Schema of every body, generated from the classes that validate.

What a class checks when it is made, beyond the types that msgspec sees, is added here by
the model's own type aliases, so that a client learns of it before it sends.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any, get_args

import msgspec

from nova_netagent.api import answers
from nova_netagent.explain import question
from nova_netagent.explain.question import Question
from nova_netagent.explain.report import Explanation
from nova_netagent.model import KINDS, Object, State, objects, protocols
from nova_netagent.status import Status

Schema = dict[str, Any]

REF = "#/components/schemas/{name}"
_ANSWERS = (
    Status,
    answers.Error,
    answers.Versions,
    answers.VersionAnswer,
    answers.Health,
    answers.Plan,
    answers.StatePlan,
    answers.Plans,
    answers.Repairs,
    answers.StateChanged,
    answers.LiveChains,
    answers.Report,
    Question,
    Explanation,
)


def components() -> dict[str, Schema]:
    """Every schema by name.

    ``Network`` is what a whole state holds, ``NetworkBody`` what a PUT takes, ``NetworkAnswer`` what
    it answers, ``NetworkList`` what a list does; so for each kind.
    """
    _, generated = msgspec.json.schema_components((*KINDS.values(), State, *_ANSWERS), ref_template=REF)
    found = {name: _refined(name, schema) for name, schema in generated.items()}
    for kind, cls in KINDS.items():
        found |= _of_kind(kind, cls, found[cls.__name__])
    return dict(sorted(found.items()))


def reference(name: str) -> Schema:
    """A reference to a component."""
    return {"$ref": REF.format(name=name)}


def id_schema(cls: type[Object]) -> Schema:
    """What may stand as an object's id in a path."""
    _, generated = msgspec.json.schema_components((cls,), ref_template=REF)
    found: Schema = _refined(cls.__name__, generated[cls.__name__])["properties"]["id"]
    return found


def _of_kind(kind: str, cls: type[Object], schema: Schema) -> dict[str, Schema]:
    name = cls.__name__
    body = deepcopy(schema) | {"title": f"{name}Body"}
    body["required"] = [each for each in schema["required"] if each != "id"]
    answer = deepcopy(schema) | {"title": f"{name}Answer"}
    answer["properties"]["status"] = reference("Status")
    answer["required"] = [*schema["required"], "status"]
    listed: Schema = {
        "title": f"{name}List",
        "type": "object",
        "properties": {
            kind: {"type": "array", "items": reference(f"{name}Answer")},
            f"{kind}_links": {
                "description": "Where the rest is, when a limit was given and there is more.",
                "type": "array",
                "items": reference("Link"),
            },
        },
        "required": [kind],
        "additionalProperties": False,
    }
    return {f"{name}Body": body, f"{name}Answer": answer, f"{name}List": listed}


# --- what the classes check beyond their types


def _any_case(word: str) -> str:
    return "".join(f"[{char.upper()}{char}]" if char.isalpha() else char for char in word)


_BYTE = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"({_BYTE}\.){{3}}{_BYTE}"
_UNICAST_BYTE = r"([1-9]|[1-9][0-9]|1[01][0-9]|12[0-68-9]|1[3-9][0-9]|2[01][0-9]|22[0-3]|24[0-9]|25[0-5])"
_BROADCAST = r"255(\.255){3}"
_HOST4 = rf"{_UNICAST_BYTE}\.({_BYTE}\.){{2}}{_BYTE}"
_H16 = "[0-9A-Fa-f]{1,4}"
_LS32 = f"({_H16}:{_H16}|{_IPV4})"
_IPV6 = "({})".format(
    "|".join(  # RFC 3986, section 3.2.2
        [f"({_H16}:){{6}}{_LS32}", f"::({_H16}:){{5}}{_LS32}"]
        + [f"(({_H16}:){{0,{n}}}{_H16})?::({_H16}:){{{4 - n}}}{_LS32}" for n in range(4)]
        + [
            f"(({_H16}:){{0,4}}{_H16})?::{_LS32}",
            f"(({_H16}:){{0,5}}{_H16})?::{_H16}",
            f"(({_H16}:){{0,6}}{_H16})?::",
        ]
    )
)
_UP_TO_32 = "(0?0?[0-9]|0?[12][0-9]|0?3[0-2])"
_UP_TO_128 = "(0{0,2}[0-9]|0?[0-9]{2}|1[01][0-9]|12[0-8])"
_CIDR4 = f"{_IPV4}(/{_UP_TO_32})?"
_CIDR6 = f"{_IPV6}(/{_UP_TO_128})?"
_PORT_NUMBER = "0*([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_PORT = {"minimum": 0, "maximum": 65535}
_NUMBER = "[01]?[0-9]{1,2}|2[0-4][0-9]|25[0-5]"


def _whole(pattern: str) -> Schema:
    return {"pattern": f"^({pattern})$"}


def _meta(alias: Any) -> str:
    """What a type alias of the model is recognised by in a generated schema."""
    meta = get_args(alias)[1]
    assert isinstance(meta, msgspec.Meta)
    return meta.description or ""


_BY_ALIAS: Mapping[str, Schema] = {
    _meta(objects.Uuid): _whole("[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"),
    _meta(objects.Ip): _whole(f"{_HOST4}|{_IPV6}") | {"not": _whole(f"{_BROADCAST}|::1?|[Ff]{{2}}.*")},
    _meta(objects.Ipv4): _whole(_HOST4) | {"not": _whole(_BROADCAST)},
    _meta(objects.Ipv6): _whole(_IPV6),
    _meta(objects.Cidr): _whole(f"{_CIDR4}|{_CIDR6}"),
    _meta(objects.Mac): _whole("[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}"),
    _meta(objects.Interface): _whole("[A-Za-z0-9_][A-Za-z0-9_.@=-]{0,14}")
    | {"not": {"enum": ["all", "default", "lo"]}},
    _meta(objects.Hostname): _whole("[A-Za-z0-9_]([A-Za-z0-9_.-]{0,253}[A-Za-z0-9_])?"),
    _meta(objects.Text): _whole("[^\\x00-\\x1f\\x7f-\\xa0\\xad]*"),
    _meta(question.End): _whole(rf"{_IPV4}(:{_PORT_NUMBER})?|{_IPV6}|\[{_IPV6}\](:{_PORT_NUMBER})?"),
    _meta(objects.Protocol): {
        "anyOf": [
            {"type": "string"} | _whole("|".join([*map(_any_case, sorted(protocols.NUMBERS)), _NUMBER])),
            {"type": "integer", "minimum": 0, "maximum": 255},
        ],
        "examples": ["tcp", "icmp", 112],
    },
}
_BY_FIELD: Mapping[tuple[str, str], Schema] = {
    ("Network", "cidr"): _whole(_CIDR4),
    ("Network", "cidr_v6"): _whole(_CIDR6),
    **{
        (name, f"{prefix}_{end}"): _PORT
        for name, prefix in (
            ("SecurityGroupRule", "port_range"),
            ("SecurityGroupRule", "source_port_range"),
            ("ProviderRule", "port_range"),
        )
        for end in ("min", "max")
    },
}
"""Where a class checks a field more closely than its type says."""


def _refined(name: str, schema: Schema) -> Schema:
    found = deepcopy(schema)
    for field, each in found.get("properties", {}).items():
        for part in _parts(each):
            part.update(deepcopy(_BY_ALIAS.get(part.get("description", ""), {})))
            if part.get("type") in ("string", "integer"):
                part.update(deepcopy(_BY_FIELD.get((name, field), {})))
    return found


def _parts(schema: Schema) -> Iterable[Schema]:
    """A field's schema, the members of its union, the items of its list."""
    yield schema
    for member in schema.get("anyOf", ()):
        yield from _parts(member)
    if isinstance(schema.get("items"), dict):
        yield from _parts(schema["items"])
