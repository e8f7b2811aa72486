"""What the packet tests are run over."""

import pytest

from nova_netagent.netfilter.rule import Family


@pytest.fixture(params=(4, 6), ids=("IPv4", "IPv6"))
def family(request: pytest.FixtureRequest) -> Family:
    """Both families."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=("ingress", "egress"))
def direction(request: pytest.FixtureRequest) -> str:
    """Both directions."""
    return request.param  # type: ignore[no-any-return]
