"""netagentctl as an operator runs it, against a served stub."""

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nova_netagent.cmd.ctl import main, parser
from nova_netagent.ctl import host
from nova_netagent.ctl.session import Session
from nova_netagent.model import Object, State, document
from nova_netagent.testing import (
    group_id,
    instance_id,
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_provider_rule,
    make_rule,
    network_id,
)
from tests.unit.api.served import ROOT, Served

STATE = State(
    networks=(make_network(1, vlan=101),),
    instances=(make_instance(1, groups=(1,)), make_instance(2, groups=(9,))),
    security_groups=(make_group(1, make_rule(1, protocol="tcp", port_range_min=22, port_range_max=22)),),
    floating_ips=(make_floating_ip(1),),
    provider_rules=(make_provider_rule(1, protocol="tcp", port_range_min=20, port_range_max=25),),
)
MISSING = f"security group {group_id(9)} is not there yet"
HELP = "; see netagentctl --help"


class Ctl:
    """Runs the tool; ``code``, ``out`` and ``err`` are of the last run."""

    def __init__(self, *options: str) -> None:
        self.options = options

    def __call__(self, *words: str, given: Any = None, env: dict[str, str] | None = None) -> "Ctl":
        data = given if given is None or isinstance(given, bytes) else json.dumps(given).encode()
        done = subprocess.run(
            [sys.executable, "-m", "nova_netagent.cmd.ctl", *self.options, *words],
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            timeout=60,
        )
        self.code, self.out, self.err = done.returncode, done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in self.err
        return self

    @property
    def said(self) -> tuple[int, str, str]:
        return self.code, self.out, self.err


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="netagent-ctl-") as folder:
        agent = Served(Path(folder) / "api.sock", {})
        yield agent
        agent.end()


@pytest.fixture
def agent(served: Served) -> Served:
    """An agent that knows STATE."""
    assert served.request("PUT", "/v1/state", {})[0] == 200
    assert served.request("PUT", "/v1/state", document(STATE))[0] == 200
    return served


@pytest.fixture
def ctl(agent: Served) -> Ctl:
    return Ctl("--socket", str(agent.path))


def body(item: Object, **fields: Any) -> dict[str, Any]:
    found = document(item)
    assert isinstance(found, dict)
    return {**found, **fields}


# --- looking


def test_status(ctl: Ctl) -> None:
    assert ctl("status").code == 0
    lines = ctl.out.splitlines()
    assert lines[0] == "enforcing  yes"
    assert lines[1] == "backend    iptables; see our rules with iptables-legacy-save"
    assert lines[2].startswith("host       node-1, version 1.2.3, up ")
    assert lines[3].startswith("applied    ")
    assert lines[5:11] == [
        "KIND             DONE  PENDING  ERROR",
        "networks            1        0      0",
        "instances           1        1      0",
        "security_groups     1        0      0",
        "floating_ips        1        0      0",
        "provider_rules      1        0      0",
    ]
    assert lines[12:] == [
        "KIND       ID                                    STATE    REASON",
        f"instances  {instance_id(2)}  pending  {MISSING}",
    ]


@pytest.mark.parametrize(
    ("kind", "title", "row"),
    [
        (
            "networks",
            "ID LABEL BRIDGE VLAN CIDR CIDR_V6 STATE",
            f"{network_id(1)} net1 br1 101 10.1.0.0/24 fd00:1::/64 done",
        ),
        ("security-groups", "ID NAME RULES REMOTE_MEMBERS STATE", f"{group_id(1)} group1 1 0 done"),
        ("floating-ips", "ID FIXED_IP STATE", "198.51.100.1 10.1.0.2 done"),
        ("provider-rules", "ID FROM PROTOCOL PORTS STATE", f"{make_provider_rule(1).id} 203.0.113.0/24 tcp 20:25 done"),
    ],
)
def test_list(ctl: Ctl, kind: str, title: str, row: str) -> None:
    assert ctl("list", kind).code == 0
    assert [line.split() for line in ctl.out.splitlines()] == [title.split(), row.split()]


def test_a_list_is_aligned_and_tells_why(ctl: Ctl) -> None:
    assert ctl("list", "instances").out.splitlines() == [
        "ID                                    HOSTNAME  DEVICES  ADDRESSES           GROUPS  STATE    REASON",
        f"{instance_id(1)}  vm1       tap1     10.1.0.2,fd00:1::2       1  done",
        f"{instance_id(2)}  vm2       tap2     10.1.0.3,fd00:1::3       1  pending  {MISSING}",
    ]


@pytest.mark.parametrize("kind", ["security_group", "security-groups", "Security-Group", "security_groups"])
def test_a_kind_may_be_spelled_as_one_likes(ctl: Ctl, kind: str) -> None:
    assert ctl("list", kind).code == 0


def test_a_list_of_nothing_is_empty(ctl: Ctl, agent: Served) -> None:
    agent.request("PUT", "/v1/state", {})
    assert ctl("list", "networks").said == (0, "", "")


