"""Law 5: a rule that the kernel refuses puts its object in error, and touches no other."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nova_netagent.model import Object, document
from nova_netagent.testing import make_floating_ip, make_group, make_instance, make_provider_rule, make_rule
from tests.functional.agent.cloud import CONFIG, Cloud
from tests.functional.agent.kernel import counted, kernel, metric
from tests.functional.agent.refusing_agent import REFUSED
from tests.lab import Flood, Lab, needs, ping

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter")

ECHO = make_rule(1, protocol="icmp")
BAD = make_group(9, ECHO, make_rule(9, protocol="tcp", port_range_min=9, port_range_max=9, remote_ip_prefix=REFUSED))


class Strict(Cloud):
    """A host whose kernel refuses a rule, with an instance that anybody may ping."""

    def __init__(self, lab: Lab, backend: str) -> None:
        self.lab = lab
        self.host = lab.host()
        self.backend = backend
        command = [sys.executable, str(Path(__file__).with_name("refusing_agent.py"))]
        self.agent = lab.agent(self.host, {**CONFIG, "firewall": {"backend": backend}}, command=command)
        self.network(1)
        self.outside.links.add_route("198.51.100.0/24", device="eth0")
        self.put(make_group(1, ECHO))
        self.vm1, self.vm2 = self.instance(1, (1,)), self.guest(2)

    def put_refused(self, *objects: Object) -> dict[str, Any]:
        """Describe objects, of which the last is refused; the error that it was answered with."""
        self.put(*objects[:-1])
        each = objects[-1]
        code, answer = self.agent.request("PUT", f"/v1/{each.KIND.replace('_', '-')}/{each.id}", document(each))
        assert code == 503, answer
        error: dict[str, Any] = answer["error"]
        return error


@pytest.fixture
def strict(lab: Lab, backend: str) -> Strict:
    return Strict(lab, backend)


def test_its_object_is_in_error_and_says_why(strict: Strict) -> None:
    strict.put(make_instance(2, (9,)))
    error = strict.put_refused(BAD)
    place = {"iptables": "IPv4 filter", "nftables": "ip rule nova-netagent-sgi-b0000009"}[strict.backend]
    assert place in error["message"]
    status = strict.status(BAD)
    assert status["state"] == "error"
    assert place in status["message"]
    assert strict.status(make_instance(2))["state"] == "pending", "it waits for its group"
    assert strict.status(make_instance(1))["state"] == "done"
    report = strict.agent.request("GET", "/v1/status")[1]
    assert (report["enforcing"], report["counts"]["error"]) == (True, 1)
    assert metric(strict.agent, "apply_errors_total", reason="refused") >= 1


def test_what_comes_after_it_is_done(strict: Strict) -> None:
    strict.put(make_instance(2, (9,)))
    strict.put_refused(BAD)
    strict.put(make_provider_rule(1), make_group(2, ECHO), make_instance(2, (2,)), make_floating_ip(1))
    for each in (make_provider_rule(1), make_group(2), make_instance(2), make_floating_ip(1)):
        assert strict.status(each)["state"] == "done"
    assert ping(strict.outside, strict.vm2)
    assert ping(strict.outside, "198.51.100.1")


def test_one_among_many_in_one_request(strict: Strict) -> None:
    state = strict.agent.state()
    groups = [document(make_group(n, ECHO)) for n in range(10, 40)]
    instances = [document(make_instance(n, (n,))) for n in range(10, 40)]
    bad = [document(BAD), document(make_instance(2, (9, 1)))]
    state["security_groups"] += [*groups, bad[0]]
    state["instances"] += [*instances, bad[1]]
    counts = strict.agent.state(state)["counts"]
    assert (counts["error"], counts["pending"]) == (1, 1)
    assert strict.status(BAD)["state"] == "error"
    assert ping(strict.outside, strict.vm2), "by the group that is well"


def test_corrected_by_an_update_it_is_done(strict: Strict) -> None:
    strict.put(make_instance(2, (9,)))
    strict.put_refused(BAD)
    strict.put(make_group(9, ECHO))
    assert strict.status(BAD)["state"] == "done"
    assert strict.status(make_instance(2))["state"] == "done"
    assert ping(strict.outside, strict.vm2)


def test_deleted_it_leaves_nothing(strict: Strict) -> None:
    strict.put(make_group(2, ECHO), make_instance(2, (2,)))
    before = kernel(strict.host)
    strict.put(make_instance(2, (9,)))
    strict.put_refused(BAD)
    strict.put(make_instance(2, (2,)))
    strict.delete(BAD)
    assert kernel(strict.host) == before


def test_nobody_else_loses_a_packet_or_a_count(strict: Strict) -> None:
    """Not when it is found out, not at a resync that tries it again, not at a restart."""

    def counts() -> dict[str, int]:
        """By rule; of those that read the same, of which there may be some in nf_tables, the sum."""
        found = Counter[str]()
        for text, packets, _ in counted(strict.host):
            if "inst-a0000001" in text or "sgi-" in text:
                found[text] += packets
        return found

    with Flood(strict.outside, strict.vm1) as flood:
        strict.put(make_instance(2, (9,)))
        strict.put_refused(BAD)
        at_first = counts()
        for _ in range(3):
            assert strict.agent.resync()["repaired"] == []
        strict.agent.restart()
        then = counts()
    assert flood.sent > 50
    assert not flood.lost
    assert any(at_first.values())
    assert all(then[text] >= packets for text, packets in at_first.items())
    assert strict.status(BAD)["state"] == "error"


def test_a_refused_provider_rule_leaves_the_instances_alone(strict: Strict) -> None:
    bad = make_provider_rule(9, protocol="tcp", port_range_min=9, port_range_max=9, remote_ip_prefix=REFUSED)
    before = kernel(strict.host)
    strict.put_refused(bad)
    assert kernel(strict.host) == before
    assert strict.status(bad)["state"] == "error"
    assert strict.status(make_instance(1))["state"] == "done"
