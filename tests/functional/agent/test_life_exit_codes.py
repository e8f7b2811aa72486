"""How it ends when it cannot begin: 2 for bad configuration or arguments, 1 for anything else, in one line."""

import fcntl
import os
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nova_netagent.testing import make_network
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.forkserver import ForkedAgent
from tests.functional.agent.kernel import eventually, kernel
from tests.lab import Agent, Lab, Namespace, needs
from tests.lab.agent import REPOSITORY, daemon_command, render_ini

pytestmark = needs("iptables", "ip6tables", "ipset")

BAD: dict[str, tuple[str | bytes, list[str]]] = {
    "an unknown group": ("[netwrok]\nfixed_range = 10.0.0.0/8", ["netwrok"]),
    "an unknown option": ("[network]\nfixed_rnage = 10.0.0.0/8", ["[network]", "fixed_rnage"]),
    "an option of another group": ("[network]\nwrap_name = x", ["[network]", "wrap_name"]),
    "a CIDR": ("[network]\nfixed_range = 10.0.0.0/8,10.0.0.0/33", ["[network]", "fixed_range", "10.0.0.0/33"]),
    "an IPv6 fixed range": ("[network]\nfixed_range = fd00::/8", ["[network]", "fixed_range", "fd00::/8", "IPv4"]),
    "an address": ("[DEFAULT]\nmy_ip = 192.0.2", ["my_ip", "192.0.2"]),
    "an IPv6 my_ip": ("[DEFAULT]\nmy_ip = ::1", ["my_ip", "::1", "IPv4"]),
    "a boolean": ("[DEFAULT]\nuse_ipv6 = maybe", ["use_ipv6", "maybe"]),
    "a number": ("[network]\ndhcp_lease_time = long", ["[network]", "dhcp_lease_time", "long"]),
    "a number too small": ("[network]\nnetwork_device_mtu = 67", ["[network]", "network_device_mtu", "67", "68"]),
    "a negative time": ("[firewall]\nlock_timeout = -1", ["[firewall]", "lock_timeout", "-1", "0"]),
    "a port": ("[metadata]\nmetadata_port = 70000", ["[metadata]", "metadata_port", "70000", "65535"]),
    "a choice": ("[firewall]\nbackend = ipfw", ["[firewall]", "backend", "ipfw", "iptables", "nftables"]),
    "a choice by group": ("[firewall]\negress_default = drop", ["egress_default", "drop", "allow", "deny"]),
    "a wrap name too long": (
        "[firewall]\nwrap_name = a-very-long-name",
        ["[firewall]", "wrap_name", "a-very-long-name", "14"],
    ),
    "a wrap name that is a table of iptables": (
        "[firewall]\nwrap_name = filter",
        ["[firewall]", "wrap_name", "'filter'"],
    ),
    "a wrap name with a space": ("[firewall]\nwrap_name = a b", ["[firewall]", "wrap_name", "a b"]),
    "a regular expression": ("[firewall]\niptables_top_regex = (", ["[firewall]", "iptables_top_regex", "("]),
    "a drop action": ("[firewall]\niptables_drop_action = go away", ["iptables_drop_action", "go away", "DROP"]),
    "an interface": (
        "[network]\npublic_interface = a-name-of-16-chr",
        ["[network]", "public_interface", "a-name-of-16-chr"],
    ),
    "a file mode": ("[api]\nsocket_mode = rw", ["[api]", "socket_mode", "rw", "0660"]),
    "half of an address": ("[api]\nbind_port = 8080", ["[api]", "bind_host", "bind_port"]),
    "TCP for everybody": ("[api]\nbind_host = ::1\nbind_port = 8080", ["[api]", "auth_strategy", "noauth", "keystone"]),
    "TCP with a key alone": (
        "[api]\nkey_file = /k\nbind_host = ::1\nbind_port = 8080",
        ["[api]", "cert_file", "key_file"],
    ),
    "TCP with a certificate that is not there": (
        "[api]\ncert_file = /c\nkey_file = /k\nca_file = /ca\nbind_host = ::1\nbind_port = 8080",
        ["[api]", "cert_file", "/c", "No such file"],
    ),
    "TCP with writers and no certificates": ("[api]\ncert_writers = controller", ["[api]", "cert_writers", "ca_file"]),
    "TCP with Keystone nowhere": (
        "[api]\nauth_strategy = keystone\nbind_host = ::1\nbind_port = 8080",
        ["[keystone_authtoken]", "auth_type", "auth_strategy"],
    ),
    "TCP with Keystone by nothing known": (
        "[api]\nauth_strategy = keystone\nbind_host = ::1\nbind_port = 8080\n"
        "[keystone_authtoken]\nauth_type = handshake\nauth_url = http://127.0.0.1/",
        ["[keystone_authtoken]", "handshake"],
    ),
    "a switch of the log's": ("[DEFAULT]\ndebug = maybe", ["[DEFAULT] debug", "maybe"]),
    "a log nowhere": ("[DEFAULT]\nlog_file = /nowhere/log", ["[DEFAULT] log_file = /nowhere/log"]),
    "all and more": (
        "[network]\nforward_bridge_interface = all,eth1",
        ["[network]", "forward_bridge_interface", "all"],
    ),
    "no section": ("fixed_range = 10.0.0.0/8", ["line 1", "[group]"]),
    "a number with a word": ("[firewall]\nlock_timeout = ten", ["[firewall]", "lock_timeout", "'ten' is not a number"]),
    "a group to log by its name": ("[security_group_log]\ngroups = web", ["groups", "'web'", "id", "all"]),
    "a number that is none": ("[firewall]\nlock_timeout = nan", ["[firewall]", "lock_timeout", "nan"]),
    "a regular expression too large": ("[firewall]\niptables_top_regex = a{99999999999}", ["iptables_top_regex"]),
    "an option that names none": ("[network]\nrouting_source_ip = $nope", ["[network] routing_source_ip = $nope"]),
    "by this host: a log's levels": ("[DEFAULT]\ndefault_log_levels = junk", ["[DEFAULT] default_log_levels = junk"]),
    "by this host: a log's file": (
        "[DEFAULT]\nlog_config_append = /nowhere",
        ["[DEFAULT] log_config_append = /nowhere"],
    ),
    "by this host: syslog": (
        "[DEFAULT]\nuse_syslog = true\nsyslog_log_facility = bogus",
        ["[DEFAULT] syslog_log_facility = bogus", "local0"],
    ),
    "by this host: a socket": ("[api]\nsocket = /proc", ["[api] socket = /proc", "directory"]),
    "by this host: a group": ("[api]\nsocket_group = no-such-group", ["[api] socket_group = no-such-group"]),
    "by this host: a broker": (
        "[DEFAULT]\ntransport_url = rabbit://192.0.2.1/?nope=1\n[rpc]\nenabled = true",
        ["[DEFAULT] transport_url", "nope"],
    ),
    "no option": ("[network]\nwhat is this", ["what is this"]),
    "no text": (b"\xff\xfe[\0n\0e\0t\0", []),
}


