"""A machine with a kernel of its own, for what this one is built without: user-mode Linux, an ordinary process.

Its file system is this machine's, its programs are the same, and it starts in two seconds. Debian has it as
``user-mode-linux``, which ``tools/setup test`` unpacks.
"""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = ("8021q", "bridge", "veth", "ipv6", "br_netfilter")
SCRIPT = """#!/bin/sh
export PATH={path} PYTHONPATH={repository} PYTHONDONTWRITEBYTECODE=1 TMPDIR=/mnt HOME=/mnt
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /mnt
for module in {modules}; do modprobe -d {root} $module; done
cd {repository}
{command}
echo "ended with $?"
echo o > /proc/sysrq-trigger
sleep 60
"""


class NoMachine(Exception):
    """There is no such kernel on this machine."""


def run(directory: Path, command: Sequence[str], *, timeout: float = 300) -> tuple[int, str]:
    """Run a program on a machine of its own: its exit code and what it said.

    :raises NoMachine: user-mode Linux is not installed.
    """
    kernel, modules = _installed()
    (directory / "lib/modules").mkdir(parents=True)
    (directory / "lib/modules" / modules.name).symlink_to(modules)
    script = directory / "init.sh"
    path = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    script.write_text(
        SCRIPT.format(
            path=path, repository=REPOSITORY, modules=" ".join(MODULES), root=directory, command=shlex.join(command)
        )
    )
    script.chmod(0o755)
    options = ["mem=512M", "rootfstype=hostfs", "rootflags=/", "rw", "quiet", "con=null", "con0=null,fd:1"]
    done = subprocess.run(
        [str(kernel), *options, f"init={script}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )
    said, _, code = done.stdout.rpartition("ended with ")
    return (int(code.split()[0]), said) if said else (-1, done.stdout)


def _installed() -> tuple[Path, Path]:
    for root in (REPOSITORY / ".debian" / "user-mode-linux", Path("/")):
        kernel, modules = root / "usr/bin/linux.uml", sorted((root / "usr/lib/uml/modules").glob("*"))
        if kernel.exists() and modules:
            return kernel, modules[-1]
    raise NoMachine("user-mode-linux is neither installed nor unpacked")