def test_show(ctl: Ctl) -> None:
    assert ctl("show", "security-group", group_id(1).upper()).out.splitlines() == [
        f"id        {group_id(1)}",
        "name      group1",
        "stateful  yes",
        "state     done",
        "",
        "rules",
        "  ID                                    PROTOCOL  PORT_RANGE_MIN  PORT_RANGE_MAX  DIRECTION  ETHERTYPE",
        "  c0000001-0000-4000-8000-000000000001  tcp       22              22              ingress    IPv4",
    ]
    shown = ctl("show", "instance", instance_id(2)).out
    assert f"state            pending: {MISSING}\n" in shown


def test_what_is_not_there_is_3(ctl: Ctl) -> None:
    missing = f"netagentctl: there is no network {network_id(9)}\n"
    assert ctl("show", "network", network_id(9)).said == (3, "", missing)
    assert ctl("delete", "network", network_id(9)).said == (3, "", missing)
    assert ctl("show", "network", "../state").said == (3, "", "netagentctl: there is nothing at this path\n")
    assert ctl("show", "network", "a b\xff?x=1").code == 3


def test_chains(ctl: Ctl) -> None:
    assert ctl("chains").out.splitlines() == [
        "IPv4 filter",
        "",
        "  FORWARD (policy ACCEPT)",
        "      12   3400  -j nova-filter-top",
        "",
        "  nova-netagent-inst-a0000001",
        "   1235K 98765M  -p tcp -m tcp --dport 443 -j RETURN  # instance vm1: replies",
        "     *20      -  -d 10.0.0.1/32 -j ACCEPT",
        "       -      -  -o br1 -j nova-netagent-x",
        "",
        "IPv6 nat",
        "",
        "  nova-netagent-snat",
        "",
        "* matched this rule or another one of its set or map: the kernel counts them together",
        "",
        "- not counted: a rule of a map that the kernel asks without counting",
    ]
    assert ctl("chains", "--family", "6", "--table", "nat").out == "IPv6 nat\n\n  nova-netagent-snat\n"
    assert ctl("chains", "--table", "x").code == 2


# --- JSON is the API's own


@pytest.mark.parametrize(
    ("words", "target"),
    [
        (["list", "networks"], "/v1/networks"),
        (["show", "network", network_id(1)], f"/v1/networks/{network_id(1)}"),
        (["export"], "/v1/state"),
        (["plan"], "/v1/plan"),
        (["chains", "--family", "4"], "/v1/chains?family=4"),
    ],
)
def test_json_is_exactly_what_the_api_says(ctl: Ctl, agent: Served, words: list[str], target: str) -> None:
    plain = agent.raw(f"GET {target} HTTP/1.1\r\nConnection: close\r\n\r\n".encode()).partition(b"\r\n\r\n")[2].decode()
    assert ctl("--format", "json", *words).said == (0, plain + "\n", "")
    assert ctl(*words, "--format=json").said == (0, plain + "\n", "")


def test_json_of_a_change(ctl: Ctl) -> None:
    assert json.loads(ctl("set", "network", "-f", "-", "--format", "json", given=body(make_network(2))).out) == body(
        make_network(2), status={"state": "done", "revision": 1, "message": ""}
    )
    assert ctl("delete", "network", network_id(2), "--format", "json").said == (0, "", "")
    assert json.loads(ctl("apply", "-f", "-", "--format", "json", given={}).out)["counts"]["done"] == 0
    assert json.loads(ctl("status", "--format", "json").out)["enforcing"] is True
    assert json.loads(ctl("resync", "--format", "json").out) == {"repaired": []}


# --- changing


def test_set_one(ctl: Ctl, tmp_path: Path) -> None:
    file = tmp_path / "network.json"
    file.write_text(json.dumps(body(make_network(2))))
    assert ctl("set", "network", "-f", str(file)).said == (0, f"networks {network_id(2)} done\n", "")


def test_what_is_shown_can_be_set(ctl: Ctl) -> None:
    shown = ctl("show", "network", network_id(1), "--format", "json").out
    assert ctl("set", "networks", "-f", "-", given=shown.encode()).said == (0, f"networks {network_id(1)} done\n", "")
    listed = ctl("list", "instances", "--format", "json").out
    assert ctl("set", "instances", "-f", "-", given=listed.encode()).code == 5


def test_what_waits_is_5(ctl: Ctl) -> None:
    waiting = body(make_instance(3, groups=(9,)))
    assert ctl("set", "instance", "-f", "-", given=waiting).said == (
        5,
        f"instances {instance_id(3)} pending: {MISSING}\n",
        "",
    )
    assert ctl("set", "instance", "-f", "-", "--no-wait", given=body(make_instance(4, groups=(9,)))).code == 0


