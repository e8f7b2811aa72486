"""The bridge under test."""

from collections.abc import Iterator

import pytest

from tests.functional.frames.site import BridgeSite
from tests.lab import Lab


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeSite]:
    """One bridge for all tests of a module; each says itself what may pass."""
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        yield BridgeSite(lab)
