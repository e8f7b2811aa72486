"""The kernel's connection-tracking table does what every table does."""

import socket
import struct
from collections.abc import Iterator

import pytest

from nova_netagent.backend.conntrack import Conntrack, ConntrackError
from nova_netagent.netfilter.flow import Addresses, Flow, Side
from tests.lab import isolation

pytest.register_assert_rewrite("tests.unit.backend.flows_contract")

from tests.unit.backend.flows_contract import EVERYBODY, ONE, OUTSIDE, FlowTableContract, flow  # noqa: E402

TCP_ESTABLISHED, LIBERAL = 3, 0x08


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def nest(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | 0x8000, b"".join(attributes))


def tuple_of(kind: int, each: Flow, side: Side, number: int) -> bytes:
    first = 1 if each.family == 4 else 3
    family = socket.AF_INET if each.family == 4 else socket.AF_INET6
    ends = [socket.inet_pton(family, address) for address in (side.source, side.destination)]
    proto = [attribute(1, bytes([each.protocol]))]
    if side.icmp is not None:
        at = 4 if each.family == 4 else 7
        proto += [
            attribute(at, struct.pack("!H", number)),
            *(attribute(at + 1 + n, bytes([side.icmp[n]])) for n in (0, 1)),
        ]
    elif side.source_port is not None:
        proto += [
            attribute(2, struct.pack("!H", side.source_port)),
            attribute(3, struct.pack("!H", side.destination_port)),
        ]
    return nest(kind, nest(1, attribute(first, ends[0]), attribute(first + 1, ends[1])), nest(2, *proto))


def creation(each: Flow, sequence: int) -> bytes:
    """IPCTNL_MSG_CT_NEW."""
    body = tuple_of(1, each, each.original, 7) + tuple_of(2, each, each.reply, 7)
    body += attribute(7, struct.pack("!I", 100)) + attribute(18, struct.pack("!H", each.zone))
    if each.protocol == 6:
        flags = bytes([LIBERAL if each.picked_up else 0, LIBERAL])
        body += nest(4, nest(1, attribute(1, bytes([TCP_ESTABLISHED])), attribute(4, flags), attribute(5, flags)))
    family = socket.AF_INET if each.family == 4 else socket.AF_INET6
    head = struct.pack("=IHHIIBBH", 20 + len(body), 1 << 8, 0x605, sequence, 0, family, 0, 0)
    return head + body


class KernelWorld:
    """The kernel's table, and somebody who puts flows there."""

    def __init__(self) -> None:
        self.table = Conntrack()
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        self._netlink.bind((0, 0))

    def track(self, *flows: Flow) -> None:
        for number, each in enumerate(flows):
            self._netlink.send(creation(each, number))
            code = struct.unpack_from("=i", self._netlink.recv(65536), 16)[0]
            assert code == 0, f"{code} for {each}"

    def close(self) -> None:
        self.table.delete(self.table.flows(EVERYBODY))
        self.table.close()
        self._netlink.close()


@pytest.fixture
def world() -> Iterator[KernelWorld]:
    isolation.require()
    made = KernelWorld()
    yield made
    made.close()


class TestConntrack(FlowTableContract):
    """All of it."""


def test_after_a_failure_it_starts_anew(world: KernelWorld) -> None:
    world.track(flow(OUTSIDE[4], ONE[4]))
    assert len(world.table.flows(EVERYBODY)) == 1
    assert world.table._socket is not None
    world.table._socket.close()
    with pytest.raises(ConntrackError, match="cannot be read"):
        world.table.flows(EVERYBODY)
    assert len(world.table.flows(Addresses(frozenset({ONE[4]})))) == 1


def test_a_flow_that_the_kernel_does_not_understand_is_told(world: KernelWorld) -> None:
    unnamed = Flow(4, 6, Side("10.0.0.1", "10.0.0.2"), Side("10.0.0.2", "10.0.0.1"), handle=attribute(1, b"\1\2\3\4"))
    with pytest.raises(ConntrackError, match="cannot be deleted"):
        world.table.delete([unnamed])
