"""The real backend on the private namespace that tests/lab/isolation.py made, emptied for each test."""

from collections.abc import Iterator

import pytest

from nova_netagent.backend.iptables import IptablesBackend
from tests.functional.backend import legacy
from tests.lab import isolation


@pytest.fixture
def empty_tables() -> Iterator[None]:
    """No rule, no chain and no set of anybody."""
    isolation.require()
    legacy.empty()
    yield
    legacy.empty()


@pytest.fixture
def backend(empty_tables: None) -> Iterator[IptablesBackend]:
    """A backend whose sets are called ours-..."""
    made = legacy.new_backend()
    yield made
    made.close()
