"""Peers that are fetched, each to a folder of its own: nova and neutron from PyPI, firewalld from Debian.

Nothing of them is installed in the machine: firewalld would be at work there at its next start.
"""

import json
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import Namespace

HERE = Path(__file__).resolve().parent
RULES_BY_20 = 0.35
"""Of nova's rules, where groups are shared."""


@dataclass(frozen=True)
class Fetched:
    """A peer: what drives it, and how much faster than it we want to be."""

    name: str
    driver: str
    times_faster: float | None = None

    def fetch(self, folder: Path) -> Sequence[str]:
        """The words that run its driver; it is fetched when it is not there."""
        place = self._place(folder)
        if not (place / "complete").exists():
            self._fetch(place)
            (place / "complete").touch()
        return [*self._runs(place), str(HERE / self.driver)]

    def measure(self, words: Sequence[str], host: Namespace, size: int, shared: int, rules: int, runs: int) -> Any:
        """What it has of these: ``cold``, ``ready`` and ``one_more`` in milliseconds, ``memory`` in MiB, ``rules``."""
        done = host.run([*words, *map(str, (size, shared, rules, runs))], timeout=3600)
        return json.loads(done.stdout.strip().splitlines()[-1])

    def bar(self, key: str, shared: int) -> float | None:
        """What the ratio of a figure must not exceed."""
        if key == "one_more" and self.times_faster is not None:
            return 1 / self.times_faster
        return RULES_BY_20 if key == "rules" and self is NOVA and shared > 1 else None

    def version(self, folder: Path) -> str:
        """Its name with the version that was fetched."""
        return self.name

    def _place(self, folder: Path) -> Path:
        return folder / self.name.replace(" ", "-")

    def _fetch(self, place: Path) -> None:
        raise NotImplementedError

    def _runs(self, place: Path) -> Sequence[str]:
        raise NotImplementedError


@dataclass(frozen=True)
class FromPyPI(Fetched):
    """A peer in a virtual environment."""

    requirements: str = ""
    options: tuple[str, ...] = ()
    """Of pip."""

    def _fetch(self, place: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        words = [*self._runs(place), "-m", "pip", "install", "-q", *self.options, "-r", str(HERE / self.requirements)]
        subprocess.run(words, check=True)

    def _runs(self, place: Path) -> Sequence[str]:
        return [str(place / "bin" / "python")]


@dataclass(frozen=True)
class FromDebian(Fetched):
    """A peer of Debian's packages, unpacked."""

    packages: tuple[str, ...] = ()

    def version(self, folder: Path) -> str:
        """Its name with the version of its package."""
        fetched = sorted(self._place(folder).glob(f"{self.name}_*.deb"))
        return " ".join((self.name, *(each.name.split("_")[1] for each in fetched)))

    def _fetch(self, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", *self.packages], cwd=place, check=True)
        for package in sorted(place.glob("*.deb")):
            subprocess.run(["dpkg", "-x", str(package), str(place / "root")], check=True)

    def _runs(self, place: Path) -> Sequence[str]:
        root = place / "root" / "usr"
        libraries = root / "lib" / sysconfig.get_config_var("MULTIARCH")
        paths = {
            "PATH": f"{root}/bin:{root}/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": f"{root}/lib/python3/dist-packages",
            "LD_LIBRARY_PATH": str(libraries),
            "GI_TYPELIB_PATH": f"{libraries}/girepository-1.0",
            "PEER_ROOT": str(root),
        }
        return ["env", *(f"{name}={value}" for name, value in paths.items()), "/usr/bin/python3"]


NOVA = FromPyPI("nova 18.3.0", "nova_peer.py", 25, requirements="nova-requirements.txt", options=("--no-deps",))
NEUTRON = FromPyPI("neutron 25.2.3", "neutron_peer.py", 200, requirements="neutron-requirements.txt")
FIREWALLD = FromDebian(
    "firewalld",
    "firewalld_peer.py",
    packages=(
        "firewalld",
        "python3-firewall",
        "python3-dbus",
        "python3-gi",
        "python3-nftables",
        "python3-cap-ng",
        "gir1.2-glib-2.0",
        "libgirepository-1.0-1",
        "dbus-daemon",
        "dbus-bin",
    ),
)
PEERS: tuple[Fetched, ...] = (NOVA, NEUTRON, FIREWALLD)
