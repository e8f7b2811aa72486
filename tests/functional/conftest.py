"""Of which packet filter a test is: on each of them, on one, or on that which alone has what it is about."""

import pytest

from tests.lab.agent import BACKEND, BACKENDS

ON_BOTH = pytest.mark.usefixtures("backend")
"""A test, or all of a module, that says something about the packet filter: it runs on each."""
ON_ONE = pytest.mark.only(BACKEND)
"""A test that says nothing about the packet filter, though its host is one of each."""
ON_IPTABLES = pytest.mark.only("iptables")
"""A test of what only the legacy tables have."""
ON_NFTABLES = pytest.mark.only("nftables")
"""A test of what only nf_tables has."""
BESIDE_EACH_OTHER = pytest.mark.only("iptables", "nftables")
"""A test that names each itself, and takes both."""


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Both packet filters, one after the other, or the one that NETAGENT_BACKEND names."""
    return str(request.param)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is of a packet filter that the test, or this run, is not of."""
    here = [item for item in items if _is_of_this_run(item)]
    if len(here) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if not _is_of_this_run(item)])
        items[:] = here


def _is_of_this_run(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("only")
    if marker is None:
        return True
    callspec = getattr(item, "callspec", None)
    on = None if callspec is None else callspec.params.get("backend")
    return set(marker.args) <= set(BACKENDS) and (on is None or on in marker.args)
