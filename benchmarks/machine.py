"""The machine and the programs on it, for whoever reads the figures later."""

import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]

Machine = Mapping[str, Any]


def look(peers: Iterable[str]) -> Machine:
    """What is here, and which fetched peers take part."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": value_of("model name", Path("/proc/cpuinfo").read_text()) or platform.machine(),
        "cpus": os.cpu_count(),
        "memory_mib": int(value_of("MemTotal", Path("/proc/meminfo").read_text()).split()[0]) // 1024,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "iptables": _said(["iptables-legacy", "--version"]),
        "nft": _said(["nft", "--version"]).partition(" (")[0],
        "ipset": _said(["ipset", "--version"]).partition(",")[0],
        "nova_netagent": _said(["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"])
        or metadata.version("nova-netagent"),
        "peers": list(peers),
    }


def under_load(machine: Machine) -> Machine:
    """The same with the load of now."""
    return {**machine, "load": round(os.getloadavg()[0], 1)}


def line(machine: Machine) -> str:
    """The machine in a sentence or two."""
    programs = [machine[each] for each in ("iptables", "nft", "ipset") if machine[each]]
    beside = f", beside {', '.join(machine['peers'])}" if machine["peers"] else ""
    return (
        f"{machine['date']}, {machine['cpus']} CPUs ({machine['cpu']}), {machine['memory_mib']} MiB, Linux"
        f" {machine['kernel']}, Python {machine['python']}, {', '.join(programs)}; nova-netagent"
        f" {machine['nova_netagent']}{beside}. Wall time unless a row says CPU, medians; load {machine['load']} at the"
        " end."
    )


def value_of(name: str, text: str) -> str:
    """The first value of this name in a text of names and values, or nothing."""
    for each in text.splitlines():
        found, _, value = each.partition(":")
        if found.strip() == name:
            return value.strip()
    return ""


def _said(words: Sequence[str]) -> str:
    """The first line that a program prints, or nothing where it is not there or fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return (done.stdout.splitlines() or [""])[0].strip()
