"""The unit under a real systemd: its own user, three capabilities, READY after the rules, what outlives it."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from nova_netagent.model import Object, document
from nova_netagent.testing import make_instance, make_network, network_id
from tests.functional.agent.kernel import eventually
from tests.functional.agent.nft import by_name
from tests.functional.conftest import BESIDE_EACH_OTHER, ON_BOTH, ON_IPTABLES
from tests.functional.service.conftest import CONFIGURATION, UNIT
from tests.functional.service.machine import SOURCE, Machine
from tests.lab.agent import BACKEND, BACKENDS


class Service:
    """The service of a machine, and the packet filter that it is told to use."""

    def __init__(self, machine: Machine, backend: str = "iptables") -> None:
        self.machine = machine
        self.backend = backend

    def put(self, item: Object) -> dict[str, Any]:
        """Describe an object by the API's socket."""
        body: Any = document(item)
        return self.request("PUT", f"/v1/{item.KIND.replace('_', '-')}/{body['id']}", body)

    def request(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Ask the API."""
        answer = self.machine.run(
            "/usr/bin/python3",
            "-c",
            "import sys\n"
            "import importlib.util, json\n"
            f"spec = importlib.util.spec_from_file_location('unix_http', '{SOURCE}/tests/lab/unix_http.py')\n"
            "unix_http = importlib.util.module_from_spec(spec); spec.loader.exec_module(unix_http)\n"
            "method, path, body = json.load(sys.stdin)\n"
            "print(json.dumps(unix_http.request('/run/nova-netagent/api.sock', method, path, body)))",
            input=json.dumps([method, path, body]),
        )
        status, found = json.loads(answer)
        assert status < 300, answer
        return dict(found)

    @property
    def pid(self) -> int:
        return int(self.machine.show("MainPID"))

    def use(self, backend: str) -> None:
        """Be of another packet filter, from the next start on."""
        if backend != self.backend:
            self.machine.run("systemctl", "stop", "nova-netagent")
            self.machine.run("sed", "-i", f"s/^backend = .*/backend = {backend}/", CONFIGURATION)
            self.backend = backend

    def rules(self) -> str:
        """What is in the filter table, or in our table of nf_tables, without counters."""
        if self.backend == "nftables":
            listed = self.machine.run("nft", "-s", "list", "table", "ip", "nova-netagent", check=False)
            return "\n".join(map(str, sorted(by_name(listed).items())))
        lines = self.machine.run("iptables-legacy-save", "-t", "filter").splitlines()
        return "\n".join(line for line in lines if line.startswith("-"))

    def lose_rules(self) -> None:
        """Have somebody take them all away."""
        if self.backend == "nftables":
            self.machine.run("nft", "delete", "table", "ip", "nova-netagent")
        else:
            for table in ("raw", "mangle", "nat", "filter"):
                self.machine.run("iptables-legacy", "-t", table, "-F")
                self.machine.run("iptables-legacy", "-t", table, "-X")

    def servers(self) -> list[str]:
        """The processes of dnsmasq."""
        return self.machine.run("pgrep", "-x", "dnsmasq", check=False).split()

    def process(self) -> dict[str, str]:
        """The main process as the kernel shows it."""
        lines = self.machine.run("cat", f"/proc/{self.pid}/status").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def restarts(self) -> int:
        return int(self.machine.show("NRestarts"))

    def drop_in(self, text: str) -> None:
        """Change the unit for a test."""
        self.machine.write(f"{UNIT}/test.conf", f"[Service]\n{text}\n")
        self.machine.run("systemctl", "daemon-reload")

    def start(self) -> None:
        self.machine.run("systemctl", "start", "nova-netagent")


@pytest.fixture(scope="module")
def installed(a_machine: Machine) -> Service:
    return Service(a_machine)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each test on both, and not all on one and then on the other: they are in the order of a machine's life."""
    return str(request.param)


@pytest.fixture
def service(request: pytest.FixtureRequest, installed: Service) -> Iterator[Service]:
    """The service, running, with network 1 and instance 1; of each packet filter for a test that is ON_BOTH."""
    asked = "backend" in request.fixturenames
    installed.use(request.getfixturevalue("backend") if asked else BACKEND)
    installed.start()
    installed.put(make_network(1))
    installed.put(make_instance(1))
    yield installed
    if installed.machine.run("sh", "-c", f"rm {UNIT}/test.conf 2>&1 && echo changed", check=False).strip() == "changed":
        installed.machine.run("systemctl", "daemon-reload")
        installed.machine.run("systemctl", "stop", "nova-netagent")
    installed.machine.run("systemctl", "reset-failed", "nova-netagent")


def test_it_is_nobody_but_itself_and_may_do_what_it_must(service: Service) -> None:
    process = service.process()
    user = service.machine.run("id", "-u", "nova-netagent").strip()
    assert process["Uid"].split() == [user] * 4
    network_only = f"{1 << 10 | 1 << 12 | 1 << 13:016x}"
    assert {process[each] for each in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {network_only}
    assert process["NoNewPrivs"] == "1"
    assert process["Seccomp"] == "2"
    status = service.request("GET", "/v1/status")
    assert status["enforcing"]
    assert status["troubles"] == []
    assert "br1" in service.rules()
    assert "10.1.0.1/24" in service.machine.run("ip", "address", "show", "br1")
    assert len(service.servers()) == 1
    # The line is written each second, and not for each change.
    eventually(lambda: f"enforcing with {service.backend}, 2 objects" in service.machine.show("StatusText"), within=10)


@ON_BOTH
def test_it_is_ready_when_the_stored_state_is_in_the_kernel(service: Service) -> None:
    machine, before = service.machine, service.rules()
    assert "br1" in before
    machine.run("systemctl", "stop", "nova-netagent")
    service.lose_rules()
    assert "br1" not in service.rules()
    service.start()
    assert service.rules() == before


@ON_BOTH
def test_a_restart_and_a_stop_leave_rules_and_servers(service: Service) -> None:
    rules, servers = service.rules(), service.servers()
    service.machine.run("systemctl", "restart", "nova-netagent")
    assert service.rules() == rules
    assert service.servers() == servers
    service.machine.run("systemctl", "stop", "nova-netagent")
    assert service.machine.show("Result") == "success"
    assert service.rules() == rules
    assert service.servers() == servers


def test_a_reload_keeps_it_and_an_invalid_configuration_keeps_what_was(service: Service) -> None:
    machine, pid = service.machine, service.pid
    before = machine.run("cat", CONFIGURATION)
    machine.write(CONFIGURATION, before + "[firewall]\nresync_interval = 60\n")
    machine.run("systemctl", "reload", "nova-netagent")
    eventually(lambda: "configuration read anew" in machine.journal(), within=10)
    machine.write(CONFIGURATION, before + "[firewall]\nresync_interval = never\n")
    machine.run("systemctl", "reload", "nova-netagent")
    eventually(lambda: "the configuration is kept as it was" in machine.journal(), within=10)
    machine.write(CONFIGURATION, before)
    eventually(lambda: machine.show("ActiveState") == "active", within=10)
    assert service.pid == pid
    assert service.request("GET", "/v1/status")["enforcing"]


@ON_BOTH
def test_killed_it_comes_back(service: Service) -> None:
    pid, restarts, servers, rules = service.pid, service.restarts(), service.servers(), service.rules()
    service.machine.run("kill", "-9", str(pid))
    eventually(lambda: service.restarts() > restarts and service.machine.show("ActiveState") == "active", within=30)
    assert service.pid != pid
    assert service.servers() == servers
    assert service.rules() == rules
    assert service.request("GET", f"/v1/networks/{network_id(1)}")["status"]["state"] == "done"


def test_a_hang_trips_the_watchdog_and_the_rules_stay(service: Service) -> None:
    service.drop_in("WatchdogSec=1")
    service.machine.run("systemctl", "restart", "nova-netagent")
    rules, pid, restarts = service.rules(), service.pid, service.restarts()
    service.machine.run("kill", "-STOP", str(pid))
    eventually(lambda: service.restarts() > restarts and service.machine.show("ActiveState") == "active", within=40)
    assert "Watchdog timeout" in service.machine.journal()
    assert service.pid != pid
    assert service.rules() == rules


def test_a_configuration_that_is_refused_is_not_tried_again(service: Service) -> None:
    machine = service.machine
    before = machine.run("cat", CONFIGURATION)
    restarts = service.restarts()
    machine.write(CONFIGURATION, "[firewall]\nbackend = ebtables\n")
    assert machine.fails("systemctl", "restart", "nova-netagent")
    machine.write(CONFIGURATION, before)
    assert machine.show("ExecMainStatus") == "2"
    assert machine.show("ActiveState") == "failed"
    assert service.restarts() in (0, restarts)
    assert "[firewall] backend = ebtables" in machine.journal()


@pytest.mark.parametrize(
    ("capability", "purpose"),
    [("CAP_NET_ADMIN", "to edit rules"), ("CAP_NET_RAW", "to open the raw socket")],
)
def test_without_a_capability_it_says_which_and_what_for(service: Service, capability: str, purpose: str) -> None:
    kept = " ".join({"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE"} - {capability})
    service.drop_in(f"AmbientCapabilities=\nAmbientCapabilities={kept}\nRestart=no")
    assert service.machine.fails("systemctl", "restart", "nova-netagent")
    assert f"{capability} is missing: it is needed {purpose}" in service.machine.journal()


def test_without_the_one_for_dhcp_it_warns_and_works(service: Service) -> None:
    service.drop_in("AmbientCapabilities=\nAmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW")
    service.machine.run("systemctl", "restart", "nova-netagent")
    assert "CAP_NET_BIND_SERVICE is missing: it is needed to serve DHCP" in service.machine.journal()
    assert service.request("GET", "/v1/status")["enforcing"]


def test_who_may_speak_to_it(service: Service) -> None:
    """The socket and the configuration are root's and the group's."""
    stat = service.machine.run(
        "stat", "-c", "%U:%G %a", "/run/nova-netagent/api.sock", CONFIGURATION, "/run/xtables.lock"
    )
    assert stat.splitlines() == ["nova-netagent:nova-netagent 660", "root:nova-netagent 640", "root:nova-netagent 660"]
    for path in ("/var/lib/nova-netagent", "/var/log/nova-netagent"):
        assert service.machine.run("stat", "-c", "%U %a", path).strip() == "nova-netagent 750"
    assert service.machine.fails(
        "setpriv", "--reuid=nobody", "--clear-groups", "cat", "/var/lib/nova-netagent/state.db"
    )


def test_the_socket_of_another_group_takes_what_the_documentation_says(service: Service) -> None:
    machine = service.machine
    before = machine.run("cat", CONFIGURATION)
    machine.write(CONFIGURATION, before + "[api]\nsocket_group = adm\n")
    assert machine.fails("systemctl", "restart", "nova-netagent")
    assert "/run/nova-netagent/api.sock: Operation not permitted" in machine.journal()
    service.drop_in("SupplementaryGroups=adm\nSystemCallFilter=@chown")
    machine.run("systemctl", "restart", "nova-netagent")
    machine.write(CONFIGURATION, before)
    assert machine.run("stat", "-c", "%G %a", "/run/nova-netagent/api.sock").strip() == "adm 660"


@ON_IPTABLES
def test_it_takes_turns_with_iptables(service: Service) -> None:
    """The lock is the very one of iptables(8), which root takes and the agent's user too."""
    service.machine.run("flock", "/run/xtables.lock", "true")
    open_files = service.machine.run("bash", "-c", f"cat /proc/{service.pid}/mountinfo | grep -c xtables.lock")
    assert int(open_files) >= 1
    service.machine.run("iptables-legacy", "-w", "5", "-A", "INPUT", "-s", "203.0.113.9", "-j", "DROP")
    service.put(make_network(2))
    assert "203.0.113.9" in service.rules()


FOREIGN = """\
table inet theirs {
    chain input {
        type filter hook input priority 0; policy accept;
        ip saddr 203.0.113.7 drop
        ip saddr 203.0.113.8 drop
    }
}
"""
"""More rules than anybody has in the legacy tables of this machine."""


@BESIDE_EACH_OTHER
def test_it_follows_the_host_to_nf_tables_and_back(service: Service) -> None:
    """From within the unit's sandbox it sees whose world this is, and may do there what it must."""
    machine = service.machine
    before = machine.run("cat", CONFIGURATION)
    machine.run("nft", "-f", "-", input=FOREIGN)
    machine.write(CONFIGURATION, before + "[firewall]\nbackend = auto\n")
    machine.run("systemctl", "restart", "nova-netagent")
    assert "enforcing with nftables" in machine.show("StatusText")
    assert "nova-netagent-inst-" in machine.run("nft", "list", "table", "ip", "nova-netagent")
    assert "nova" not in service.rules()
    service.put(make_network(2))
    assert service.request("POST", "/v1/resync")["repaired"] == []
    machine.run("nft", "delete", "table", "inet", "theirs")
    machine.write(CONFIGURATION, before)
    machine.run("systemctl", "restart", "nova-netagent")
    assert "enforcing with iptables" in machine.show("StatusText")
    assert "nova-netagent-inst-" in service.rules()
    assert "table ip " not in machine.run("nft", "list", "tables")


def test_the_manual_and_the_pages_are_there(installed: Service) -> None:
    machine = installed.machine
    for page in ("nova-netagent", "netagentctl"):
        machine.run("test", "-f", f"/usr/share/man/man8/{page}.8")
    machine.run("test", "-f", "/usr/share/bash-completion/completions/netagentctl")
    pages = machine.run("ls", "/usr/share/doc/nova-netagent").split()
    told = machine.run("sh", "-c", "cat /usr/share/doc/nova-netagent/*.md")
    assert {f"{name}.md" for name in re.findall(r"{doc}`([\w-]+)`", told)} <= set(pages)


# --- the unit as a text


def test_systemd_finds_nothing_to_complain_of(installed: Service) -> None:
    said = installed.machine.run(
        "systemd-analyze", "--man=no", "verify", "/usr/lib/systemd/system/nova-netagent.service"
    )
    assert [line for line in said.splitlines() if "nova-netagent" in line] == []


def test_the_exposure_is_no_higher_than_it_was(installed: Service) -> None:
    """A ratchet: what is left open is said in the unit, with the reason."""
    said = installed.machine.run(
        "systemd-analyze", "security", "--offline=true", "/usr/lib/systemd/system/nova-netagent.service"
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found, said
    assert float(found[1]) <= 1.8, said


def test_uninstalled_it_leaves_nothing_in_the_kernel(installed: Service) -> None:
    """The last of this machine."""
    machine = installed.machine
    installed.start()
    installed.put(make_network(1))
    machine.run("env", f"PYTHONPATH={SOURCE}", SOURCE / "tools/uninstall", "--purge")
    for family in ("iptables", "ip6tables"):
        assert "nova" not in machine.run(f"{family}-legacy-save")
    assert "nova" not in machine.run("nft", "list", "tables")
    assert machine.fails("ip", "link", "show", "br1")
    assert installed.servers() == []
    assert machine.fails("id", "nova-netagent")
    left = machine.run(
        "find",
        "/etc",
        "/opt",
        "/usr/bin",
        "/usr/sbin",
        "/usr/lib/systemd",
        "/usr/share",
        "/var/lib",
        "-maxdepth",
        "3",
        "-name",
        "*netagent*",
        "-not",
        "-path",
        "*/lab/*",
        "-not",
        "-path",
        f"{UNIT}*",
    )
    assert left == ""
