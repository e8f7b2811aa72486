"""The host under test."""

import pytest

from tests.functional.agent.cloud import Cloud
from tests.lab import Lab


@pytest.fixture
def cloud(lab: Lab) -> Cloud:
    """A host with the agent running and nothing described."""
    return Cloud(lab)