def test_one_that_is_refused_does_not_stop_the_others(ctl: Ctl) -> None:
    many = [
        body(make_network(2), vlan=5000),
        body(make_network(3)),
        body(make_network(4), mtu=1),
        body(make_network(5)),
    ]
    assert ctl("set", "networks", "-f", "-", given=many).said == (
        1,
        f"networks {network_id(3)} done\nnetworks {network_id(5)} done\n",
        f"netagentctl: networks {network_id(2)}: vlan: 5000 is not an integer from 1 to 4094 or null\n"
        f"netagentctl: networks {network_id(4)}: mtu: 1 is not an integer from 68 to 65535 or null\n",
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"", "standard input: not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"\xff", "standard input: not UTF-8"),
        (b"[" * 100_000, "standard input: not JSON: maximum recursion depth exceeded"),
        (b'{"id": "x", "id": "y"}', "standard input: id: the key is given twice in one object"),
        (b"7", "standard input: an object with an id is expected"),
        (b'[{"id": "x"}, {}]', "standard input[1]: an object with an id is expected"),
        (b'{"id": ""}', "standard input: an object with an id is expected"),
    ],
)
def test_what_is_no_object_is_refused(ctl: Ctl, given: bytes, message: str) -> None:
    assert ctl("set", "networks", "-f", "-", given=given).code == 1
    assert ctl.err.startswith(f"netagentctl: {message}")
    assert ctl.err.count("\n") == 1


def test_an_id_that_cannot_be(ctl: Ctl) -> None:
    odd = [body(make_network(1), id="a/b?c d"), body(make_network(1), id="\ud800"), body(make_network(1), id="é")]
    assert ctl("set", "networks", "-f", "-", given=odd).code == 1
    assert ctl.err.count("\n") == 3


def test_delete(ctl: Ctl) -> None:
    assert ctl("delete", "floating-ip", "198.51.100.1").said == (0, "floating_ips 198.51.100.1 deleted\n", "")
    assert ctl("delete", "network", network_id(1), "--revision", "7").code == 0
    assert ctl("set", "network", "-f", "-", given=body(make_network(1), revision=7)).said == (
        1,
        "",
        f"netagentctl: networks {network_id(1)}: {network_id(1)} was deleted with revision 7: "
        "only a higher one makes it anew\n",
    )


def test_export_and_apply_are_each_other_s_reverse(ctl: Ctl, agent: Served) -> None:
    exported = ctl("export").out
    assert json.loads(exported) == document(STATE)
    assert ctl("apply", "-f", "-", given=exported.encode()).said == (
        5,
        "nothing to change\n5 done, 1 pending, 0 error\n",
        "",
    )
    assert ctl("apply", "-f", "-", given={"networks": [body(make_network(2))]}).code == 0
    assert ctl.out.splitlines()[-1] == "1 done, 0 pending, 0 error"
    assert f"+ networks {network_id(2)}" in ctl.out.splitlines()
    assert f"- networks {network_id(1)}" in ctl.out.splitlines()


def test_a_dry_run_prints_the_plan_and_changes_nothing(ctl: Ctl) -> None:
    bare = {**document(STATE), "networks": []}
    plan = f"- networks {network_id(1)}\n"
    assert ctl("apply", "-f", "-", "--dry-run", given=bare).said == (0, plan, "")
    assert ctl("apply", "-f", "-", "--dry-run", "--exit-code", given=bare).said == (6, plan, "")
    assert json.loads(ctl("export").out) == document(STATE)


def test_a_state_that_is_older_than_what_is_here_is_told_and_fails(ctl: Ctl) -> None:
    ctl("set", "networks", "-f", "-", given=body(make_network(1), revision=7))
    older = {**document(STATE), "networks": [body(make_network(1, label="older"), revision=6)]}
    told = f"netagentctl: networks: revision 6 of {network_id(1)} is below the stored 7; it stays as it is\n"
    assert ctl("apply", "-f", "-", "--dry-run", given=older).said == (1, "nothing to change\n", told)
    assert ctl("apply", "-f", "-", given=older).said == (1, "nothing to change\n5 done, 1 pending, 0 error\n", told)
    assert ctl("apply", "-f", "-", "--format", "json", given=older).code == 1
    assert json.loads(ctl.out)["kept"][0]["id"] == network_id(1)


def test_a_state_that_is_refused(ctl: Ctl) -> None:
    assert ctl("apply", "-f", "-", given={"networks": [{"id": "x"}]}).said == (
        1,
        "",
        "netagentctl: networks[0].label: is required\n",
    )
    assert ctl("apply", "-f", "-", given=b"{").code == 1


def test_plan_and_resync_with_nothing_to_do(ctl: Ctl) -> None:
    assert ctl("plan", "--exit-code").said == (0, "nothing to change\n", "")
    assert ctl("resync").said == (0, "nothing to repair\n", "")


# --- finding the agent


