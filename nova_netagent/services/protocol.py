"""What the engine needs of DHCP servers, whoever provides them."""

from collections.abc import Mapping
from typing import Literal, Protocol

from nova_netagent.services.plan import ActualService, DhcpPlan

Trouble = tuple[Literal["pending", "error"], str]
"""Why a network is not served."""


class DhcpServers(Protocol):
    """Reads and edits DHCP servers. One thread only; nothing waits for a process."""

    def read(self, *, fresh: bool = False) -> Mapping[str, ActualService]:
        """The servers by bridge, as they are or as they are about to be.

        :param fresh: read their files back from disk, too.
        """

    def apply(self, plan: DhcpPlan) -> None:
        """Carry out a plan, also one without edits; what fails is retried, and told by ``troubles``."""

    def release(self, bridge: str, address: str, mac: str) -> None:
        """Have a lease forgotten, so that another client can have the address at once."""

    def troubles(self) -> Mapping[str, Trouble]:
        """By network, why it is not served."""

    def retry(self) -> None:
        """Try again at once what waits to be tried again."""

    def next_due(self) -> float | None:
        """When ``do_due`` has something to do, by time.monotonic()."""

    def do_due(self) -> None:
        """Start, reload, end and look after what it is time for."""

    def settle(self, seconds: float) -> bool:
        """Wait until nothing is on its way any more; whether that came to be in time. For who may wait."""

    def close(self) -> None:
        """Close descriptors; the servers go on."""
