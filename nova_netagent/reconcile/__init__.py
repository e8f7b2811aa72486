"""One attempt to make the kernel agree: links, frames, rules and servers, in the right order."""

from nova_netagent.reconcile.outcome import Outcome
from nova_netagent.reconcile.reconciler import Reconciler

__all__ = ["Outcome", "Reconciler"]
