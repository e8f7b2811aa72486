"""Links as values, and what every backend of them does."""

import pytest

pytest.register_assert_rewrite("tests.unit.links.contract")
