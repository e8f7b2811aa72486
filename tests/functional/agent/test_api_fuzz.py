"""Garbage over the real socket: the agent says no, goes on, and neither state nor kernel moves."""

import json
import os
import random
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from nova_netagent.model import document
from nova_netagent.testing import (
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
)
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import eventually, kernel
from tests.lab import needs

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter")

SEED = int(os.environ.get("NOVA_NETAGENT_SEED", "0")) or random.randrange(1, 1 << 32)
OBJECTS = (
    make_network(1),
    make_group(1, make_rule(1)),
    make_instance(1, (1,)),
    make_floating_ip(1),
    make_provider_rule(1),
)
IDS = (make_network(9).id, "198.51.100.99", "0", "%00", "a" * 300, "%C3%BC")
QUERIES = ("x=1", "wait=maybe", "revision=-1", "limit=0", "dry_run=2", "table=x&family=5")
BODIES = (b"", b"{", b"\xff\xfe", b"[" * 5000, b"null", b"[]", b'{"id": 1, "id": 2}')
WRONG: tuple[Any, ...] = (None, True, -1, 2**70, 0.5, "", "x" * 5000, "\0", "ü", "10.0.0.1/33", [], {}, [[]], [{}])
REQUEST = b"PUT /v1/networks/x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{bad}"


@pytest.fixture
def chance() -> random.Random:
    print(f"NOVA_NETAGENT_SEED={SEED}")
    return random.Random(SEED)


@pytest.fixture
def populated(cloud: Cloud) -> Cloud:
    cloud.put(*OBJECTS)
    return cloud


def unharmed(cloud: Cloud, before: tuple[Any, Any, int]) -> None:
    """State and kernel are as before, nothing is left open, and it was nobody's fault in here."""
    state, rules, descriptors = before
    assert (cloud.agent.state(), kernel(cloud.host)) == (state, rules)
    eventually(lambda: opened(cloud) <= descriptors, 5)
    assert cloud.agent.resync()["repaired"] == []
    assert "Traceback" not in cloud.agent.log


def opened(cloud: Cloud) -> int:
    return len(list(Path(f"/proc/{cloud.agent.pid}/fd").iterdir()))


def now(cloud: Cloud) -> tuple[Any, Any, int]:
    return cloud.agent.state(), kernel(cloud.host), opened(cloud) + 1


def test_every_operation_with_spoilt_bodies_ids_and_queries(populated: Cloud, chance: random.Random) -> None:
    before = now(populated)
    paths: dict[str, dict[str, Any]] = populated.agent.request("GET", "/openapi.json")[1]["paths"]
    refused = 0
    for path, item in paths.items():
        for method, operation in item.items():
            if method == "parameters":
                continue
            for _ in range(6):
                body = chance.choice((*BODIES, spoilt(chance)))
                target = f"{path.replace('{id}', chance.choice(IDS))}?{chance.choice(QUERIES)}"
                code, answer = populated.agent.request(method.upper(), target, body if method == "put" else None)
                assert str(code) in operation["responses"] or code == 404, (method, target, body)
                assert code < 500 or code == 503
                refused += code >= 400
                assert code < 400 or answer["error"]["code"] == code
    assert refused > 6 * len(paths) / 2
    unharmed(populated, before)


def test_good_bodies_with_one_part_spoilt(populated: Cloud, chance: random.Random) -> None:
    """At their own ids: whatever is refused leaves the object that is there."""
    before = now(populated)
    for each in OBJECTS:
        path = f"/v1/{each.KIND.replace('_', '-')}/{each.id}"
        good: Any = document(each)
        for field in good:
            for wrong in chance.sample(WRONG, 4):
                code, answer = populated.agent.request("PUT", path, {**good, field: wrong})
                if code >= 400:
                    assert code == 400
                    assert answer["error"]["field"]
                    assert populated.agent.state() == before[0], (field, wrong)
                else:
                    populated.agent.put(each.KIND.replace("_", "-"), good)
    unharmed(populated, before)


def test_bytes_that_are_no_http(populated: Cloud, chance: random.Random) -> None:
    before = now(populated)
    for _ in range(100):
        data = bytearray(REQUEST if chance.random() < 0.7 else chance.randbytes(200))
        for _ in range(chance.randrange(1, 5)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        said = sent(populated, bytes(data[: chance.randrange(1, len(data) + 1)]))
        # eventlet answers by HTTP/1.0 what it cannot read at all
        assert not said or re.match(rb"HTTP/1\.[01] 4\d\d ", said), said
    for line in (
        b"GET / HTTP/9.9",
        b"GET / HTTP/x",
        b"GET",
        b"FETCH / HTTP/1.1",
        b"GET " + b"/" * 100_000 + b" HTTP/1.1",
    ):
        said = sent(populated, line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert re.match(rb"HTTP/1\.[01] 4\d\d ", said), (line[:20], said)
    unharmed(populated, before)


def sent(cloud: Cloud, data: bytes) -> bytes:
    """What is answered to bytes, to the end of the connection."""
    said = b""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(cloud.agent.socket))
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while part := sock.recv(65536):
                said += part
        except ConnectionError:
            pass  # it answered before it had read everything
    return said


def spoilt(chance: random.Random) -> bytes:
    """A body of ours that lost its end, or has something strange in it."""
    body = json.dumps(document(chance.choice(OBJECTS))).encode()
    at = chance.randrange(len(body))
    return body[:at] if chance.random() < 0.5 else body[:at] + chance.randbytes(3) + body[at:]
