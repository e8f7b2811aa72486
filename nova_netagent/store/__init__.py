"""The durable desired state, and what in the kernel we made: one SQLite file."""

from nova_netagent.store.database import StoreError
from nova_netagent.store.store import SCHEMA_VERSION, Store

__all__ = ["SCHEMA_VERSION", "Store", "StoreError"]
