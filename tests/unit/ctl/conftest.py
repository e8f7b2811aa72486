"""The served stub of the API's tests."""

from tests.unit.api.conftest import serve

__all__ = ["serve"]
