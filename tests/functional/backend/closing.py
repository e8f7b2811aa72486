"""Opens what an agent opens of its host, closes it, and prints what this process has open before and after, as JSON."""

import json
import os
import sys
import tempfile
from typing import Any

import msgspec

from nova_netagent.host import Host
from nova_netagent.metrics import Metrics
from nova_netagent.settings import Settings
from nova_netagent.wiring import open_host


def descriptors() -> list[str]:
    """What is open, without the numbers of sockets."""
    names = [f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd")]
    return sorted(os.readlink(each).partition("[")[0] for each in names if os.path.lexists(each))


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
    host = open_host(settings, Metrics())
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
        before = descriptors()
        hosts = [life(settings) for _ in range(3)]
        after = descriptors()
    print(json.dumps({"hosts": len(hosts), "before": before, "after": after}))


if __name__ == "__main__":
    main()
