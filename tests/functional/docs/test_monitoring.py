"""What docs/monitoring.md has an operator run each minute gives the metrics, and is silent once nobody gives them."""

import re
import shlex
from pathlib import Path

from tests.functional.agent.cloud import Cloud
from tests.functional.conftest import ON_IPTABLES
from tests.lab import Lab, needs

pytestmark = [needs("iptables", "ip6tables", "ipset", "program:curl"), ON_IPTABLES]

PAGE = Path(__file__).resolve().parents[3] / "docs" / "monitoring.md"
_FOLDER, _SOCKET = "/var/lib/prometheus/node-exporter", "/run/nova-netagent/api.sock"


def test_the_collectors_file_grows_old_without_an_agent(lab: Lab, tmp_path: Path) -> None:
    found = re.search(r"textfile collector.*?```\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    cloud = Cloud(lab)
    here = {_FOLDER: tmp_path, _SOCKET: cloud.agent.socket}
    command = found[1]
    for documented, path in here.items():
        assert documented in command
        command = command.replace(documented, shlex.quote(str(path)))
    collected = tmp_path / "netagent.prom"

    cloud.host.run(["sh", "-c", command])
    assert "netagent_rules" in collected.read_text()
    before = collected.stat()

    cloud.agent.kill9()
    cloud.host.run(["sh", "-c", command], check=False)
    assert collected.stat() == before
    assert list(tmp_path.glob("*.prom")) == [collected]
