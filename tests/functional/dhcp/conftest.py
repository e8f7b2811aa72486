"""The host under test."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.dhcp.site import Site
from tests.lab import Lab


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that an unprivileged dnsmasq reaches: pytest's own are closed to others."""
    directory = Path(tempfile.mkdtemp(prefix="netagent-dhcp-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def site(lab: Lab, open_directory: Path) -> Iterator[Site]:
    """A host with bridge br1."""
    made = Site(lab, open_directory)
    made.bridge(1)
    yield made
    print(made.said())  # shown where the test fails
    made.close()
