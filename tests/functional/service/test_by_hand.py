"""What docs/install.md says under "By hand", command by command, on a machine of its own."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from nova_netagent.testing import make_network
from tests.functional.conftest import ON_IPTABLES
from tests.functional.service import machine
from tests.functional.service.conftest import AS_TESTED, CONFIGURATION, UNIT
from tests.functional.service.machine import ENVIRONMENT, SOURCE, Machine
from tests.functional.service.test_service import Service
from tests.lab.agent import REPOSITORY

pytestmark = ON_IPTABLES


def commands() -> list[str]:
    """Those of the page's section; not those that build the environment, for which that of the tests stands."""
    found = re.search(r"^## By hand.*?```\n(.*?)```", (REPOSITORY / "docs/install.md").read_text(), re.DOTALL | re.M)
    assert found
    return [line for line in found[1].splitlines() if not re.search(r"\b(venv|pip)\b", line)]


def test_the_service_starts(tmp_path: Path) -> None:
    if (reason := machine.missing()) is not None:
        pytest.skip(reason)
    with Machine(tmp_path, Path(sys.prefix)) as made:
        made.run("ln", "-s", ENVIRONMENT, "/opt/nova-netagent")
        for command in commands():
            made.run("sh", "-ec", f"cd {shlex.quote(str(SOURCE))}; {command}")
        for program in ("netagentctl", "nova-netagent"):
            made.run("env", f"PYTHONPATH={SOURCE}", program, "--version")
        assert made.run("stat", "-c", "%U:%G %a", CONFIGURATION) == "root:nova-netagent 640\n"
        made.write(f"{UNIT}/as-tested.conf", AS_TESTED)
        made.run("sh", "-c", f"printf '[firewall]\\nbackend = iptables\\n' >>{CONFIGURATION}")
        made.run("systemctl", "daemon-reload")
        service = Service(made)
        service.start()
        service.put(make_network(1))
        assert "-i br1 -j ACCEPT" in service.rules()
        assert "enforcing" in made.run("env", f"PYTHONPATH={SOURCE}", "netagentctl", "status")
