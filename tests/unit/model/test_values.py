"""The parsers of values: one canonical text for each value, a reason for everything else."""

from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nova_netagent.model import protocols, values
from nova_netagent.model.values import Prefix

UUID = "01234567-89ab-cdef-0123-456789abcdef"

GOOD: list[tuple[Callable[[str], str], str, str]] = [
    (values.uuid, UUID, UUID),
    (values.uuid, UUID.upper(), UUID),
    (values.ip, "10.0.0.1", "10.0.0.1"),
    (values.ip, "FD00:0:0::0001", "fd00::1"),
    (values.ip, "::", "::"),
    (values.ip, "::FFFF:1.2.3.4", "::ffff:1.2.3.4"),
    (values.ip, "2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
    (values.ipv4, "255.255.255.255", "255.255.255.255"),
    (values.ipv6, "FE80::1", "fe80::1"),
    (values.cidr, "10.0.0.0/24", "10.0.0.0/24"),
    (values.cidr, "10.0.0.77/24", "10.0.0.0/24"),
    (values.cidr, "10.0.0.77", "10.0.0.77/32"),
    (values.cidr, "10.0.0.77/032", "10.0.0.77/32"),
    (values.cidr, "10.0.0.77/0", "0.0.0.0/0"),
    (values.cidr, "10.128.0.1/1", "0.0.0.0/1"),
    (values.cidr, "FD00:1::77/64", "fd00:1::/64"),
    (values.cidr, "FD00:1::77", "fd00:1::77/128"),
    (values.cidr, "::1/0", "::/0"),
    (values.cidr, "fd00::ffff/127", "fd00::fffe/127"),
    (values.mac, "FA:16:3E:00:00:01", "fa:16:3e:00:00:01"),
    (values.interface, "tap0123456-78", "tap0123456-78"),
    (values.interface, "eth0.100", "eth0.100"),
    (values.interface, "x", "x"),
    (values.interface, "fifteen-letters", "fifteen-letters"),
    (values.interface, "_br@if=2", "_br@if=2"),
    (values.hostname, "vm-1.example.org", "vm-1.example.org"),
    (values.hostname, "x", "x"),
    (values.domain, "novalocal", "novalocal"),
    (values.domain, ".cloud.example.com.", "cloud.example.com"),
    (values.domain, "", ""),
    (values.domain, ".", ""),
    (values.domain, f"{'a' * 63}.b", f"{'a' * 63}.b"),
    (values.hostname, "a" * 255, "a" * 255),
    (values.host_ip, "FD00::1", "fd00::1"),
    (values.host_ipv4, "192.0.2.1", "192.0.2.1"),
    (values.printable, "", ""),
    (values.printable, "Ünïcode is fine", "Ünïcode is fine"),
    (values.printable, "x" * 255, "x" * 255),
]

BAD: list[tuple[Callable[[str], str], list[str]]] = [
    (values.uuid, ["", "x", UUID[:-1], UUID + "0", UUID.replace("-", ""), "{" + UUID + "}", UUID + "\n"]),
    (values.uuid, ["g" + UUID[1:], "0123456789ab-cdef-0123-4567-89abcdef", " " + UUID]),
    (values.ip, ["", "10.0.0", "10.0.0.256", "10.0.0.1/32", "010.0.0.1", "10.0.0.1 ", "1", "10.0.0.1\0"]),
    (values.ip, ["fe80::1%eth0", ":::", "fd00::g", "host", "\u0661.2.3.4"]),
    (values.ipv4, ["fd00::1", "::ffff:1.2.3.4", "", "10.0.0"]),
    (values.ipv6, ["10.0.0.1", "", "fd00::1/64", "fe80::1%1"]),
    (values.host_ip, ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1", "x"]),
    (values.host_ipv4, ["fd00::1", "127.1.2.3"]),
    (values.cidr, ["", "/24", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/24/24", "10.0.0.0/ 24"]),
    (values.cidr, ["10.0.0.0/+4", "10.0.0/24", "fd00::/129", "10.0.0.0/255.0.0.0", "10.0.0.0/24\n"]),
    (values.cidr, ["10.0.0.0/1000", "10.0.0.0/\u0664"]),
    (
        values.mac,
        ["", "fa:16:3e:00:00", "fa:16:3e:00:00:01:02", "fa-16-3e-00-00-01", "fa163e000001", "f:16:3e:00:00:1"],
    ),
    (values.mac, ["fa:16:3e:00:00:0g", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"]),
    (values.mac, ["fa:16:3e:00:00:01\n"]),
    (values.interface, ["", "sixteen-letters-", "a b", "eth/0", "eth:0", "tap+", "+", ".", "..", "-eth", "@x", "a\0"]),
    (values.interface, ["eth0\n", 'e"', "e'", "e!", "é", "lo", "all", "default"]),
    (values.domain, ["novalocal,10.0.0.0/8", "a b", "#", "a..b", "a\nignore", "é", "a" * 64, ".".join(["a" * 63] * 4)]),
    (values.hostname, ["", "a b", "-a", "a-", ".a", "a.", "a\n", "é", "a" * 256, "a,b", "a/b"]),
    (values.printable, ["x" * 256, "line\n", "\t", "bell\a", "\x7f", "\u2028", "\ud800"]),
]


@pytest.mark.parametrize(("parse", "text", "canonical"), GOOD)
def test_a_value_becomes_its_canonical_text(parse: Callable[[str], str], text: str, canonical: str) -> None:
    assert parse(text) == canonical
    assert parse(canonical) == canonical


@pytest.mark.parametrize(("parse", "text"), [(parse, text) for parse, texts in BAD for text in texts])
def test_what_is_no_value_is_refused_with_a_reason(parse: Callable[[str], str], text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse(text)
    assert "\n" not in str(caught.value) or "\n" in text


@pytest.mark.parametrize("parse", {parse: None for parse, _ in BAD} | {protocols.parse: None})
@pytest.mark.parametrize("text", ["\0" * 1_000_000, f"10.0.0.0/{'1' * 1_000_000}"])
def test_a_refusal_repeats_no_megabyte(parse: Callable[[str], str], text: str) -> None:
    """It is written to the log, and read by a person."""
    with pytest.raises(ValueError, match=r"… is not") as caught:
        parse(text)
    assert len(str(caught.value)) < 400


ANY_IP = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
ANY_CIDR = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), st.tuples(st.ip_addresses(v=6), st.integers(0, 128))
).map(lambda pair: f"{pair[0]}/{pair[1]}")


@given(ANY_IP)
def test_addresses_are_what_pythons_own_library_takes_them_for(text: str) -> None:
    canonical = values.ip(text)
    assert ip_address(canonical) == ip_address(text)
    assert values.ip(canonical) == canonical
    assert values.prefix(text).value == int(ip_address(text))
    assert values.host(canonical) == values.cidr(text)


@given(ANY_CIDR)
def test_prefixes_are_what_pythons_own_library_takes_them_for(text: str) -> None:
    network = ip_network(text, strict=False)
    canonical = values.cidr(text)
    assert ip_network(canonical) == network
    assert values.cidr(canonical) == canonical
    prefix = values.prefix(text)
    assert prefix == Prefix(network.version, int(network.network_address), network.prefixlen)
    assert prefix.last == int(network.broadcast_address)
    assert values.prefix_text(prefix) == canonical
    assert values.address_text(prefix.family, prefix.value) == values.ip(str(network.network_address))


@st.composite
def near_prefixes(draw: st.DrawFn) -> Prefix:
    family = draw(st.sampled_from((4, 6)))
    bits = values.FAMILY_BITS[family]
    length = draw(st.sampled_from((0, 1, 8, bits - 8, bits - 2, bits - 1, bits)))
    value = draw(st.integers(0, 2**bits - 1) | st.integers(0, 9))
    return values.prefix(f"{values.address_text(family, value)}/{length}")


@given(near_prefixes(), near_prefixes())
def test_containing_and_overlapping(one: Prefix, other: Prefix) -> None:
    a, b = (ip_network(values.prefix_text(each)) for each in (one, other))
    same_family = a.version == b.version
    assert one.contains(other) == (same_family and b.subnet_of(a))  # type: ignore[arg-type]
    assert one.overlaps(other) == (same_family and a.overlaps(b))
    assert one.contains(one)
    assert one.overlaps(other) == other.overlaps(one)
    if same_family and one.length <= other.length:
        assert (other.within(one.length) == one) == one.contains(other)


@given(st.text(max_size=12))
def test_parsers_refuse_by_value_error_only(text: str) -> None:
    for parse in (values.uuid, values.ip, values.ipv4, values.ipv6, values.cidr, values.mac, values.interface):
        try:
            canonical = parse(text)
        except ValueError:
            continue
        assert parse(canonical) == canonical


@pytest.mark.parametrize(
    ("mac", "address"),
    [
        ("fa:16:3e:00:00:01", "fe80::f816:3eff:fe00:1"),
        ("00:00:00:00:00:00", "fe80::200:ff:fe00:0"),
        ("02:ff:ff:ff:ff:ff", "fe80::ff:ffff:feff:ffff"),
    ],
)
def test_the_link_local_address_of_a_mac(mac: str, address: str) -> None:
    """RFC 4291, appendix A: the universal bit is turned over, ff:fe goes in the middle."""
    assert values.link_local(mac) == address


def test_a_host_prefix() -> None:
    assert values.host("10.0.0.1") == "10.0.0.1/32"
    assert values.host("fd00::1") == "fd00::1/128"
