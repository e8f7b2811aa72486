"""The host under test."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Protocol

import pytest

from tests.functional.agent.cloud import Cloud
from tests.functional.agent.site import Site
from tests.lab import Lab
from tests.lab.agent import BACKEND


@pytest.fixture
def cloud(request: pytest.FixtureRequest, lab: Lab) -> Cloud:
    """A host with the agent running and nothing described; of each packet filter for a test that is ON_BOTH."""
    asked = "backend" in request.fixturenames
    return Cloud(lab, backend=request.getfixturevalue("backend") if asked else BACKEND)


class SiteMaker(Protocol):
    """Makes hosts."""

    def __call__(self, config: Mapping[str, Mapping[str, Any]] | None = None, backend: str | None = None) -> Site:
        """A host with this configuration; of the packet filter that the test is for, unless another is given."""


@pytest.fixture(scope="module")
def make_site(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[SiteMaker]:
    """Makes hosts for all tests of a module, one for each configuration."""
    with ExitStack() as stack:
        made: dict[str, Site] = {}

        of_test = backend

        def make(config: Mapping[str, Mapping[str, Any]] | None = None, backend: str | None = None) -> Site:
            chosen = backend or of_test
            key = f"{chosen} {config!r}"
            if key not in made:
                lab = stack.enter_context(Lab(tmp_path_factory.mktemp("lab")))
                made[key] = Site(lab, config, backend=chosen)
            return made[key]

        yield make


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, make_site: SiteMaker) -> Site:
    """One host for all tests of a module, its agent configured by the module's CONFIG."""
    return make_site(getattr(request.module, "CONFIG", None))


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    """Both families, one after the other."""
    return int(request.param)
