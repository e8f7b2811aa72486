"""One link's raw Ethernet side: frames of any content out, and frames as they come in."""

import contextlib
import ctypes
import errno
import socket
import struct
import time
from collections.abc import Callable, Iterator

from tests.lab.frames import Seen, mac_text, read_frame
from tests.lab.syscalls import readable

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
SOL_PACKET, PACKET_AUXDATA = 263, 8
TP_STATUS_VLAN_VALID = 0x10
PACKET_OUTGOING = 4
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
LARGEST_FRAME = 1 << 17

OpenSocket = Callable[[int, int, int], socket.socket]


def _instruction(code: int, jump_true: int, jump_false: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, value)


LOAD_HALF, JUMP_IF_EQUAL, RETURN = 0x28, 0x15, 0x06
HEAR_NOTHING = [_instruction(RETURN, 0, 0, 0)]


def hear_only(ethertype: int) -> list[bytes]:
    """The classic BPF program that lets the frames of one ethertype into a packet socket."""
    return [
        _instruction(LOAD_HALF, 0, 0, 12),
        _instruction(JUMP_IF_EQUAL, 0, 1, ethertype),
        _instruction(RETURN, 0, 0, LARGEST_FRAME),
        _instruction(RETURN, 0, 0, 0),
    ]


class Wire:
    """A packet socket bound to one link, opened once and kept.

    Closing one takes the kernel some 16 ms, so it stays open; while nobody listens a filter
    lets nothing into it, and it costs the link's traffic next to nothing. With ``only`` it
    hears the frames of one ethertype, and those all the time.
    """

    def __init__(self, open_socket: OpenSocket, device: str, index: int, only: int | None = None) -> None:
        self.device = device
        self.index = index
        self.socket = open_socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._attach(HEAR_NOTHING if only is None else hear_only(only))
        self.socket.setblocking(False)
        self.socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        with contextlib.suppress(PermissionError):  # in a user namespace the usual buffer has to do
            self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        self.socket.bind((device, ETH_P_ALL))

    @property
    def mac(self) -> str:
        """The link's Ethernet address."""
        return mac_text(self.socket.getsockname()[4])

    def send(self, frame: bytes) -> None:
        """Send a whole Ethernet frame as it is."""
        self.socket.send(frame)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Hear the frames that come in during the block."""
        self._drop_queued()
        self.socket.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        try:
            yield
        finally:
            self._attach(HEAR_NOTHING)

    def read(self) -> Iterator[Seen]:
        """The frames that came in and were not read yet; never waits."""
        while True:
            try:
                data, extra, _, address = self.socket.recvmsg(LARGEST_FRAME, 64)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENETDOWN:  # said once after the link was down
                    raise
                continue
            if address[2] != PACKET_OUTGOING:
                yield read_frame(data, _vlan(extra))

    def wait(self, token: bytes, within: float) -> bool:
        """Wait until a frame with the token comes in."""
        deadline = time.monotonic() + within
        while not any(token in seen.data for seen in self.read()):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            readable(self.socket, left)
        return True

    def _attach(self, instructions: list[bytes]) -> None:
        code = ctypes.create_string_buffer(b"".join(instructions))
        program = struct.pack("@HP", len(instructions), ctypes.addressof(code))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)

    def _drop_queued(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.socket.recv(1)


def _vlan(extra: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in extra:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, tag = struct.unpack_from("=I", data)[0], struct.unpack_from("=H", data, 16)[0]
            if status & TP_STATUS_VLAN_VALID:
                return int(tag)
    return None
