"""Another program that hears a group of NFLOG."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab import Namespace

_PROGRAM = (
    "import socket,struct,sys\ns=socket.socket(16,3,12)\ns.bind((0,0))\n"
    "s.send(struct.pack('=IHHIIBB',28,0x401,5,1,0,0,0)+struct.pack('>H',int(sys.argv[1]))+struct.pack('=HHB3x',5,1,1))\n"
    "print(s.recv(99)[16:20],flush=True)\nsys.stdin.read()"
)


@contextmanager
def heard_by_another(host: Namespace, group: int) -> Iterator[None]:
    """The group is taken during the block."""
    other = host.popen(["python3", "-c", _PROGRAM, str(group)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"b'\\x00\\x00\\x00\\x00'\n"
        yield
    finally:
        other.kill()
        other.communicate()
