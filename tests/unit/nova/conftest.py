"""A host with nova's options, on the strict fakes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nova_netagent.backend.fake import FakeBackend
from tests.properties.host import Host
from tests.unit.compile.world import make_settings

MakeHost = Callable[..., Host]


@pytest.fixture
def make_host(tmp_path: Path) -> MakeHost:
    """Makes a host; options by name, whatever their group."""

    def make(backend: FakeBackend | None = None, **options: Any) -> Host:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return Host(folder, make_settings(send_arp_for_ha=False, **options), backend)

    return make


@pytest.fixture
def host(make_host: MakeHost) -> Host:
    """A host with the usual options."""
    return make_host()
