"""The daemon under test, driven through its socket: here with a stub in its place."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Agent, AgentError, Lab, iptables, needs
from tests.lab.agent import daemon_command, render_ini

STUB = [sys.executable, str(Path(__file__).with_name("stub_agent.py"))]
GROUP: dict[str, Any] = {"id": "5b0e3b0a-0000-4000-8000-000000000001", "rules": []}


@pytest.fixture
def agent(lab: Lab) -> Agent:
    """The stub, started in a host."""
    return lab.agent(lab.host(), command=STUB)


def test_it_runs_in_the_hosts_namespace_with_its_sysfs(agent: Agent) -> None:
    assert f"net:[{agent.namespace.inode}] ['eth0', 'lo']" in agent.log


def test_objects(agent: Agent) -> None:
    assert agent.put("security-groups", GROUP)["status"]["state"] == "done"
    assert agent.get("security-groups", GROUP["id"]) == GROUP
    assert agent.get("security-groups") == [GROUP]
    assert agent.state() == {f"/v1/security-groups/{GROUP['id']}": GROUP}
    agent.delete("security-groups", GROUP["id"])
    assert agent.get("security-groups") == []
    assert agent.put("security-groups", GROUP, wait=False)["id"] == GROUP["id"]


def test_a_refusal_is_an_error_unless_asked_for_plainly(agent: Agent) -> None:
    with pytest.raises(AgentError, match="400"):
        agent.put("security-groups", {**GROUP, "bad": 1})
    status, answer = agent.request("PUT", "/v1/security-groups/x", {"bad": 1})
    assert (status, answer["error"]["field"]) == (400, "bad")
    with pytest.raises(AgentError, match="404"):
        agent.delete("security-groups", "nobody")


def test_its_lives(agent: Agent) -> None:
    first = agent.pid
    agent.stop()
    assert not agent.running
    agent.start()
    agent.restart()
    agent.kill9()
    assert agent.exit_code == -9
    agent.start()
    assert agent.pid != first
    assert agent.log.count("listening in") == 4


def test_an_unclean_end_is_noticed(lab: Lab) -> None:
    agent = lab.agent(lab.host(), {"DEFAULT": {"exit_code": 3}}, command=STUB)
    with pytest.raises(AgentError, match="ended with 3 after SIGTERM"):
        agent.stop()


def test_one_that_hangs_is_told_where(agent: Agent) -> None:
    where = agent.abort()
    assert "in the kernel: " in where
    assert "most recent call first" in where
    assert not agent.running


def test_an_agent_that_ends_before_it_is_ready(lab: Lab) -> None:
    with pytest.raises(AgentError, match=r"ended with 1 before(?s:.)*refused: \[DEFAULT\] broken"):
        lab.agent(lab.host(), {"DEFAULT": {"broken": True}}, command=STUB)


@needs("iptables", "ip6tables", "ipset", "program:iptables-legacy-save", "program:ipset")
def test_what_the_kernel_holds(agent: Agent) -> None:
    iptables(agent.namespace, "-A INPUT -p tcp --dport 7 -j DROP")
    iptables(agent.namespace, "-A INPUT -p tcp --dport 8 -j DROP", family=6)
    assert agent.iptables_save(table="filter").splitlines() == [
        "*filter",
        ":INPUT ACCEPT [0:0]",
        ":FORWARD ACCEPT [0:0]",
        ":OUTPUT ACCEPT [0:0]",
        "-A INPUT -p tcp -m tcp --dport 7 -j DROP",
        "COMMIT",
    ]
    assert "[0:0] -A INPUT -p tcp -m tcp --dport 8 -j DROP\n" in agent.iptables_save(counters=True, family=6)
    agent.namespace.run(["ipset", "restore"], stdin="create s hash:ip\nadd s 192.0.2.7\ncreate empty hash:net\n")
    assert agent.ipsets() == {"s": {"192.0.2.7"}, "empty": set()}


def test_the_configuration_file() -> None:
    values: dict[str, Any] = {"a": True, "b": ["x", "y"], "c": None, "d": 5}
    assert render_ini({"network": values}) == "[network]\na = true\nb = x,y\nd = 5\n"


def test_a_socket_path_too_long_for_the_kernel(lab: Lab, tmp_path: Path) -> None:
    agent = Agent(lab.host(), tmp_path / ("long" * 30), command=STUB)
    lab.agents.append(agent)
    agent.start()
    assert agent.request("GET", "/readyz") == (200, {"reason": "the state is not applied yet"})


def test_the_command_is_that_of_this_environment() -> None:
    assert Path(daemon_command()[0]).parent == Path(sys.executable).parent
