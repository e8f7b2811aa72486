"""Equal objects are equal however they were spelled, and what is written out reads as the same."""

from typing import Any

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from nova_netagent.model import KINDS, Object, State, document
from nova_netagent.testing import group_id, instance_id, make_network, network_id, rule_id, vif_id
from tests.properties.strategies import states
from tests.unit.model.bodies import GOOD, NOTHING, body_of, read

thorough = settings(deadline=None, max_examples=100)

SPELLINGS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("networks", {"id": network_id(1).upper()}, {"id": network_id(1)}),
    ("networks", {"cidr": "10.1.0.77/24"}, {"cidr": "10.1.0.0/24"}),
    ("networks", {"cidr_v6": "FD00:1::0/64"}, {"cidr_v6": "fd00:1::/64"}),
    ("networks", {"gateway_v6": "fd00:1:0:0::0001"}, {"gateway_v6": "fd00:1::1"}),
    ("networks", {"dns1": "2001:DB8::53", "dns2": None}, {"dns1": "2001:db8::53"}),
    ("networks", {"enable_dhcp": None, "multi_host": None, "share_address": None}, {"enable_dhcp": True}),
    ("networks", {"mtu": None, "vlan": None}, {"vlan": None, "mtu": None}),
    ("instances", {"security_groups": [group_id(1).upper(), group_id(1)]}, {"security_groups": [group_id(1)]}),
    ("instances", {"hostname": None}, {"hostname": None, "project_id": None}),
    ("security_groups", {"stateful": None, "members": None}, {"stateful": True, "members": []}),
    (
        "security_groups",
        {"members": ["10.0.0.1", "10.0.0.1/32", "FD00::1"]},
        {"members": ["10.0.0.1/32", "fd00::1/128"]},
    ),
    ("floating_ips", {"interface": None}, {"interface": None, "instance_id": None}),
    ("floating_ips", {"instance_id": instance_id(1).upper()}, {"instance_id": instance_id(1)}),
    ("provider_rules", {"remote_ip_prefix": "203.0.113.9/24"}, {"remote_ip_prefix": "203.0.113.0/24"}),
    ("provider_rules", {"ethertype": None}, {"ethertype": "IPv4"}),
    ("provider_rules", {"protocol": "TCP"}, {"protocol": "tcp"}),
    ("provider_rules", {"protocol": "6"}, {"protocol": 6}),
    ("provider_rules", {"protocol": "ANY"}, {"protocol": "any"}),
]


