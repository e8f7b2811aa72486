"""nova 18.3.0 and neutron 25.2.3 as they are on PyPI, each in an environment of its own."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import Namespace

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Cloud:
    """A peer: where its code comes from, and what drives it."""

    name: str
    requirements: str
    driver: str
    options: tuple[str, ...]
    """Of pip."""


NOVA = Cloud("nova 18.3.0", "nova-requirements.txt", "nova_peer.py", ("--no-deps",))
NEUTRON = Cloud("neutron 25.2.3", "neutron-requirements.txt", "neutron_peer.py", ())
CLOUDS = (NOVA, NEUTRON)


def install(cloud: Cloud, folder: Path) -> Path:
    """The peer's python; its environment is made when it is not there."""
    place = folder / cloud.name.replace(" ", "-")
    python = place / "bin" / "python"
    if not (place / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        words = [str(python), "-m", "pip", "install", "-q", *cloud.options, "-r", str(HERE / cloud.requirements)]
        subprocess.run(words, check=True)
        (place / "installed").touch()
    return python


def measure(cloud: Cloud, python: Path, host: Namespace, size: int, shared: int, rules: int, runs: int) -> Any:
    """What the peer takes, in milliseconds: ``cold``, ``one_more`` (median), and its ``rules`` in the filter table."""
    words = [str(python), str(HERE / cloud.driver), *map(str, (size, shared, rules, runs))]
    done = host.run(words, timeout=3600)
    return json.loads(done.stdout.strip().splitlines()[-1])
