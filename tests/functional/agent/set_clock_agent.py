"""The daemon, whose clock is set while it runs: by as many seconds as a file ``clock`` beside its configuration has."""

import sys
import time
from pathlib import Path

_HOSTS = time.time
_FILE = Path(sys.argv[-1]).with_name("clock")


def _time() -> float:
    return _HOSTS() + (float(_FILE.read_text()) if _FILE.exists() else 0.0)


if __name__ == "__main__":
    time.time = _time
    from nova_netagent.cmd.agent import main

    sys.exit(main())