def test_nobody_there_is_4(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    for words in (["status"], ["list", "networks"], ["plan"]):
        assert Ctl("--socket", str(path))(*words).said == (
            4,
            "",
            f"netagentctl: nobody listens at {path}: is the agent running?\n",
        )
    assert Ctl()("status", "--socket", f"{path}{'x' * 200}").code == 4


def test_an_agent_that_does_not_answer_is_4(serve: Callable[..., Served]) -> None:
    agent = serve(delay=5)
    ctl = Ctl("--socket", str(agent.path), "--timeout", "0.3")
    assert ctl("plan").said == (4, "", f"netagentctl: {agent.path}: no answer within 0.3 s\n")
    assert ctl("status").code == 0


def test_what_speaks_no_http_is_4(tmp_path: Path) -> None:
    import threading

    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()

        def greet() -> None:
            for greeting in (b"SSH-2.0-OpenSSH_9\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", b""):
                connection, _ = other.accept()
                connection.recv(1 << 16)
                connection.sendall(greeting)
                connection.close()

        threading.Thread(target=greet, daemon=True).start()
        ctl = Ctl("--socket", str(path))
        assert ctl("status").err == f"netagentctl: {path}: what answers there speaks no HTTP, or broke off\n"
        assert ctl("status").said == (4, "", f"netagentctl: {path}: the answer broke off\n")
        assert ctl("status").code == 4


def test_who_speaks_http_and_is_not_the_agent_is_4(tmp_path: Path) -> None:
    """As dockerd is, by whose socket somebody asks."""
    import threading

    path = tmp_path / "other.sock"
    refusals = (b'404 Not Found\r\n\r\n{"message":"page not found"}', b"503 No\r\n\r\n<html>", b"500 No\r\n\r\nnull")
    word = b'404 Not Found\r\n\r\n{"error":"no"}'
    answers = (b"200 OK\r\n\r\n<html>", b"200 OK\r\n\r\n[]", word, *refusals)
    words = [["status"]] * len(answers) + [["delete", "networks", network_id(1)]]
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()

        def answer() -> None:
            for each in (*answers, answers[0]):
                connection, _ = other.accept()
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 " + each)
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        ctl = Ctl("--socket", str(path))
        for each, command in zip((*answers, answers[0]), words, strict=True):
            code = each[:3].decode()
            told = f"netagentctl: {path}: what answers there is not the agent (HTTP status {code})\n"
            assert ctl(*command).said == (4, "", told)


TO_THE_AGENT = (
    "status",
    "list networks",
    f"show networks {network_id(1)}",
    "set networks -f {network}",
    "set networks --no-wait -f {network}",
    f"delete networks {network_id(1)}",
    "export",
    "apply -f {state}",
    "apply -f {state} --dry-run",
    "plan --exit-code",
    "chains",
    "explain --proto tcp --src 10.1.0.2:1 --dst 10.1.0.3:2",
    "explain --proto tcp --src 10.1.0.2:1 --dst 10.1.0.3:2 --graph {folder}/way.svg",
    "graph",
    "graph vm1",
    "resync",
    "diag --plans",
)
"""Every command that prints what an agent answered."""
ALONE = {"render", "check-config", "cleanup"}
OF_NO_AGENT = {
    "an object of nothing": b"200 OK\r\n\r\n{}",
    "no object": b"200 OK\r\n\r\nnull",
    "no JSON": b"200 OK\r\n\r\nhello",
    "elsewhere": b"302 Found\r\nLocation: /v2/\r\n\r\n{}",
    "nested without end": b"200 OK\r\n\r\n" + b"[" * 100_000,
    "its names, and other things": b"200 OK\r\n\r\n"
    + json.dumps({name: [5] for name in (*document(State()), "plan", "repaired", "chains", "plans", "rules")}).encode(),
}


@pytest.fixture(params=OF_NO_AGENT)
def of_no_agent(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A socket at which a program answers whatever it is asked the same."""
    import threading

    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()

        def answer() -> None:
            while True:
                try:
                    connection, _ = other.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(b"HTTP/1.1 " + OF_NO_AGENT[request.param])

        answering = threading.Thread(target=answer, daemon=True)
        answering.start()
        yield path
        other.shutdown(socket.SHUT_RDWR)
        answering.join()


@pytest.mark.parametrize("format_", ["table", "json"])
def test_no_command_takes_what_is_not_the_agents_for_an_answer(of_no_agent: Path, tmp_path: Path, format_: str) -> None:
    """None says that it is done, none ends in a traceback, and no program gets what is no JSON."""
    files = {"network": tmp_path / "network.json", "state": tmp_path / "state.json", "folder": tmp_path}
    files["network"].write_text(json.dumps(document(make_network(1))))
    files["state"].write_text(json.dumps(document(State())))
    ctl = Ctl("--socket", str(of_no_agent), "--format", format_)
    for command in TO_THE_AGENT:
        ctl(*command.format(**files).split())
        if (format_ == "json" or command == "export") and ctl.out:
            assert "plans" in json.loads(ctl.out), "what the names stand for is for the program to see"
            continue
        assert (ctl.code, ctl.err.count("\n")) == (4, 1), (command, ctl.said)
        assert f"{of_no_agent}: what answers there is not th" in ctl.err


def test_a_fault_of_the_tools_own_is_not_told_as_the_agents_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def faulty(session: Session) -> int:
        return len(session.agent.at) + len(None)  # type: ignore[arg-type]

    monkeypatch.setattr(host, "status", faulty)
    assert main(["--socket", "/nowhere.sock", "status"]) == 4
    told = capsys.readouterr().err
    assert told.startswith(
        "netagentctl: /nowhere.sock: what answers there is not this agent, or netagentctl is at fault"
    )
    line = faulty.__code__.co_firstlineno + 1
    assert told.endswith(f"(TypeError: object of type 'NoneType' has no len(), in test_ctl.py, line {line})\n")


def test_every_command_that_asks_the_agent_is_tried() -> None:
    commands = next(each for each in parser()._actions if isinstance(each.choices, dict)).choices
    assert {command.split()[0] for command in TO_THE_AGENT} | ALONE == set(commands or ())


@pytest.mark.parametrize("words", ["apply", "set networks", "render"])
def test_an_input_that_is_closed_is_named(words: str) -> None:
    command = f"{sys.executable} -m nova_netagent.cmd.ctl {words} -f - <&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, cwd=ROOT, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "netagentctl: --file standard input: it is closed\n")


def test_who_is_not_let_in_yet_waits(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))  # all that there is room for
        ctl = Ctl("--socket", str(path), "--timeout", "0.3")
        assert ctl("status").said == (4, "", f"netagentctl: {path}: no answer within 0.3 s\n")


@pytest.mark.parametrize(
    "text",
    [
        "[api]\nsocket = {path}\n",
        "[DEFAULT]\nstate_path = {folder}\nsocket = /nowhere\n[api]\nsocket: $state_path/{name}\n",
        "[DEFAULT]\nstate_path = {folder}\n[api]\nsocket = ${{state_path}}/{name}\nsocket_mode\n# [api]\n",
    ],
)
def test_the_socket_is_found_in_the_configuration(agent: Served, tmp_path: Path, text: str) -> None:
    file = tmp_path / "agent.conf"
    file.write_text(text.format(path=agent.path, folder=agent.path.parent, name=agent.path.name))
    assert Ctl("--config-file", str(file))("status").code == 0
    assert Ctl()("status", "--config-file", str(file)).code == 0


def test_the_socket_is_found_in_a_directory_too(agent: Served, tmp_path: Path) -> None:
    directory = tmp_path / "conf.d"
    directory.mkdir()
    (directory / "1.conf").write_text("[api]\nsocket = /nowhere\n")
    (directory / "2.conf").write_text(f"[api]\nsocket = {agent.path}\n")
    (tmp_path / "agent.conf").write_text("[api]\nsocket = /nowhere/either\n")
    assert Ctl("--config-dir", str(directory))("status").code == 0
    assert Ctl("--config-file", str(tmp_path / "agent.conf"), "--config-dir", str(directory))("status").code == 0


@pytest.mark.parametrize(("option", "said"), [("file", "No such file or directory"), ("dir", "no such directory")])
def test_a_configuration_that_is_not_there_is_2_whoever_needs_it(agent: Served, option: str, said: str) -> None:
    ctl = Ctl(f"--config-{option}", "/nowhere", "--socket", str(agent.path))
    assert ctl("status").said == (2, "", f"netagentctl: /nowhere: {said}\n")


def test_a_configuration_that_does_not_read_is_2(tmp_path: Path) -> None:
    file = tmp_path / "agent.conf"
    assert Ctl("--config-file", str(file))("status").said == (
        2,
        "",
        f"netagentctl: {file}: No such file or directory\n",
    )
    file.write_text("socket = x\n")
    assert Ctl("--config-file", str(file))("status").code == 2
    file.write_bytes(b"[api]\nsocket = \xff\n")
    assert Ctl("--config-file", str(file))("status").code == 2


# --- usage


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["no-such"],
        ["list"],
        ["list", "things"],
        ["set", "networks"],
        ["show", "network"],
        ["show", "network", ""],
        ["delete", "network", ""],
        ["status", "--format", "x"],
    ],
)
def test_wrong_usage_is_2_in_one_line(words: list[str]) -> None:
    ctl = Ctl()(*words)
    assert (ctl.code, ctl.out, ctl.err.count("\n")) == (2, "", 1)
    assert ctl.err.startswith("netagentctl: ")


def test_a_revision_that_is_none_is_wrong_usage(ctl: Ctl) -> None:
    said = f"netagentctl: --revision: '-1' is not an integer from 0 to {2**63 - 1}\n"
    assert ctl("delete", "network", network_id(1), "--revision", "-1").said == (2, "", said)
    assert ctl("show", "network", network_id(1)).code == 0


def test_a_kind_that_is_none_is_told_what_there_is() -> None:
    expected = "'things' is not a kind: networks, instances, security-groups, floating-ips, provider-rules"
    assert expected in Ctl()("list", "things").err


def test_help_tells_the_exit_statuses() -> None:
    for words in (["--help"], ["apply", "--help"]):
        ctl = Ctl()(*words)
        assert ctl.code == 0
        assert "  4  the agent cannot be reached, or did not answer in time\n" in ctl.out


def test_a_word_that_is_no_command(ctl: Ctl) -> None:
    assert ctl("stauts").said == (2, "", f"netagentctl: 'stauts' is not a command, but status is{HELP}\n")
    assert ctl("frobnicate").said == (2, "", f"netagentctl: 'frobnicate' is not a command{HELP}\n")


def test_its_version(ctl: Ctl) -> None:
    assert ctl("--version").code == 0
    assert ctl.out.split()[0] == "netagentctl"


@pytest.mark.parametrize("name", ["vm1", instance_id(1).partition("-")[0]])
@pytest.mark.parametrize("command", ["show", "delete"])
def test_who_is_called_by_its_name_is_told_its_id(ctl: Ctl, command: str, name: str) -> None:
    told = f"netagentctl: there is no instance {name}; meant by its id: {instance_id(1)}\n"
    assert ctl(command, "instance", name).said == (3, "", told)


# --- for eyes


def on_terminal(ctl: Ctl, *words: str, **env: str) -> str:
    """What a terminal of 70 columns is shown."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "nova_netagent.cmd.ctl", *ctl.options, *words]
    plain = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS")}
    with subprocess.Popen(
        command, cwd=ROOT, stdout=follower, env={**plain, "COLUMNS": "70", "TERM": "xterm", **env}
    ) as process:
        os.close(follower)
        parts = []
        while True:
            try:
                part = os.read(leader, 1 << 16)
            except OSError:
                break
            if not part:
                break
            parts.append(part)
        process.wait(10)
    os.close(leader)
    return b"".join(parts).decode()


def test_states_are_coloured_on_a_terminal_only(ctl: Ctl) -> None:
    assert "\x1b" not in ctl("list", "instances").out
    coloured = on_terminal(ctl, "list", "instances")
    assert "\x1b[32mdone\x1b[0m" in coloured
    assert "\x1b[33mpending\x1b[0m" in coloured
    assert "\x1b" not in on_terminal(ctl, "list", "instances", NO_COLOR="1")
    assert "\x1b" not in on_terminal(ctl, "list", "instances", TERM="dumb")


def test_lines_keep_within_the_terminal(ctl: Ctl) -> None:
    shown = on_terminal(ctl, "status", NO_COLOR="1").splitlines()
    assert max(map(len, shown)) <= 70


def test_a_reason_is_never_cut(ctl: Ctl) -> None:
    shown = on_terminal(ctl, "status", NO_COLOR="1").splitlines()
    assert shown[-3].split() == ["instances", instance_id(2), "pending"]
    assert " ".join(" ".join(shown[-2:]).split()) == MISSING


@pytest.mark.parametrize("width", [70, 80])
@pytest.mark.parametrize("words", [("list", "instances"), ("list", "networks"), ("show", "instance", instance_id(2))])
def test_nothing_is_cut_where_there_is_little_room(ctl: Ctl, words: tuple[str, ...], width: int) -> None:
    shown = on_terminal(ctl, *words, COLUMNS=str(width), NO_COLOR="1").splitlines()
    assert max(len(line) for line in shown if len(line.split()) > 1) <= width, "\n".join(shown)
    plain = {word for line in ctl(*words).out.splitlines() for word in line.split()} - {"REASON"}
    assert plain <= {word for line in shown for word in line.split()}


def test_a_rule_and_whose_it_is_have_lines_of_their_own_where_there_is_no_room_beside_each_other(ctl: Ctl) -> None:
    shown = on_terminal(ctl, "chains", NO_COLOR="1", COLUMNS="48").splitlines()
    assert max(map(len, shown)) <= 48, "\n".join(shown)
    assert [each.strip() for each in shown if "# instance" in each] == ["# instance vm1: replies"]
    wide = on_terminal(ctl, "chains", NO_COLOR="1", COLUMNS="300")
    assert "\r\n".join(wide.splitlines()) == "\r\n".join(ctl("chains").out.splitlines())


def test_an_id_has_a_line_of_its_own_where_there_is_no_room_beside_it(ctl: Ctl) -> None:
    shown = on_terminal(ctl, "list", "networks", NO_COLOR="1").splitlines()
    assert [line.split() for line in shown] == [
        ["ID"],
        ["LABEL", "BRIDGE", "VLAN", "CIDR", "CIDR_V6", "STATE"],
        [network_id(1)],
        ["net1", "br1", "101", "10.1.0.0/24", "fd00:1::/64", "done"],
    ]


def test_of_an_empty_list_somebody_who_looks_on_is_told(ctl: Ctl, agent: Served) -> None:
    agent.request("PUT", "/v1/state", {})
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "nova_netagent.cmd.ctl", *ctl.options, "list", "floating-ips"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=follower, timeout=60)
    os.close(follower)
    assert (done.stdout, os.read(leader, 1000)) == (b"", b"no floating IPs are described\r\n")
    os.close(leader)


def test_status_is_watched_until_somebody_interrupts(ctl: Ctl) -> None:
    # A shell has what it starts in the background ignore it, and whatever that starts.
    command = ["env", "--default-signal=INT"]
    command += [sys.executable, "-m", "nova_netagent.cmd.ctl", *ctl.options, "status", "--watch", "0.05"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = 0
        while seen < 3:
            line = process.stdout.readline()
            assert line
            seen += line.startswith("enforcing  yes")
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=20)
    assert (process.returncode, complaint) == (130, "")
    for words in (("--watch", "0"), ("--watch", "often"), ("--timeout", "0"), ("--timeout", "x"), ("--timeout", "nan")):
        assert ctl("status", *words).code == 2
        assert f"argument {words[0]}: {words[1]} is no" in ctl.err


# --- what a report needs


def test_the_last_plans(ctl: Ctl, agent: Served) -> None:
    assert ctl("diag", "--plans").code == 0
    assert ctl.out.splitlines()[:3] == [
        "2026-09-21T14:13:25.000Z  change: done, 2 edits in 12 ms",
        "    IPv4 filter: -A a",
        "    IPv4 filter: -A b",
    ]
    assert json.loads(ctl("--format", "json", "diag", "--plans").out)["plans"][0]["result"] == "done"


def test_a_bundle_holds_what_there_is_and_no_secret(ctl: Ctl, tmp_path: Path) -> None:
    secrets = "[DEFAULT]\ntransport_url = rabbit://nova:hunter2@broker1:5672,nova:hunter2@broker:5672/\n"
    secrets += "[keystone_authtoken]\n#password = s3cret\nadmin_token:\n  t0ken\n"
    config = tmp_path / "netagent.conf"
    config.write_text(secrets)
    bundle = tmp_path / "bundle.tar.gz"
    bare = {"PATH": str(tmp_path)}  # of the commands only the log's is installed
    (tmp_path / "journalctl").write_text("#!/bin/sh\necho agent: started\necho agent: X-Auth-Token: t0ken\n")
    (tmp_path / "journalctl").chmod(0o755)
    ctl("set", "networks", "-f", "-", given=json.dumps(document(make_network(9, label="token = t0ken"))).encode())
    assert ctl("--config-file", str(config), "diag", "-o", str(bundle), env=bare).code == 0
    assert ctl.out == f"{bundle}: 23 files, without passwords; it names addresses and instances\n"
    assert bundle.stat().st_mode & 0o777 == 0o600
    with tarfile.open(bundle) as opened:
        texts = {each.name: opened.extractfile(each).read().decode() for each in opened}  # type: ignore[union-attr]
    assert json.loads(texts["bundle/status.json"])["enforcing"] is True
    assert "netagent_rules" in texts["bundle/metrics.txt"]
    assert texts["bundle/nft.txt"].startswith("not to be had: ")
    everything = "\n".join(texts.values())
    for secret in ("hunter2", "s3cret", "t0ken"):
        assert secret not in everything
    assert "transport_url = rabbit://***@broker:5672/" in texts[f"bundle/config{config}"]
    assert texts["bundle/journal.txt"] == "agent: started\nagent: X-Auth-Token: ***\n"
    assert "token = ***" in [each["label"] for each in json.loads(texts["bundle/state.json"])["networks"]]


@pytest.mark.parametrize(
    "named", ["log_file = {tmp}/nova-netagent.log", "log_dir = {tmp}\nlog_file = nova-netagent.log", "log_dir = {tmp}"]
)
def test_a_bundle_holds_the_end_of_the_log_where_it_is_a_file(tmp_path: Path, named: str) -> None:
    config, bundle, log = tmp_path / "netagent.conf", tmp_path / "b.tar.gz", tmp_path / "nova-netagent.log"
    config.write_text(f"[DEFAULT]\n{named.format(tmp=tmp_path)}\n")
    log.write_text("long ago\n" * (1 << 18) + "the last but one\nX-Auth-Token: t0ken\n")
    ctl = Ctl("--socket", str(tmp_path / "none.sock"), "--config-file", str(config))
    assert ctl("diag", "-o", str(bundle), env={"PATH": str(tmp_path)}).code == 0
    with tarfile.open(bundle) as opened:
        member = opened.extractfile("b/log.txt")
        assert member is not None
        text = member.read().decode()
    assert text.endswith("\nthe last but one\nX-Auth-Token: ***\n")
    assert len(text) < log.stat().st_size
    assert text.startswith("long ago\n")


def test_a_bundle_has_each_file_of_the_configuration(ctl: Ctl, tmp_path: Path) -> None:
    options = []
    for number, folder in enumerate((tmp_path / "a", tmp_path / "b")):
        folder.mkdir()
        (folder / "netagent.conf").write_text(f"[DEFAULT]\nhost = host{number}\n")
        options += ["--config-file", str(folder / ".." / folder.name / "netagent.conf")]
    assert ctl(*options, "diag", "-o", str(tmp_path / "b.tar.gz"), env={"PATH": str(tmp_path)}).code == 0
    with tarfile.open(tmp_path / "b.tar.gz") as opened:
        found = [each.name for each in opened if "/config/" in each.name]
    assert found == [f"b/config{tmp_path}/{folder}/netagent.conf" for folder in "ab"]


def test_a_bundle_without_an_agent(tmp_path: Path) -> None:
    ctl = Ctl("--socket", str(tmp_path / "none.sock"))
    assert ctl("diag", "-o", str(tmp_path / "b.tar.gz"), env={"PATH": str(tmp_path)}).code == 0
    with tarfile.open(tmp_path / "b.tar.gz") as opened:
        member = opened.extractfile("b/status.json")
        assert member is not None
        assert b"nobody listens" in member.read()
    assert ctl("diag", "-o", str(tmp_path / "no" / "b.tar.gz"), env={"PATH": str(tmp_path)}).code == 1


def test_a_disk_that_is_full(ctl: Ctl) -> None:
    command = [sys.executable, "-m", "nova_netagent.cmd.ctl", "--socket", ctl.options[1], "export"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (1, "netagentctl: standard output: No space left on device\n")


MANY = range(1, 600)


@pytest.mark.parametrize("words", ["apply", "set networks"])
def test_what_changes_something_does_so_though_nobody_reads_on(ctl: Ctl, agent: Served, words: str) -> None:
    """As with ``| head -1``: the plan filled what is kept for the reader, and nothing was applied, with status 0."""
    networks = [body(make_network(n, cidr=None, gateway=None)) for n in MANY]
    given = json.dumps({"networks": networks})
    tool = f"{sys.executable} -m nova_netagent.cmd.ctl --socket {ctl.options[1]}"
    command = f"{tool} {words} -f - | exec true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, input=given, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(agent.request("GET", "/v1/networks")[1]["networks"]) == len(MANY)


@pytest.mark.parametrize("words", [["set", "networks"], ["set", "networks", "--format", "json"]])
def test_what_became_of_it_is_told_by_the_status_though_nobody_reads(ctl: Ctl, words: list[str]) -> None:
    tool = f"{sys.executable} -m nova_netagent.cmd.ctl --socket {ctl.options[1]} {' '.join(words)}"
    command = f"{tool} -f - | exec true; exit ${{PIPESTATUS[0]}}"
    given = json.dumps([body(make_network(1)), {"id": "x"}])
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, input=given, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "netagentctl: networks x: id: 'x' is not a UUID\n")


@pytest.mark.parametrize("nobody", ["2>&1 | exec true", "2>/dev/full | exec cat", "2>&- | exec cat"])
@pytest.mark.parametrize(
    ("words", "code"), [("set networks -f -", 1), ("show networks e0000001-0000-4000-8000-000000000009", 3), ("x", 2)]
)
def test_a_complaint_that_nobody_reads(ctl: Ctl, agent: Served, nobody: str, words: str, code: int) -> None:
    """A list stopped at the first refusal, with status 0."""
    tool = f"{sys.executable} -m nova_netagent.cmd.ctl --socket {ctl.options[1]} {words}"
    command = f"{tool} {nobody}; exit ${{PIPESTATUS[0]}}"
    given = json.dumps([{"id": "x"}, {"id": "y"}, body(make_network(7))])
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, input=given, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (code, "")
    assert "netagentctl" not in done.stdout
    if words.startswith("set"):
        assert agent.request("GET", f"/v1/networks/{network_id(7)}")[0] == 200


def test_a_standard_output_that_is_closed(ctl: Ctl) -> None:
    command = f"{sys.executable} -m nova_netagent.cmd.ctl --socket {ctl.options[1]} export >&-"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [["list", "--help"], ["list", "networks"], ["export"]])
