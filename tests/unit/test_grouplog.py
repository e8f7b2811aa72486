"""Lines of the log of security groups, from what the kernel tells, without a kernel."""

import socket
import struct
from pathlib import Path

import pytest

from nova_netagent.backend.nflog import Logged
from nova_netagent.compile.group_log import prefix
from nova_netagent.events import Put, fold
from nova_netagent.grouplog import Known, _File
from nova_netagent.model import DesiredState
from nova_netagent.settings import SecurityGroupLogSettings
from nova_netagent.testing import group_id, instance_id, make_group, make_instance, make_rule

RULES = (
    make_rule(1, protocol="tcp", port_range_min=80, port_range_max=90, remote_ip_prefix="192.0.2.0/25"),
    make_rule(2, protocol="tcp", remote_group_id=group_id(2)),
    make_rule(3, protocol="icmp", port_range_min=8),
    make_rule(4, direction="egress"),
    make_rule(5, protocol="tcp", port_range_min=443, port_range_max=443),
)
LINKS = {3: "tap1", 4: "eth0"}


@pytest.fixture
def known() -> Known:
    return Known(state(), SecurityGroupLogSettings(groups=(group_id(1), group_id(3))), lambda number: LINKS[number])


def state() -> DesiredState:
    found = DesiredState()
    for each in (make_group(1, *RULES), make_group(2), make_group(3), make_instance(1, (1, 2, 3))):
        found = fold(found, Put(each), 0.0)
    return found


def packet(protocol: int = 6, port: int = 80, source: str = "192.0.2.1", rest: bytes = bytes(16)) -> bytes:
    ends = socket.inet_aton(source) + socket.inet_aton("10.1.0.2")
    head = struct.pack(">BBHHHBBH", 0x45, 0, 40, 1, 0, 64, protocol, 0) + ends
    return head + (struct.pack(">HH", 4000, port) if protocol != 1 else b"\x08\0\0\0") + rest


def told(known: Known, told_as: str, data: bytes, **links: int) -> list[str]:
    return [each.partition(" ")[2] for each in known.lines([Logged(2, told_as, data, **links)], 0.0)]


def test_what_is_accepted_has_its_group_and_rule(known: Known) -> None:
    (line,) = told(known, prefix("accept", "ingress", group_id(1)), packet(), physout=3)
    assert line == (
        f"ACCEPT ingress group={group_id(1)} rule={RULES[0].id} instance={instance_id(1)}"
        " proto=tcp src=192.0.2.1:4000 dst=10.1.0.2:80"
    )


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (packet(port=443), RULES[4]),
        (packet(source="192.0.2.200"), RULES[1]),
        (packet(protocol=1), RULES[2]),
    ],
)
def test_the_rule_is_the_one_that_fits(known: Known, data: bytes, rule: object) -> None:
    """One that names addresses before one that names a group, of which a packet does not tell."""
    (line,) = told(known, prefix("accept", "ingress", group_id(1)), data)
    assert f"rule={getattr(rule, 'id')} instance={instance_id(1)}" in line  # noqa: B009


def test_what_is_refused_has_the_groups_that_are_logged(known: Known) -> None:
    (line,) = told(known, prefix("drop", "ingress", instance_id(1)), packet(17, 53))
    assert line.startswith(
        f"DROP ingress group={group_id(1)},{group_id(3)} rule=none instance={instance_id(1)} proto=udp"
    )


def test_what_is_not_known_any_more_is_told_as_far_as_it_is(known: Known) -> None:
    (line,) = told(known, prefix("accept", "egress", "gone"), packet(), physin=4)
    assert line.startswith("ACCEPT egress group=? rule=? instance=? proto=tcp")


@pytest.mark.parametrize("text", ["", "TRACE: raw:PREROUTING:policy:1", "accept", "reject ingress 1"])
def test_what_others_tell_is_no_line(known: Known, text: str) -> None:
    assert told(known, text, packet()) == []
    assert told(known, prefix("drop", "ingress", instance_id(1)), b"\x45") == []


def test_the_file_is_begun_anew_where_it_was_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "groups.log"
    file = _File(str(path))
    file.write(["one"])
    path.rename(tmp_path / "old")
    file.write([])
    assert not path.exists()
    file.write(["two", "three"])
    assert (tmp_path / "old").read_text() == "one\n"
    assert path.read_text() == "two\nthree\n"
    file.close()


def test_what_cannot_be_written_is_complained_of_once_in_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "missing" / "groups.log"
    file = _File(str(path))
    for _ in range(3):
        file.write(["lost"])
    assert len(caplog.records) == 1
    path.parent.mkdir()
    file.write(["there"])
    assert path.read_text() == "there\n"
