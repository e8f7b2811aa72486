"""NETAGENT_BACKEND leaves out what is of another packet filter, and nothing else."""

import os
import subprocess
import sys

import pytest

from tests.lab.agent import REPOSITORY

RESTART, DRIFT = (f"tests/functional/agent/{name}.py" for name in ("test_life_restart", "test_nftables_drift"))


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_a_run_is_of_one(backend: str) -> None:
    argv = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", RESTART, DRIFT]
    environment = {**os.environ, "NETAGENT_BACKEND": backend}
    found = subprocess.run(argv, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60).stdout
    names = {line for line in found.splitlines() if "::" in line}
    assert f"{RESTART}::test_a_resync_writes_nothing[{backend}]" in names, "on both"
    assert f"{RESTART}::test_sighup_changes_how_much_is_logged[{backend}]" in names, "on one"
    assert f"{RESTART}::test_the_service_manager_is_told" in names, "on whichever it is"
    assert any("test_a_restart_writes_no_table" in name for name in names) == (backend == "iptables")
    assert any(name.startswith(DRIFT) for name in names) == (backend == "nftables")
