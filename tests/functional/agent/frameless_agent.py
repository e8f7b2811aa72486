"""The daemon on a kernel without nf_tables' bridge family."""

import sys

from nova_netagent.backend.frames import KernelFrames
from nova_netagent.cmd.agent import main

REASON = "the kernel refuses the table: Operation not supported"

if __name__ == "__main__":
    KernelFrames.supported = lambda self: REASON  # type: ignore[method-assign]
    sys.exit(main())
