"""The host under test."""

from collections.abc import Iterator

import pytest

from tests.functional.agent.cloud import Cloud
from tests.functional.agent.site import Site
from tests.lab import Lab


@pytest.fixture
def cloud(lab: Lab) -> Cloud:
    """A host with the agent running and nothing described."""
    return Cloud(lab)


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One host for all tests of a module, its agent configured by the module's CONFIG."""
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        yield Site(lab, getattr(request.module, "CONFIG", None))


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    """Both families, one after the other."""
    return int(request.param)
