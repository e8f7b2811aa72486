"""Take everything of ours out of the kernel: ``netagentctl cleanup``."""

from collections.abc import Sequence

from nova_netagent import wiring
from nova_netagent.backend import trace
from nova_netagent.compile import empty_ruleset
from nova_netagent.metrics import Metrics
from nova_netagent.reconcile import Reconciler
from nova_netagent.settings import Settings


class Unfinished(Exception):
    """Something of ours is left; the message says what, and why.

    :ivar done: what was done, a line each.
    """

    def __init__(self, left: str, done: Sequence[str]) -> None:
        super().__init__(left)
        self.done = done


def run(settings: Settings) -> list[str]:
    """Remove every rule, chain, set, address, port, bridge and server of ours, and nothing else.

    Sysctls go back to what was found. The described objects stay on disk.

    :returns: what was done, a line each.
    :raises Unfinished: what was made under a former wrap name cannot be removed.
    :raises BackendError: the kernel cannot be reached.
    :raises StoreError: the notes of what we made cannot be read.
    """
    store = wiring.open_store(settings)
    host = wiring.open_host(settings, Metrics())
    try:
        reconciler = Reconciler(settings.firewall, host, store, Metrics())
        note = trace.note(settings.state_path)
        traced = trace.sweep(settings.firewall.wrap_name, note, has_nf_tables=host.can_trace)
        lines = list(reconciler.remove_everything(empty_ruleset(settings)).lines())
        former, left = host.former.sweep(ends=False)
        lines += [*former, *(["what a trace had left"] if traced else [])]
        if left:
            raise Unfinished(left, lines)
        return lines
    finally:
        host.close()
        store.close()
