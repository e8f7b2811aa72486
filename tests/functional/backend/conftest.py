"""The real backend on the private namespace that tests/lab/isolation.py made, emptied for each test."""

from collections.abc import Iterator

import pytest

from nova_netagent.backend.iptables import IptablesBackend
from nova_netagent.backend.iptables.commit import edit_by_libiptc, replace_table
from tests.functional.backend import legacy
from tests.lab import isolation


@pytest.fixture
def empty_tables() -> Iterator[None]:
    """No rule, no chain and no set of anybody."""
    isolation.require()
    legacy.empty()
    yield
    legacy.empty()


@pytest.fixture(params=[replace_table, edit_by_libiptc], ids=["replace", "libiptc"])
def either_backend(empty_tables: None, request: pytest.FixtureRequest) -> Iterator[IptablesBackend]:
    """The same with each of the two ways to commit."""
    made = legacy.new_backend(commit=request.param)
    yield made
    made.close()


@pytest.fixture
def backend(empty_tables: None) -> Iterator[IptablesBackend]:
    """A backend whose sets are called ours-..."""
    made = legacy.new_backend()
    yield made
    made.close()
