"""What a sender may write, and what is said to it otherwise."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nova_netagent.api import answers, wire
from nova_netagent.api.requests import boolean, integer, one_of
from nova_netagent.model import KINDS, State, document
from nova_netagent.testing import make_group, make_id, make_instance, make_network, make_rule
from tests.properties.strategies import states
from tests.unit.api.bodies import anything, mutated

ID = make_id("e", 1)
NETWORK = {"id": ID, "label": "net", "bridge": "br1"}
RULE = {"id": make_id("c", 1), "direction": "ingress", "ethertype": "IPv4"}


def refused(kind: str, body: object, id_: str = ID) -> tuple[str | None, str]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(wire.BadRequest) as caught:
        wire.decode_object(kind, id_, data)
    assert caught.value.code == 400
    return caught.value.field, caught.value.message


def refused_network(**fields: object) -> tuple[str | None, str]:
    return refused("networks", {**NETWORK, **fields})


def refused_rule(**fields: object) -> tuple[str | None, str]:
    return refused("security_groups", {"rules": [RULE, {**RULE, "id": make_id("c", 2), **fields}]})


# --- ids


def test_the_id_of_the_path_is_the_body_s_when_it_has_none() -> None:
    item = wire.decode_object("networks", ID.upper(), b'{"label": "net", "bridge": "br1"}')
    assert item.id == ID


def test_an_id_in_the_body_may_be_spelled_differently() -> None:
    assert wire.decode_object("networks", ID, json.dumps({**NETWORK, "id": ID.upper()}).encode()).id == ID


def test_another_id_in_the_body_is_refused() -> None:
    other = make_id("e", 2)
    assert refused_network(id=other) == ("id", f'"{other}" is not the id in the path, "{ID}"')


def test_an_id_in_the_path_that_no_object_can_have_is_refused() -> None:
    assert refused("networks", NETWORK, "net") == ("id", "'net' is not a UUID")
    assert refused("floating_ips", {"fixed_ip_address": "10.0.0.1"}, ID)[0] == "id"
    assert refused("floating_ips", {"fixed_ip_address": "10.0.0.1"}, "198.51.100.256")[0] == "id"


def test_an_id_of_another_type_is_refused() -> None:
    assert refused_network(id=None) == ("id", "null is not a string")
    assert refused_network(id=7) == ("id", "7 is not a string")


def test_a_floating_ip_is_known_by_its_address() -> None:
    assert wire.decode_object("floating_ips", "198.51.100.1", b'{"fixed_ip_address": "10.0.0.1"}').id == "198.51.100.1"


def test_without_a_path_the_body_brings_its_id() -> None:
    assert wire.convert_object("networks", NETWORK).id == ID
    with pytest.raises(wire.BadRequest) as caught:
        wire.convert_object("networks", {"label": "net", "bridge": "br1"})
    assert (caught.value.field, caught.value.message) == ("id", "is required")


# --- the field and the reason


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"vlan": 0}, "vlan", "0 is not an integer from 1 to 4094 or null"),
        ({"vlan": "5"}, "vlan", '"5" is not an integer from 1 to 4094 or null'),
        ({"vlan": 5.0}, "vlan", "5.0 is not an integer from 1 to 4094 or null"),
        ({"vlan": True}, "vlan", "true is not an integer from 1 to 4094 or null"),
        ({"nova_id": 2**63}, "nova_id", f"{2**63} is not an integer from 0 to {2**63 - 1} or null"),
        ({"enable_dhcp": "yes"}, "enable_dhcp", '"yes" is not true or false or null'),
        ({"label": ["a"]}, "label", "a list is not a string"),
        ({"label": "a\0b"}, "label", "'a\\x00b' is not a text of at most 255 printable characters"),
        ({"cidr": "10.0.0.0/33"}, "cidr", "'10.0.0.0/33' is not a CIDR: the prefix length is 0 to 32"),
        (
            {"cidr": "10.0.0.0/24", "gateway": "10.0.1.1"},
            "gateway",
            "10.0.1.1 is outside the network's cidr 10.0.0.0/24",
        ),
        ({"cidr_v6": "fd00::/64", "mtu": 1279}, "mtu", "at least 1280 with IPv6 (RFC 8200, section 5)"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_allowed(fields: dict[str, object], field: str, message: str) -> None:
    assert refused_network(**fields) == (field, message)


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"direction": "in"}, "direction", '"in" is not "egress" or "ingress"'),
        ({"ethertype": None}, "ethertype", 'null is not "IPv4" or "IPv6"'),
        ({"protocol": 1.5}, "protocol", "1.5 is not a string or an integer or null"),
        (
            {"protocol": "tcp", "port_range_min": 2, "port_range_max": 1},
            "port_range_max",
            "the range is reversed: 2 is above 1",
        ),
        ({"port_range_min": 1, "port_range_max": 2}, "port_range_min", "ports need a protocol, like tcp"),
        (
            {"remote_ip_prefix": "10.0.0.0/8", "remote_group_id": ID},
            "remote_group_id",
            "a rule has a remote_ip_prefix or a remote_group_id, not both",
        ),
    ],
)
def test_a_wrong_field_of_a_rule_is_found_by_its_index(fields: dict[str, object], field: str, message: str) -> None:
    assert refused_rule(**fields) == (f"rules[1].{field}", message)


def test_what_is_missing_is_named() -> None:
    assert refused("networks", {"label": "net"}) == ("bridge", "is required")
    assert refused("security_groups", {"rules": [{"id": ID}]}) == ("rules[0].direction", "is required")


def test_what_is_unknown_is_named_with_what_is_known() -> None:
    assert refused_rule(port=1) == (
        "rules[1].port",
        "is not a field here; these are: protocol, port_range_min, port_range_max, id, direction, ethertype, "
        "source_port_range_min, source_port_range_max, remote_ip_prefix, remote_group_id",
    )
    assert refused_network(status={})[0] == "status"


def test_a_path_of_many_steps() -> None:
    instance = document(make_instance(1))
    assert isinstance(instance, dict)
    instance["vifs"][0]["allowed_address_pairs"] = [{"ip_address": "10.0.0.1"}, {"ip_address": "x"}]
    with pytest.raises(wire.BadRequest) as caught:
        wire.decode_state(json.dumps({"instances": [instance]}).encode())
    assert caught.value.field == "instances[0].vifs[0].allowed_address_pairs[1].ip_address"
    assert str(caught.value) == f"{caught.value.field}: {caught.value.message}"


def test_no_more_than_a_little_of_a_long_value_is_repeated() -> None:
    field, message = refused_network(vlan="9" * 5000)
    assert (field, len(message) < 200) == ("vlan", True)
    field, _ = refused_network(**{"x" * 5000: 1})
    assert field is not None
    assert len(field) < 200
    field, _ = refused("networks", f'{{"{"x" * 5000}": 1, "{"x" * 5000}": 1}}'.encode())
    assert field is not None
    assert len(field) < 200


@pytest.mark.parametrize("protocol", ["tcp", "icmp"])
def test_a_port_of_thousands_of_digits(protocol: str) -> None:
    field, message = refused_rule(protocol=protocol, port_range_min=int("9" * 4000), port_range_max=1)
    assert (field, len(message) < 200) == ("rules[1].port_range_min", True)


@pytest.mark.parametrize("parse", [boolean, integer(1, 5), one_of("a", "b")])
def test_a_long_parameter(parse: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match=r"… is not") as caught:
        parse("9" * 5000)
    assert len(str(caught.value)) < 200


# --- JSON


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the body is empty"),
        (b" \n", "the body is empty"),
        (b"{", "the body is not JSON: Expecting property name enclosed in double quotes, at line 1, column 2"),
        (b'{"a": 1} x', "the body is not JSON: Extra data, at line 1, column 10"),
        (b"[]", "the body is a list, not an object"),
        (b"null", "the body is null, not an object"),
        (b'"text"', 'the body is "text", not an object'),
        (b"\xff", "the body is not UTF-8: byte 0xff at 0"),
        (b'{"a": "\xed\xa0\x80"}', "the body is not UTF-8: byte 0xed at 7"),
        (
            b'\xef\xbb\xbf{"a": 1}',
            "the body is not JSON: Unexpected UTF-8 BOM (decode using utf-8-sig), at line 1, column 1",
        ),
        ('{"a": 1}'.encode("utf-16"), "the body is not UTF-8: byte 0xff at 0"),
        (b'{"a": NaN}', "the body is not JSON: NaN is no number of JSON's"),
        (b'{"a": -Infinity}', "the body is not JSON: -Infinity is no number of JSON's"),
        (b'{"a": ' + b"9" * 5000 + b"}", "the body has a number of more than 4300 digits"),
        (b"[" * 100_000, "the body is nested too deeply"),
        (b'{"a": ' * 100_000, "the body is nested too deeply"),
        (b'{"label": "\\ud800"}', "the body has an unpaired surrogate (\\ud800 to \\udfff) in a string"),
        (b'{"\\udfff": 1}', "the body has an unpaired surrogate (\\ud800 to \\udfff) in a string"),
    ],
)
def test_what_is_no_json_is_refused_as_a_whole(data: bytes, message: str) -> None:
    assert refused("networks", data) == (None, message)


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert wire.parse(b'"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b'{"label": "a", "label": "a"}', "label"),
        (b'{"rules": [{"id": 1}, {"id": 1, "protocol": "tcp", "id": 2}]}', "rules[1].id"),
        (b'{"id": {"a": [{"b": 1, "b": 2}]}}', "id.a[0].b"),
    ],
)
def test_a_key_given_twice_is_refused_with_its_place(data: bytes, field: str) -> None:
    """Two readers of one body could otherwise see two bodies."""
    assert refused("networks", data) == (field, "the key is given twice in one object")


def test_a_large_number_is_no_integer() -> None:
    assert refused_network(vlan=float("1e300"))[0] == "vlan"
    assert refused("networks", b'{"label": "a", "bridge": "b", "mtu": 1e400}')[0] == "mtu"
    assert refused_network(mtu=10**40)[0] == "mtu"


# --- answers


def test_an_object_is_answered_with_its_defaults_and_its_status() -> None:
    body = wire.described(make_group(1, make_rule(1)), answers.Trouble("x", "y", "done", 3, "z"))  # type: ignore[arg-type]
    assert body["stateful"] is True
    assert list(body)[-1] == "status"


def test_a_refusal_can_always_be_written() -> None:
    error = answers.refusal_body(400, "\ud800", "a.\udfff")
    assert json.loads(error)["error"] == {
        "code": 400,
        "title": "Bad Request",
        "message": "\\ud800",
        "field": "a.\\udfff",
    }
    assert json.loads(answers.refusal_body(799, "?"))["error"]["title"] == "Error"


# --- anything at all


def only_bad_request(kind: str, data: bytes) -> Any:
    try:
        return wire.decode_state(data) if kind == "state" else wire.decode_object(kind, _any_id(kind), data)
    except wire.BadRequest as error:
        refusal = error
    written = json.loads(answers.refusal_body(refusal.code, refusal.message, refusal.field))["error"]
    assert written["code"] == 400
    assert written["message"]
    return None


def _any_id(kind: str) -> str:
    return "198.51.100.1" if kind == "floating_ips" else ID


def again(kind: str, item: Any) -> Any:
    data = wire.encode(document(item))
    return wire.decode_state(data) if kind == "state" else wire.decode_object(kind, item.id, data)


kinds = st.sampled_from((*KINDS, "state"))


@given(kinds, st.binary(max_size=200))
def test_bytes_are_read_or_refused(kind: str, data: bytes) -> None:
    only_bad_request(kind, data)


@given(kinds, anything)
def test_json_is_read_or_refused(kind: str, body: object) -> None:
    only_bad_request(kind, json.dumps(body).encode())


@settings(max_examples=300)
@given(st.data(), states())
def test_a_spoilt_state_is_read_or_refused_and_what_is_read_reads_again(data: st.DataObject, state: State) -> None:
    body = data.draw(mutated(document(state)))
    found = only_bad_request("state", json.dumps(body).encode())
    if found is not None:
        assert again("state", found) == found


@settings(max_examples=300)
@given(st.data(), states())
def test_a_spoilt_object_is_read_or_refused_and_what_is_read_reads_again(data: st.DataObject, state: State) -> None:
    for item in state.objects():
        body = data.draw(mutated(document(item)))
        found = only_bad_request(item.KIND, json.dumps(body).encode())
        if found is not None:
            assert again(item.KIND, found) == found


@given(states())
def test_what_is_exported_reads_as_the_same(state: State) -> None:
    assert again("state", state) == state
    for item in state.objects():
        assert again(item.KIND, item) == item
    assert wire.convert_state(document(state)) == state
    assert wire.convert_object("networks", document(make_network(1))) == make_network(1)
