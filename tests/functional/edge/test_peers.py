"""The unix socket: its mode says who gets in, the other end's user and groups what they may do there."""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nova_netagent.model import document
from nova_netagent.testing import make_network, network_id
from tests.lab.agent import render_ini
from tests.unit.api.served import Served

NETWORK = f"/v1/networks/{network_id(1)}"
BODY = document(make_network(1))
NOBODY = 64_991
"""A user and a group that nobody has."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become others")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with tempfile.TemporaryDirectory(prefix="netagent-peers-") as folder:
        Path(folder).chmod(0o755)
        config = Path(folder, "agent.conf")
        config.write_text(render_ini({"DEFAULT": {"my_ip": "192.0.2.1"}, "api": {"socket_mode": "0666"}}))
        made = Served(Path(folder, "api.sock"), {"config": str(config)})
        yield made
        made.end()


def ask(served: Served, groups: Sequence[int], method: str, target: str, body: object = None) -> tuple[int, Any]:
    """Send a request as nobody who is in some groups."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(writing, json.dumps(served.request(method, target, body)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as answer:
        code, document_ = json.loads(answer.read())
        return code, document_


def test_whom_the_mode_lets_in_and_is_not_in_the_group_may_read(served: Served) -> None:
    assert served.request("PUT", NETWORK, BODY)[0] == 201
    assert ask(served, [], "GET", NETWORK)[1]["label"] == BODY["label"]
    assert ask(served, [], "GET", "/v1/status")[0] == 200
    for method, target, level in (
        ("PUT", NETWORK, "write"),
        ("DELETE", NETWORK, "write"),
        ("PUT", "/v1/state", "admin"),
        ("POST", "/v1/explain?trace=1", "write"),
    ):
        code, answer = ask(served, [NOBODY + 1], method, target, BODY)
        assert (code, answer["error"]["title"]) == (403, "Forbidden")
        assert answer["error"]["message"].startswith(f"uid {NOBODY} (process ")
        assert answer["error"]["message"].endswith(f") may not {level} here")
    assert served.request("GET", NETWORK)[0] == 200


def test_who_is_in_its_group_may_write(served: Served) -> None:
    group = served.path.stat().st_gid
    assert ask(served, [NOBODY + 1, group], "PUT", NETWORK, BODY)[0] in (200, 201)
    assert ask(served, [group], "PUT", "/v1/state", {})[0] == 200


def test_who_is_in_more_groups_than_can_be_asked_for_may_read(served: Served) -> None:
    group = served.path.stat().st_gid
    many = [*range(100_000, 100_300), group]
    assert ask(served, many, "GET", "/v1/networks")[0] == 200
    assert ask(served, many, "PUT", "/v1/state", {})[0] == 403