MADE_OF_MORE = ("half", "by this host", "TCP", "all", "a switch of the log's", "a log nowhere")
"""What is not to be blamed on one line of one file."""


def started(host: Namespace, *arguments: str, timeout: float = 20) -> tuple[int, str]:
    """Run the daemon to its end; its exit code and what it said."""
    argv = [*daemon_command(), *arguments]
    ended = host.run(argv, check=False, timeout=timeout, cwd=REPOSITORY)
    return ended.returncode, ended.stderr + ended.stdout


def with_config(host: Namespace, file: Path, text: str | bytes) -> tuple[int, str]:
    """Run it with a file, and with a state of its own: what is found wrong late would be found in the machine's."""
    own = file.with_name(f"{file.name}.own")
    own.write_text(render_ini({"DEFAULT": {"state_path": file.parent / "state"}}))
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return started(host, "--config-file", str(own), "--config-file", str(file))


def test_every_bad_configuration_is_refused_in_one_line_that_says_which_option_and_why(
    lab: Lab, tmp_path: Path
) -> None:
    host = lab.host()
    before = kernel(host)
    with ThreadPoolExecutor(4) as pool:
        files = {name: tmp_path / f"{number}.conf" for number, name in enumerate(BAD)}
        answers = pool.map(lambda name: with_config(host, files[name], BAD[name][0]), BAD)
        wrong = {}
        for name, (code, said) in zip(BAD, answers, strict=True):
            words = [*BAD[name][1], *(() if name.startswith(MADE_OF_MORE) else (str(files[name]),))]
            if code != 2 or len(said.splitlines()) != 1 or any(word not in said for word in words):
                wrong[name] = (code, said)
    assert not wrong
    assert kernel(host) == before


def test_what_is_needed_and_cannot_be_found_is_refused(new_namespace: Any, tmp_path: Path) -> None:
    alone = new_namespace("alone")
    code, said = with_config(alone, tmp_path / "c", "[network]\nfixed_range = 10.0.0.0/8\n")
    assert code == 2
    assert "my_ip" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--config-file", "/nowhere/at.all"), ["/nowhere/at.all"]),
        (("--config-dir", "/nowhere/at.all"), ["/nowhere/at.all"]),
        (("--config-flie", "x"), ["--config-flie"]),
        (("--config-file",), ["--config-file"]),
        (("start",), ["start"]),
    ],
)
def test_bad_arguments_are_refused_in_one_line(lab: Lab, arguments: tuple[str, ...], words: list[str]) -> None:
    code, said = started(lab.host(), *arguments)
    assert code == 2
    assert len(said.splitlines()) == 1, said
    assert all(word in said for word in words)


# --- 1: anything else


def refused(agent: Agent) -> str:
    """Start an agent that cannot be; the last line of its log, which says why."""
    agent.start(ready=False)
    assert agent.wait() == 1
    last = agent.log.splitlines()[-1]
    assert "CRITICAL" in last
    assert "Traceback" not in last
    return last