def test_a_terminal_without_all_letters(ctl: Ctl, words: list[str]) -> None:
    label = document(make_network(9, label="Büro №1"))
    ctl("set", "networks", "-f", "-", given=json.dumps(label).encode())
    command = [sys.executable, "-m", "nova_netagent.cmd.ctl", "--socket", ctl.options[1], *words]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
    if words == ["export"]:
        assert "Büro №1" in [each["label"] for each in json.loads(done.stdout)["networks"]]


def test_a_reader_that_has_seen_enough(ctl: Ctl) -> None:
    command = (
        f"{sys.executable} -m nova_netagent.cmd.ctl --socket {ctl.options[1]} export | true; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("0\n", "")


# --- quick


def test_only_the_standard_library_is_imported_to_speak_to_the_agent(agent: Served) -> None:
    code = (
        "import sys; from nova_netagent.cmd.ctl import main\n"
        f"code = main(['--socket', {str(agent.path)!r}, 'status'])\n"
        "heavy = {'msgspec', 'oslo_config', 'falcon', 'eventlet', 'pyroute2', 'iptc', 'http', 'nova_netagent.model'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_defaults_are_those_of_the_settings() -> None:
    from nova_netagent.ctl import kinds, place
    from nova_netagent.model import KINDS
    from nova_netagent.settings import ApiSettings, Settings

    assert ApiSettings().socket == place.SOCKET
    assert Settings().state_path == place._STATE_PATH
    assert set(kinds.KINDS) == set(KINDS)
