"""Links, addresses and sysctls of the network namespace that the process is in."""

from nova_netagent.backend.links.adapter import KernelLinks
from nova_netagent.backend.links.protocol import LinksBackend, LinksFailed

__all__ = ["KernelLinks", "LinksBackend", "LinksFailed"]
