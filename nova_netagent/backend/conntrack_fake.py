"""A connection-tracking table in memory: for tests, and for looking at what would happen."""

from collections.abc import Iterable

from nova_netagent.backend.conntrack import ConntrackError
from nova_netagent.model import values
from nova_netagent.netfilter.flow import Addresses, Flow


class FakeConntrack:
    """The ``FlowTable`` protocol without a kernel."""

    def __init__(self) -> None:
        self.tracked: list[Flow] = []
        """What "the kernel" tracks."""
        self.looks: list[Addresses] = []
        """What it was asked for."""
        self.broken = 0
        """A fault: how many times more it cannot be read."""
        self.stuck = 0
        """A fault: how many times more nothing can be deleted."""

    def flows(self, of: Addresses) -> list[Flow]:
        """The flows of some addresses. :raises ConntrackError: as often as ``broken`` says."""
        self.looks.append(of)
        if self.broken:
            self.broken -= 1
            raise ConntrackError("the flows cannot be read: ENOBUFS")
        return [flow for flow in self.tracked if any(_is_of(each, of) for each in flow.addresses)]

    def delete(self, flows: Iterable[Flow]) -> int:
        """Delete flows; how many there were. :raises ConntrackError: as often as ``stuck`` says."""
        if self.stuck:
            self.stuck -= 1
            raise ConntrackError("the flows cannot be deleted: EPERM")
        wanted = list(flows)
        there = [flow for flow in self.tracked if flow in wanted]
        self.tracked = [flow for flow in self.tracked if flow not in wanted]
        return len(there)

    def close(self) -> None:
        """Nothing is held."""


def _is_of(address: str, of: Addresses) -> bool:
    if of.everybody or address in of.single:
        return True
    wanted = values.prefix(address)
    return any(prefix.contains(wanted) for prefix in of.prefixes)
