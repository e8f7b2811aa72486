"""Opens what an agent opens of its host, closes it, and prints what this process has open and runs before and after.

As JSON.
"""

import json
import os
import sys
import tempfile
import threading
from typing import Any

import msgspec

from nova_netagent.host import Host
from nova_netagent.metrics import Metrics
from nova_netagent.settings import Settings
from nova_netagent.wiring import open_host


def held() -> list[str]:
    """What is open, without the numbers of sockets; and the threads."""
    names = [f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd")]
    opened = sorted(os.readlink(each).partition("[")[0] for each in names if os.path.lexists(each))
    return opened + sorted(each.name for each in threading.enumerate())


def use(host: Host) -> None:
    """Have each adapter open what it opens."""
    with host.leftovers(1.0) as leftovers:
        assert leftovers is not None
        for backend in (host.rules, leftovers, host.others().legacy):
            if backend is not None:
                backend.read_sets()
                with backend.locked():
                    for table in backend.loaded_tables():
                        backend.read(table, fresh=True)
                backend.meddled()
    assert host.frames is not None
    host.frames.read()


def life(settings: Settings) -> Host:
    """One host, from its opening to its end."""
    host = open_host(settings, Metrics(), on_change=lambda: None)
    try:
        use(host)
    finally:
        host.close()
    return host


def main() -> None:
    """As the module says, for the backend that is named."""
    with tempfile.TemporaryDirectory() as folder:
        values: Any = {"state_path": folder, "firewall": {"backend": sys.argv[1]}}
        settings = msgspec.convert(values, Settings)
        life(settings)  # what a process opens once it keeps
        before = held()
        hosts = [life(settings) for _ in range(3)]
        after = held()
    print(json.dumps({"hosts": len(hosts), "before": before, "after": after}))


if __name__ == "__main__":
    main()