def prepared(lab: Lab) -> Agent:
    agent = ForkedAgent(lab.host(), Path(str(lab._directory)) / "prepared")
    lab.agents.append(agent)
    return agent


def test_a_store_that_is_none(lab: Lab) -> None:
    agent = prepared(lab)
    before = kernel(agent.namespace)
    (agent.state_path / "state.db").write_bytes(b"This is not a database. " * 100)
    assert str(agent.state_path / "state.db") in refused(agent)
    assert kernel(agent.namespace) == before


def test_a_store_of_a_newer_program(lab: Lab) -> None:
    agent = prepared(lab)
    with sqlite3.connect(agent.state_path / "state.db") as db:
        db.execute("PRAGMA user_version = 99")
    assert "schema version 99" in refused(agent)
    with sqlite3.connect(agent.state_path / "state.db") as db:
        assert db.execute("PRAGMA user_version").fetchone() == (99,)


def test_a_stored_object_that_does_not_read(lab: Lab) -> None:
    agent = prepared(lab)
    agent.start()
    agent.put("networks", {"id": make_network(1).id, "label": "one", "bridge": "br1"})
    agent.stop()
    before = kernel(agent.namespace)
    with sqlite3.connect(agent.state_path / "state.db") as db:
        db.execute("UPDATE object SET body = '{}'")
    assert make_network(1).id in refused(agent)
    assert kernel(agent.namespace) == before, "what was enforced is enforced still"


def test_a_state_path_that_cannot_be_made(lab: Lab) -> None:
    agent = prepared(lab)
    agent.configure({"DEFAULT": {"state_path": "/proc/nowhere"}})
    assert "/proc/nowhere" in refused(agent)


def test_a_socket_that_cannot_be_made(lab: Lab) -> None:
    agent = prepared(lab)
    agent.configure({"api": {"socket": "/proc/nowhere/api.sock"}})
    assert "/proc/nowhere" in refused(agent)


def test_the_socket_of_another_program_is_left_to_it(lab: Lab) -> None:
    agent = prepared(lab)
    agent.socket.write_text("precious")
    assert str(agent.socket) in refused(agent)
    assert agent.socket.read_text() == "precious"


def test_a_second_agent_is_refused_and_the_first_goes_on(cloud: Cloud) -> None:
    cloud.network(1)
    before = kernel(cloud.host)
    code, said = started(cloud.host, "--config-file", str(cloud.agent.config_file))
    assert code == 1
    assert "another agent" in said
    assert "Traceback" not in said
    assert kernel(cloud.host) == before
    cloud.network(2)


def test_what_a_killed_agent_had_just_forked_is_waited_for(lab: Lab) -> None:
    """It has the claim until it is the program that it becomes: a restart at once found another agent there."""
    agent = prepared(lab)
    claim = os.open(agent.state_path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(claim, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as started:
        ready = started.submit(agent.start)
        time.sleep(0.7)
        os.close(claim)
        ready.result()
    agent.stop()


def test_a_second_agent_on_the_same_state_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    """With a socket of its own it would write what the first one does not know of."""
    options: dict[str, Any] = {
        "DEFAULT": {"state_path": cloud.agent.state_path},
        "api": {"socket": tmp_path / "other.sock"},
    }
    (tmp_path / "other.conf").write_text(render_ini(options))
    code, said = started(cloud.host, "--config-file", str(tmp_path / "other.conf"), timeout=10)
    assert code == 1
    assert str(cloud.agent.state_path) in said


def test_what_is_left_of_a_killed_agent_does_not_keep_the_next_from_starting(cloud: Cloud) -> None:
    cloud.agent.kill9()
    assert cloud.agent.socket.exists()
    cloud.agent.start()


# --- 0: stopped


def test_stopped_while_it_starts_it_ends_cleanly(lab: Lab) -> None:
    """At any instant from the program's first lines on."""
    cloud = Cloud(lab, program=True)
    cloud.agent.stop()
    ends = []
    for tenths in range(5):
        cloud.agent.start(ready=False)
        eventually(lambda: _minds(cloud.agent, signal.SIGTERM), 5)
        time.sleep(tenths / 10)
        cloud.agent.signal(signal.SIGTERM)
        ends.append(cloud.agent.wait())
    assert ends == [0] * 5
    assert "Traceback" not in cloud.agent.log


def _minds(agent: Agent, number: signal.Signals) -> bool:
    """Whether a signal would not simply end the process: it is held back, or handled."""
    status = Path(f"/proc/{agent.pid}/status").read_text()
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigBlk:", "SigCgt:"))]
    return any(mask >> number - 1 & 1 for mask in masks)


def test_help_and_version_are_no_error(lab: Lab) -> None:
    host = lab.host()
    code, said = started(host, "--version")
    assert (code, said.split()[0]) == (0, "nova-netagent")
    assert started(host, "--help")[0] == 0
