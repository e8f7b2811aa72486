"""The kinds of objects: how they are named on a command line, and what a list shows of each."""

from argparse import ArgumentTypeError
from typing import Any

KINDS = ("networks", "instances", "security_groups", "floating_ips", "provider_rules")

NAMES = {"networks": "label", "instances": "hostname", "security_groups": "name"}
"""The field by which people call those that have one."""

Document = dict[str, Any]


def kind(text: str) -> str:
    """A kind as a person writes it: dashes or underscores, singular or plural."""
    plural = text.lower().replace("-", "_").removesuffix("s") + "s"
    if plural not in KINDS:
        known = ", ".join(each.replace("_", "-") for each in KINDS)
        raise ArgumentTypeError(f"{text!r} is not a kind: {known}")
    return plural


def spoken(name: str) -> str:
    """A kind in a sentence."""
    return name.replace("_", " ").replace("ip", "IP")


def path(name: str, id_: str = "") -> str:
    """A kind's path in the API, or one object's."""
    base = f"/v1/{name.replace('_', '-')}"
    return f"{base}/{id_}" if id_ else base


def row(name: str, item: Document) -> tuple[list[str], list[Any]]:
    """What a list shows of an object: titles and values."""
    titles, values = _COLUMNS[name](item)
    status = item.get("status", {})
    return [*titles.split(), "STATE", "REASON"], [*values, status.get("state", ""), status.get("message", "")]


def _network(item: Document) -> tuple[str, list[Any]]:
    shown = [item.get(field) for field in ("id", "label", "bridge", "vlan", "cidr", "cidr_v6")]
    return "ID LABEL BRIDGE VLAN CIDR CIDR_V6", shown


def _instance(item: Document) -> tuple[str, list[Any]]:
    vifs = item.get("vifs", [])
    devices = [vif.get("devname") for vif in vifs]
    addresses = [address for vif in vifs for address in vif.get("fixed_ips", [])]
    return "ID HOSTNAME DEVICES ADDRESSES GROUPS", [
        item.get("id"),
        item.get("hostname"),
        devices,
        addresses,
        len(item.get("security_groups", [])),
    ]


def _security_group(item: Document) -> tuple[str, list[Any]]:
    return "ID NAME RULES REMOTE_MEMBERS", [
        item.get("id"),
        item.get("name"),
        len(item.get("rules", [])),
        len(item.get("members", [])),
    ]


def _floating_ip(item: Document) -> tuple[str, list[Any]]:
    return "ID FIXED_IP INTERFACE INSTANCE", [
        item.get(field) for field in ("id", "fixed_ip_address", "interface", "instance_id")
    ]


def _provider_rule(item: Document) -> tuple[str, list[Any]]:
    low, high = item.get("port_range_min"), item.get("port_range_max")
    ports = low if low == high or high is None else f"{low}:{high}"
    return "ID FROM PROTOCOL PORTS", [item.get("id"), item.get("remote_ip_prefix"), item.get("protocol"), ports]


_COLUMNS = {
    "networks": _network,
    "instances": _instance,
    "security_groups": _security_group,
    "floating_ips": _floating_ip,
    "provider_rules": _provider_rule,
}
