"""A stub engine, its API in this process, and its API as a process of its own."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from falcon.testing import TestClient

import tests.properties.conftest  # noqa: F401 - its hypothesis profile: no deadline, fewer examples
from nova_netagent.api.app import make_app
from tests.unit.api.served import Served
from tests.unit.api.stub_engine import StubEngine


@pytest.fixture
def engine() -> StubEngine:
    return StubEngine()


@pytest.fixture
def client(engine: StubEngine) -> TestClient:
    return TestClient(make_app(engine.agent()))


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Start served stubs; they must be alive at the end unless the test stopped them."""
    started: list[Served] = []
    with tempfile.TemporaryDirectory(prefix="netagent-api-") as folder:

        def start(**options: object) -> Served:
            served = Served(Path(folder) / f"{len(started)}.sock", options)
            started.append(served)
            return served

        yield start
        for each in started:
            each.end()
