"""The engine, what may be asked of it, and how it finds who is to blame."""

from nova_netagent.engine.engine import Engine
from nova_netagent.engine.requests import Answer, Change, Informant, Look, NotApplied

__all__ = ["Answer", "Change", "Engine", "Informant", "Look", "NotApplied"]