@pytest.mark.parametrize(("kind", "one", "other"), SPELLINGS)
def test_equal_spellings_are_equal_objects(kind: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    assert read(kind, body_of(kind, **one)) == read(kind, body_of(kind, **other))
    assert document(read(kind, body_of(kind, **one))) == document(read(kind, body_of(kind, **other)))


def test_a_vif_in_other_words() -> None:
    spelled = {
        "id": vif_id(1).upper(),
        "address": "FA:16:3E:00:00:01",
        "network_id": network_id(1).upper(),
        "devname": None,
        "fixed_ips": ["10.1.0.2", "10.1.0.2", "FD00:1::2", "fd00:1:0::2"],
        "security_groups": None,
        "port_security_enabled": None,
        "allowed_address_pairs": [{"ip_address": "10.1.0.9", "mac_address": "FA:16:3E:00:00:02"}],
    }
    plain = {
        "id": vif_id(1),
        "address": "fa:16:3e:00:00:01",
        "network_id": network_id(1),
        "fixed_ips": ["10.1.0.2", "fd00:1::2"],
        "allowed_address_pairs": [{"ip_address": "10.1.0.9/32", "mac_address": "fa:16:3e:00:00:02"}],
    }
    assert read("instances", body_of("instances", vifs=[spelled])) == read(
        "instances", body_of("instances", vifs=[plain])
    )
    nothing = dict(plain, allowed_address_pairs=None)
    assert read("instances", body_of("instances", vifs=[nothing])).vifs[0].pairs == ()  # type: ignore[union-attr]


def test_an_empty_list_of_groups_is_not_a_missing_one() -> None:
    vif = {"id": vif_id(1), "address": "fa:16:3e:00:00:01", "network_id": network_id(1)}
    none = read("instances", body_of("instances", vifs=[{**vif, "security_groups": None}]))
    empty = read("instances", body_of("instances", vifs=[{**vif, "security_groups": []}]))
    assert none != empty


def test_a_rule_in_other_words() -> None:
    spelled = {
        "id": rule_id(1).upper(),
        "direction": "ingress",
        "ethertype": "IPv4",
        "protocol": "UDP",
        "port_range_min": 5,
        "port_range_max": 5,
        "remote_ip_prefix": "192.0.2.77/24",
        "remote_group_id": None,
    }
    plain = dict(spelled, id=rule_id(1), protocol="udp", remote_ip_prefix="192.0.2.0/24")
    one, other = (read("security_groups", body_of("security_groups", rules=[rule])) for rule in (spelled, plain))
    assert one == other


@pytest.mark.parametrize("item", GOOD.values(), ids=GOOD)
def test_a_document_has_its_defaults_and_no_nulls(item: Object) -> None:
    found = document(item)
    assert isinstance(found, dict)
    assert None not in found.values()
    assert found.keys() <= set(item.__struct_fields__)
    assert read(item.KIND, found) == item


def test_documents_of_defaults() -> None:
    found = document(make_network(1))
    assert isinstance(found, dict)
    assert found["enable_dhcp"] is True
    assert found["multi_host"] is False
    assert "mtu" not in found
    assert document((1, None, "x")) == [1, None, "x"]


@thorough
@given(states())
def test_a_state_that_is_written_out_reads_as_the_same(state: State) -> None:
    assert msgspec.convert(document(state), State) == state
    assert msgspec.json.decode(msgspec.json.encode(document(state)), type=State) == state
    assert msgspec.json.decode(msgspec.json.encode(state), type=State) == state


# --- any JSON at all

IPS = st.sampled_from(("10.1.0.1", "10.1.0.77", "10.2.0.1", "FD00:1::1", "fe80::1", "fd00:1:0::9", "x"))
CIDRS = st.sampled_from(("10.1.0.9/24", "10.1.0.0/24", "0.0.0.0/0", "FD00:1::/64", "10.1.0.7", "::1", "10.1.0.0/99"))
IDS = st.sampled_from((network_id(1), network_id(2).upper(), group_id(1), instance_id(2), "x"))
DEVICES = st.sampled_from(("br1", "br2", "eth0", "tap+"))
BOOLS = st.sampled_from((True, False, None, 1))
NUMBERS = st.sampled_from((None, 0, 1, 8, 1280, 2000, 70000, "5"))
TEXTS = st.sampled_from((None, "", "a-name", "x" * 300, "two\nlines"))
PROTOCOLS = st.sampled_from((None, "tcp", "TCP", "any", "icmp", 6, "17", 0, 58, 300))


@st.composite
def near(draw: st.DrawFn, /, body: dict[str, Any], **fields: st.SearchStrategy[Any]) -> dict[str, Any]:
    """A good body with a few fields drawn anew, or left out."""
    chosen = draw(st.lists(st.sampled_from(sorted(fields)), max_size=4, unique=True))
    changes = {name: draw(fields[name] | st.just(NOTHING)) for name in chosen}
    return {name: value for name, value in (body | changes).items() if value is not NOTHING}


RULES = near(
    {"id": rule_id(1), "direction": "ingress", "ethertype": "IPv4", "protocol": "udp"}, id=st.uuids().map(str),
    direction=st.sampled_from(("ingress", "egress", "x")), ethertype=st.sampled_from(("IPv4", "IPv6")), stray=NUMBERS,
    protocol=PROTOCOLS, port_range_min=NUMBERS, port_range_max=NUMBERS, remote_ip_prefix=CIDRS, remote_group_id=IDS,
)  # fmt: skip
VIFS = near(
    {"id": vif_id(1), "address": "fa:16:3e:00:00:01", "network_id": network_id(1)}, id=st.uuids().map(str),
    address=st.sampled_from(("FA:16:3E:00:00:01", "x")), network_id=IDS, devname=DEVICES, security_groups=st.lists(IDS),
    fixed_ips=st.lists(IPS, max_size=3), port_security_enabled=BOOLS, stray=NUMBERS,
    allowed_address_pairs=st.none() | st.lists(near({"ip_address": "10.0.0.1"}, ip_address=CIDRS), max_size=2),
)  # fmt: skip
BODIES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "networks": near(
        body_of("networks"), id=IDS, label=TEXTS, bridge=DEVICES, bridge_interface=DEVICES, cidr=CIDRS, cidr_v6=CIDRS,
        gateway=IPS, gateway_v6=IPS, mtu=NUMBERS, vlan=NUMBERS, enable_dhcp=BOOLS, dhcp_server=IPS, revision=NUMBERS,
        dns1=IPS, stray=NUMBERS,
    ),
    "instances": near(
        body_of("instances"), id=IDS, security_groups=st.lists(IDS, max_size=3), vifs=st.lists(VIFS, max_size=2),
        hostname=TEXTS, stray=NUMBERS,
    ),
    "security_groups": near(
        body_of("security_groups"), id=IDS, name=TEXTS, stateful=BOOLS, members=st.none() | st.lists(CIDRS, max_size=3),
        rules=st.lists(RULES, max_size=3), stray=NUMBERS,
    ),
    "floating_ips": near(
        body_of("floating_ips"), id=IPS, fixed_ip_address=IPS, interface=DEVICES, instance_id=IDS, stray=NUMBERS
    ),
    "provider_rules": near(
        body_of("provider_rules"), id=IDS, remote_ip_prefix=CIDRS, protocol=PROTOCOLS, port_range_min=NUMBERS,
        port_range_max=NUMBERS, ethertype=st.sampled_from((None, "IPv4", "IPv6")), revision=NUMBERS, stray=NUMBERS,
    ),
}  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(sorted(KINDS)).flatmap(lambda kind: st.tuples(st.just(kind), BODIES[kind])))
def test_what_is_accepted_is_written_and_read_as_an_equal_object(pair: tuple[str, dict[str, Any]]) -> None:
    kind, body = pair
    try:
        item = read(kind, body)
    except msgspec.ValidationError:
        event(f"{kind}: refused")
        return
    event(f"{kind}: accepted")
    again = msgspec.json.decode(msgspec.json.encode(item), type=KINDS[kind])
    assert again == item
    assert hash(again) == hash(item)
    assert read(kind, document(item)) == item
    assert document(again) == document(item)


@thorough
@given(
    st.sampled_from(sorted(KINDS)),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    ),
)
def test_nothing_else_than_a_validation_error_comes_out(kind: str, body: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        read(kind, body)
