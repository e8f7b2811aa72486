"""A machine with the service installed."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.service import machine
from tests.functional.service.machine import ENVIRONMENT, SOURCE, Machine

CONFIGURATION = "/etc/nova-netagent/nova-netagent.conf"
UNIT = "/etc/systemd/system/nova-netagent.service.d"

AS_TESTED = f"""\
[Service]
Environment=PYTHONPATH={SOURCE}
ExecStart=
ExecStart=/opt/nova-netagent/bin/python -m nova_netagent.cmd.agent --config-file /etc/nova-netagent/nova-netagent.conf
"""
"""The unit's program is this source, in the environment of the tests. All else is as the unit has it."""


@pytest.fixture(scope="package")
def a_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine on which tools/install was run."""
    if (reason := machine.missing()) is not None:
        pytest.skip(reason)
    with Machine(tmp_path_factory.mktemp("systemd"), Path(sys.prefix)) as made:
        made.run(SOURCE / "tools/install", "--environment", ENVIRONMENT)
        made.write(f"{UNIT}/as-tested.conf", AS_TESTED)
        made.run("sh", "-c", f"printf '[firewall]\\nbackend = iptables\\n' >>{CONFIGURATION}")
        made.run("systemctl", "daemon-reload")
        yield made
