"""The dnsmasqs that run on a host, and what they have leased, by looking from outside."""

import os
import select
import signal
import time
from pathlib import Path

from tests.lab import Namespace


def dnsmasqs(host: Namespace) -> dict[str, list[int]]:
    """Every dnsmasq of the host, by bridge: none is hidden."""
    found: dict[str, list[int]] = {}
    for pid in host.processes():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue  # it has ended
        if "dnsmasq" in words[0]:
            bridge = next(word.partition("=")[2] for word in words if word.startswith("--interface="))
            found.setdefault(bridge, []).append(pid)
    return found


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Kill one, as an operator or the kernel would, and see it end."""
    descriptor = os.pidfd_open(pid)
    os.kill(pid, number)
    assert select.select([descriptor], [], [], 5)[0]
    os.close(descriptor)


def leased(file: Path) -> dict[str, str]:
    """The addresses of a lease file, each with whose it is; dnsmasq writes it in place, so it must say so twice."""
    text = _text(file)
    while True:
        time.sleep(0.02)
        if text == (text := _text(file)):
            lines = (line.split() for line in text.splitlines())
            return {words[2]: words[1] for words in lines if len(words) == 5}


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""
