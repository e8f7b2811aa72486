"""The adapters through which one host is read and edited."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from nova_netagent.backend import Backend
from nova_netagent.backend.conntrack import FlowTable
from nova_netagent.backend.frames.protocol import FramesBackend
from nova_netagent.backend.links.protocol import LinksBackend
from nova_netagent.backend.nft.others import OtherTable
from nova_netagent.former import FormerNames, NoFormerNames
from nova_netagent.services.protocol import DhcpServers


@dataclass(frozen=True)
class Others:
    """Everybody's rules that are not in the tables which our own backend reads.

    :ivar legacy: the legacy tables, to be read only; ``None`` where our own rules are in them.
    """

    nft: Sequence[OtherTable] = ()
    legacy: Backend[Any] | None = None


Leftovers = Callable[[float], AbstractContextManager[Backend[Any] | None]]
"""Looks into the packet filter that is not ours, and opens it if anything of ours is there, as long as it is used.

It is told how many seconds another program's lock may be waited for. It raises ``BackendError`` where it cannot look.
"""


class OthersRules(Protocol):
    """Reads everybody's rules that are not in those tables."""

    def __call__(self) -> Others:
        """Them as they are now. Raises ``BackendError``: the kernel does not say."""

    def close(self) -> None:
        """Close sockets; nothing in the kernel changes."""


class NobodyElse:
    """There are no others."""

    def __call__(self) -> Others:
        """Nothing."""
        return Others()

    def close(self) -> None:
        """Nothing to close."""


@dataclass(frozen=True)
class Host:
    """One host. Made and used in one thread: python-iptables knows no other."""

    rules: Backend[Any]
    links: LinksBackend
    frames: FramesBackend | None
    """``None``: the kernel cannot judge them."""
    servers: DhcpServers
    flows: FlowTable
    leftovers: Leftovers = lambda seconds: nullcontext()
    """What is ours in the packet filter that is not: left there when it was, or come back since."""
    former: FormerNames = field(default_factory=NoFormerNames)
    """What is left of ours under other names."""
    warnings: tuple[str, ...] = ()
    """What this kernel cannot do, and what that means."""
    in_the_way: Callable[[], Sequence[str]] = tuple
    """What of others' rules is in the way of what ours let pass, a warning each, as it is now.

    It raises ``BackendError`` where it cannot look.
    """
    others: OthersRules = field(default_factory=NobodyElse)
    """What judges packets where ``rules`` does not look."""

    can_trace: bool = False
    """Whether the kernel can tell of real packets which rules they meet."""

    def meddled(self) -> bool:
        """Whether the kernel tells that others changed rules or frames of ours; told once.

        :raises BackendError: it does not say now.
        """
        return self.rules.meddled() or (self.frames is not None and self.frames.meddled())

    def close(self) -> None:
        """Close sockets and descriptors; the kernel keeps everything, and servers go on."""
        self.rules.close()
        self.others.close()
        self.links.close()
        self.servers.close()
        self.flows.close()
        if self.frames is not None:
            self.frames.close()
