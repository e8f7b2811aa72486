"""Bodies as a sender writes them, and what becomes of them."""

import re
from typing import Any

import msgspec
from msgspec.structs import replace

from nova_netagent.model import KINDS, Invalid, Object, State, document
from nova_netagent.testing import (
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
)

GOOD: dict[str, Object] = {
    "networks": make_network(1, bridge_interface="eth1", vlan=100, mtu=1400, dns1="192.0.2.53", nova_id=7, revision=3),
    "instances": make_instance(1, (1, 2), revision=1),
    "security_groups": make_group(1, make_rule(1), members=("10.9.0.5",)),
    "floating_ips": make_floating_ip(1, interface="eth0"),
    "provider_rules": make_provider_rule(1),
}
NOTHING = object()


def body_of(kind: str, **fields: Any) -> dict[str, Any]:
    """A good body with some fields as given; ``NOTHING`` leaves one out."""
    body = document(GOOD[kind])
    assert isinstance(body, dict)
    return {name: value for name, value in (body | fields).items() if value is not NOTHING}


def read(kind: str, body: object) -> Object:
    """The object that a body describes."""
    return msgspec.convert(body, KINDS[kind])


def refused_field(kind: str, body: object) -> tuple[str, str]:
    """Which field of a body is refused, and why.

    What msgspec itself refuses (types, limits, unknown fields) it names by its path.
    """
    try:
        read(kind, body)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        path = path.rstrip("`").removeprefix(".")
        if isinstance(error.__cause__, Invalid):
            return ".".join(filter(None, (path, error.__cause__.field))), error.__cause__.reason
        named = re.search(r"(?:unknown|required) field `(.*)`", text)
        return ".".join(filter(None, (path, named[1] if named else ""))), text
    raise AssertionError("it is accepted")


def state_with(**kinds: tuple[Any, ...]) -> State:
    """A whole state."""
    return replace(State(), **kinds)
