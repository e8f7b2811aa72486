"""What may pass our bridges below IP: a table of nf_tables' bridge family, through netlink."""

from nova_netagent.backend.frames.kernel import KernelFrames
from nova_netagent.backend.frames.protocol import FramesBackend

__all__ = ["FramesBackend", "KernelFrames"]
