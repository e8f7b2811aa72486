"""The daemon over TCP: what it is told is in the kernel, certificates are renewed while it runs, no secret is told."""

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nova_netagent.model import document
from nova_netagent.testing import make_network, network_id
from tests.functional.agent.cloud import Cloud
from tests.functional.agent.kernel import eventually, ip_rules
from tests.functional.edge.certificates import Pair
from tests.functional.edge.conftest import Site, exchange
from tests.functional.edge.fake_keystone import PASSWORD, Keystone
from tests.lab import Lab, needs
from tests.lab.agent import REPOSITORY

pytestmark = needs("iptables", "ip6tables", "ipset")

PORT = 8778
NETWORK = f"/v1/networks/{network_id(1)}"
BODY = document(make_network(1))


def dial(cloud: Cloud) -> Any:
    return cloud.host.call(socket.create_connection, ("127.0.0.1", PORT), 10)


def served_name(cloud: Cloud, site: Site) -> str:
    """Whose certificate it shows."""
    with site.client(site.reader).wrap_socket(dial(cloud), server_hostname="127.0.0.1") as sock:
        shown = sock.getpeercert()
        assert shown is not None
        subject: Any = shown["subject"]
        return next(str(value) for ((key, value),) in subject if key == "commonName")


@pytest.fixture
def shown() -> Iterator[Pair]:
    """Where a daemon has its certificate, readable for whomever it runs as."""
    with tempfile.TemporaryDirectory(prefix="netagent-edge-") as folder:
        Path(folder).chmod(0o755)
        yield Pair(Path(folder, "agent.pem"), Path(folder, "agent.key"))


def appended(folder: Path) -> Path:
    """The configuration of a log that reads, and cannot be."""
    file = folder / "log.ini"
    sections = ("[loggers]\nkeys=root", "[handlers]\nkeys=h", "[formatters]\nkeys=", "[logger_root]\nhandlers=h")
    file.write_text("\n".join((*sections, "[handler_h]\nclass=no.such.Handler\nargs=()\n")))
    file.chmod(0o644)
    return file


def test_mutual_tls_from_end_to_end_and_certificates_that_are_renewed(lab: Lab, site: Site, shown: Pair) -> None:
    def show(pair: Pair) -> None:
        for source, target in zip(pair, shown, strict=True):
            shutil.copy(source, target)
            target.chmod(0o644)

    show(site.server)
    authority = shown.cert.with_name("ca.pem")
    shutil.copy(site.authority.cert, authority)
    api = {"bind_host": "127.0.0.1", "bind_port": PORT, "cert_file": shown.cert, "key_file": shown.key}
    cloud = Cloud(lab, {"api": {**api, "ca_file": authority, "cert_writers": "controller"}})
    writer, reader = site.client(site.writer), site.client(site.reader)
    assert exchange(dial(cloud), "PUT", NETWORK, BODY, writer)[0] == 201
    assert "br1" in ip_rules(cloud.host)
    assert exchange(dial(cloud), "DELETE", NETWORK, None, reader)[0] == 403
    assert exchange(dial(cloud), "GET", NETWORK, None, reader)[1]["status"]["state"] == "done"

    assert served_name(cloud, site) == "agent"
    with reader.wrap_socket(dial(cloud), server_hostname="127.0.0.1") as kept:
        show(site.authority.sign("renewed"))
        cloud.agent.signal(signal.SIGHUP)
        eventually(lambda: served_name(cloud, site) == "renewed", within=10)
        shown.cert.write_text("no certificate")
        cloud.agent.signal(signal.SIGHUP)
        eventually(lambda: f"kept as it was: [api] cert_file = {shown.cert}" in cloud.agent.log_end(5), within=10)
        assert served_name(cloud, site) == "renewed"
        show(site.authority.sign("again"))
        written = cloud.agent.config_file.read_text()
        for section, options, said in (
            ("DEFAULT", f"log_config_append = {appended(shown.cert.parent)}", "[DEFAULT] log_config_append = "),
            ("api", "cert_file = /nowhere/agent.pem", "[api] cert_file = /nowhere/agent.pem"),
        ):
            cloud.agent.config_file.write_text(f"{written}[{section}]\n{options}\n")
            cloud.agent.signal(signal.SIGHUP)
            eventually(lambda said=said: f"kept as it was: {said}" in cloud.agent.log_end(5), within=10)  # type: ignore[misc]
            assert served_name(cloud, site) == "renewed", "all or nothing"
        cloud.agent.config_file.write_text(written)
        kept.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        assert kept.recv(12) == b"HTTP/1.1 200"

    show(site.server)
    cloud.agent.stop()
    with cloud.host.call(socket.create_server, ("127.0.0.1", PORT)):
        cloud.agent.start(ready=False)
        assert cloud.agent.wait() == 1
    assert f"[api] bind_host = 127.0.0.1, bind_port = {PORT}: Address already in use" in cloud.agent.log_end(3)


def test_keystone_from_end_to_end_and_no_secret_is_told(lab: Lab) -> None:
    pytest.importorskip("keystonemiddleware")
    host = lab.host()
    keystone = host.call(Keystone)
    api: dict[str, Any] = {"bind_host": "127.0.0.1", "bind_port": PORT, "auth_strategy": "keystone"}
    config = {"api": api, "keystone_authtoken": keystone.config(), "DEFAULT": {"debug": True}}
    cloud = Cloud(lab, config, host)
    token = {"X-Auth-Token": keystone.issue("the-token-of-an-admin", "admin")}
    assert exchange(dial(cloud), "PUT", NETWORK, BODY, None, token)[0] == 201
    assert "br1" in ip_rules(cloud.host)
    assert exchange(dial(cloud), "GET", NETWORK)[0] == 401
    cloud.agent.signal(signal.SIGUSR2)
    eventually(lambda: "Guru Meditation" in cloud.agent.log_file.read_text(), within=10)
    bundle = cloud.agent.directory / "bundle.tar.gz"
    program = [sys.executable, "-m", "nova_netagent.cmd.ctl", "--config-file", str(cloud.agent.config_file)]
    host.run([*program, "diag", "-o", str(bundle)], cwd=REPOSITORY)
    told = subprocess.run(["tar", "-xOzf", bundle], capture_output=True, check=True).stdout.decode(errors="replace")
    assert "keystone_authtoken" in told
    for secret in (PASSWORD, "the-token-of-an-admin", "token-of-the-service"):
        assert secret not in told
        assert secret not in cloud.agent.log_file.read_text()
    cloud.agent.stop()
    keystone.close()
