"""The way out of the machine's own network, and what is left after the end."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab import features, isolation

REPOSITORY = Path(__file__).resolve().parents[3]
BEFORE = "from tests.lab import Lab, Namespace, isolation\n"
ENTER = BEFORE + "assert isolation.enter() is None\n"


def run_python(program: str, *argv: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a program that is not isolated yet, as pytest itself is at first."""
    inherited = {name: value for name, value in os.environ.items() if name != isolation.MARK}
    environment = {
        **inherited,
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
        **variables,
    }
    start = [sys.executable, "-c", program, *argv]
    return subprocess.run(start, capture_output=True, text=True, timeout=60, env=environment, check=False)


def inode_of(process: int) -> int | None:
    """The network namespace of a process; None when that has ended."""
    try:
        return isolation.network_inode(str(process))
    except OSError:
        return None


def test_entering() -> None:
    ran = run_python(
        ENTER
        + "import os; from pathlib import Path\n"
        + "print(isolation.network_inode(), sorted(os.listdir('/run')), os.listdir('/sys/class/net'))\n"
        + "assert isolation.enter() is None and isolation.active()\n"
        + "print(isolation.network_inode())"
    )
    assert ran.returncode == 0, ran.stderr
    inode, rest, again = re.fullmatch(r"(\d+) (.*)\n(\d+)\n", ran.stdout).groups()  # type: ignore[union-attr]
    assert int(inode) != isolation.network_inode()
    assert rest == "['lock', 'netns'] ['lo']"
    assert again == inode


def test_a_child_of_the_isolated_stays_with_its_parent() -> None:
    child = "import sys, subprocess; sys.exit(subprocess.call([sys.executable, '-c', sys.argv[1]]))"
    ran = run_python(
        ENTER + child,
        BEFORE + "here = isolation.network_inode(); isolation.enter(); assert isolation.network_inode() == here",
    )
    assert ran.returncode == 0, ran.stderr


def test_no_lab_in_the_machines_own_network() -> None:
    ran = run_python(BEFORE + "Namespace()")
    assert "NotIsolatedError" in ran.stderr


def test_what_a_crashed_run_left_is_killed() -> None:
    ran = run_python(
        ENTER
        + "import os, signal, subprocess\n"
        + "here = subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        + "there = Namespace().popen(['sh', '-c', 'setsid sleep 600 & sleep 600'], stdout=-3, stderr=-3)\n"
        + "print(here.pid, there.pid, flush=True)\n"
        + "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert ran.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while any(map(inode_of, map(int, ran.stdout.split()))):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_namespaces_are_kept_when_asked_for() -> None:
    ran = run_python(ENTER + "with Lab() as lab: lab.host('mine')", KEEP_NS="1")
    assert ran.returncode == 0, ran.stderr
    kept = {
        name: (int(pid), how.split())
        for name, how, pid in re.findall(r"namespace (\S+): (.*) \(kill (\d+)", ran.stderr)
    }
    assert set(kept) == {"mine", "outside", "segment-public"}
    try:
        process, enter = kept["mine"]
        # Without root we are in its user namespace already; somebody at a terminal is not.
        enter = [word for word in enter if word not in ("--user", "--preserve-credentials")]
        looked = subprocess.run([*enter, "ls", "/sys/class/net"], capture_output=True, text=True, check=True)
        assert looked.stdout.split() == ["eth0", "lo"]
        assert inode_of(process) is not None
    finally:
        for process, _ in kept.values():
            os.kill(process, signal.SIGKILL)


def test_features() -> None:
    assert features.missing("veth") is None
    assert features.missing("program:no-such-program") == "no-such-program is not installed"
    with pytest.raises(LookupError, match="unknown feature 'hovercraft'"):
        features.missing("hovercraft")


CONFTEST = """
from pathlib import Path
from tests.lab import plugin
plugin.TESTS = Path(__file__).parent
from tests.lab.plugin import *
"""

TESTS = """
import sys
from tests.lab import isolation, needs
from tests.functional.lab.test_agent import STUB

isolation.require()

@needs("program:no-such-program")
def test_skipped(): assert False

@needs("veth", "iptables")
def test_passed(): isolation.require()

def test_failed(lab):
    lab.agent(lab.host(), command=STUB)
    assert False
"""


def test_pytest_isolates_skips_and_reports(tmp_path: Path) -> None:
    (tmp_path / "functional").mkdir()
    (tmp_path / "unit").mkdir()
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "functional" / "test_labs.py").write_text(TESTS)
    (tmp_path / "unit" / "test_plain.py").write_text(
        "from tests.lab import isolation\ndef test_plain(): assert not isolation.active()"
    )
    pytest_in = "import pytest, sys; sys.exit(pytest.main(['-p', 'no:cacheprovider', '--rootdir', *sys.argv[1:]]))"

    functional = run_python(pytest_in, str(tmp_path), str(tmp_path / "functional"))
    assert functional.returncode == 1, functional.stdout + functional.stderr
    assert "1 failed, 1 passed, 1 skipped" in functional.stdout
    assert "no-such-program is not installed: functional/test_labs.py::test_skipped" in functional.stdout
    assert "nova-netagent in host1" in functional.stdout
    assert "listening in net:" in functional.stdout

    chosen = run_python(pytest_in, str(tmp_path), str(tmp_path / "functional"), "-x", "-k", "passed")
    assert "1 passed, 2 deselected" in chosen.stdout

    unit = run_python(pytest_in, str(tmp_path), str(tmp_path / "unit"))
    assert "1 passed" in unit.stdout
    assert unit.returncode == 0
