"""Debian's firewalld with its nftables backend, on a bus of its own: it knows nothing of this project.

An instance's rules are rich rules of one zone, whose destination is the instance: a zone for
each instance would be a chain that every packet walks past.
"""

import ctypes
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dbus
import dbus.bus

SIZE, SHARED, RULES, RUNS = map(int, sys.argv[1:5])
ROOT = Path(os.environ["PEER_ROOT"])
ZONE = "instances"
NAME, PATH = "org.fedoraproject.FirewallD1", "/org/fedoraproject/FirewallD1"
PATIENCE = 1800.0
"""Seconds."""
BUS = """<busconfig><type>system</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
</policy></busconfig>"""
RICH = (
    'rule family="ipv4" source address="{source}" destination address="{destination}"'
    ' port port="{port}" protocol="{protocol}" accept'
)
FILED = (
    '<rule family="ipv4"><source address="{source}"/><destination address="{destination}"/>'
    '<port port="{port}" protocol="{protocol}"/><accept/></rule>'
)
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x00020000, 0x4000, 0x40000


def own_run():
    """A /run of this process alone: firewalld's place there is written in its code."""
    libc = ctypes.CDLL(None, use_errno=True)
    failed = (
        libc.unshare(CLONE_NEWNS)
        or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        or libc.mount(b"none", b"/run", b"tmpfs", 0, None)
    )
    if failed:
        raise OSError(ctypes.get_errno(), "no /run of its own")
    Path("/run/firewalld").mkdir()


def rule(number, index, form):
    """A rule of instance N, as this project's benchmark has it."""
    return form.format(
        source=f"203.0.{index % 250}.0/24",
        destination=f"10.1.{number // 250}.{number % 250 + 2}/32",
        port=1000 + index,
        protocol="tcp" if index % 3 else "udp",
    )


def rules(numbers, form):
    """All rules of some instances."""
    return [rule(number, index, form) for number in numbers for index in range(RULES)]


def wait_for(what, seconds):
    """What it says, as soon as that is true."""
    end = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > end:
            raise TimeoutError(what.__name__)
        time.sleep(0.01)
    return found


def configure(folder):
    """The host's permanent configuration: everything in one zone."""
    (folder / "zones").mkdir(parents=True)
    shutil.copy(ROOT.parent / "etc" / "firewalld" / "firewalld.conf", folder)
    everything = "\n".join(rules(range(1, SIZE + 1), FILED))
    (folder / "zones" / f"{ZONE}.xml").write_text(
        f'<?xml version="1.0"?><zone target="DROP"><source address="203.0.0.0/16"/>{everything}</zone>'
    )


def connected(address):
    """The bus, once it listens."""
    try:
        return dbus.bus.BusConnection(address)
    except dbus.DBusException:
        return None


def ask(bus, interface, method, *arguments):
    """Call firewalld: it answers while it loads its rules only when these are in the kernel."""
    thing = bus.get_object(NAME, PATH, introspect=False)
    return thing.get_dbus_method(method, interface)(*arguments, timeout=PATIENCE)


def milliseconds(function):
    """How long a call takes."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1000


def start(folder, bus):
    """Start firewalld; it is ready when it says so."""
    words = [sys.executable, str(ROOT / "sbin" / "firewalld"), "--nofork", "--nopid", "--log-target", "file"]
    words += ["--log-file", str(folder / "log"), "--system-config", str(folder / "configuration")]
    process = subprocess.Popen([*words, "--default-config", str(ROOT / "lib" / "firewalld")])
    wait_for(lambda: bus.name_has_owner(NAME), PATIENCE)
    state = ask(bus, "org.freedesktop.DBus.Properties", "Get", NAME, "state")
    if state != "RUNNING":
        raise RuntimeError(f"firewalld is {state}: {(folder / 'log').read_text()[-500:]}")
    return process


def add(bus, number):
    """The rules of one instance more."""
    for each in rules([number], RICH):
        ask(bus, f"{NAME}.zone", "addRichRule", ZONE, each, 0)


def resident(pid):
    """The resident memory of a process, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def measure(folder):
    """Everything, on a bus of its own."""
    configure(folder / "configuration")
    (folder / "bus.conf").write_text(BUS.format(path=folder / "bus"))
    daemons = [subprocess.Popen(["dbus-daemon", f"--config-file={folder}/bus.conf", "--nofork"])]
    os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = address = f"unix:path={folder}/bus"
    try:
        bus = wait_for(lambda: connected(address), 10)
        ready = milliseconds(lambda: daemons.append(start(folder, bus)))
        one_more = statistics.median(milliseconds(lambda n=n: add(bus, SIZE + n)) for n in range(1, RUNS + 1))
        listed = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
        have = sum(line.endswith(" accept") and " ip saddr 203.0." in line for line in listed.splitlines())
        if have != (SIZE + RUNS) * RULES:
            raise RuntimeError(f"{have} rules are in the kernel")
        return {
            "ready": ready,
            "one_more": one_more,
            "memory": resident(daemons[1].pid),
        }
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()


own_run()
with tempfile.TemporaryDirectory() as temporary:
    print(json.dumps(measure(Path(temporary))))
