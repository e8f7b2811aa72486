"""Servers that answer with what they were sent, on any TCP and UDP port of one namespace."""

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Literal

OpenSocket = Callable[[int, int, int], socket.socket]
Transport = Literal["tcp", "udp"]
Endpoint = tuple[str, int]

IP_PKTINFO = 8
IPV6_RECVPKTINFO, IPV6_PKTINFO = 49, 50
TOKENS_REMEMBERED = 4096


class Echo:
    """One thread that serves all the ports asked for.

    It remembers from which address each message came, so that a test can see what NAT made of
    the client, and hands over an accepted connection to whoever knows a message that came by it.
    """

    def __init__(self, open_socket: OpenSocket) -> None:
        self._open_socket = open_socket
        self._selector = selectors.DefaultSelector()
        self._served: set[tuple[Transport, int, int, str]] = set()
        self._senders: dict[bytes, Endpoint] = {}
        self._connections: dict[bytes, socket.socket] = {}
        self._requests: list[Callable[[], None]] = []
        self._closing = False
        self._waker, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, self._on_wake)
        self._thread = threading.Thread(target=self._run, daemon=True, name="echo")
        self._thread.start()

    def serve(self, transport: Transport, family: int, port: int, address: str = "") -> None:
        """Answer on this port from now on; asking again changes nothing."""
        key = (transport, family, port, address)
        if key not in self._served:
            listener = self._listener(transport, family, port, address)
            callback = self._on_connection if transport == "tcp" else self._on_datagram
            self._in_loop(lambda: self._register(listener, lambda: callback(listener)))
            self._served.add(key)

    def sender_of(self, message: bytes) -> Endpoint | None:
        """The address and port from which the message came, as the server saw it."""
        return self._senders.get(message)

    def take_over(self, message: bytes) -> socket.socket:
        """Stop echoing on the connection by which the message came, and give it away."""
        taken: Future[socket.socket] = Future()

        def take() -> None:
            connection = self._connections[message]
            self._selector.unregister(connection)
            taken.set_result(connection)

        self._in_loop(take)
        return taken.result(2)

    def close(self) -> None:
        """End the thread and what it serves."""
        self._closing = True
        self._wake()
        self._thread.join()

    # in the thread

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                key.data()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()
        self._waker.close()

    def _in_loop(self, request: Callable[[], None]) -> None:
        done: Future[None] = Future()

        def run() -> None:
            try:
                request()
            except Exception as error:  # raised again for the one who asked
                done.set_exception(error)
            else:
                done.set_result(None)

        self._requests.append(run)
        self._wake()
        done.result(2)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._waker.send(b".")

    def _on_wake(self) -> None:
        self._woken.recv(4096)
        while self._requests:
            self._requests.pop(0)()

    def _register(self, served: socket.socket, callback: Callable[[], None]) -> None:
        served.setblocking(False)
        self._selector.register(served, selectors.EVENT_READ, callback)

    def _on_connection(self, listener: socket.socket) -> None:
        connection, peer = listener.accept()
        self._register(connection, lambda: self._on_bytes(connection, peer))

    def _on_bytes(self, connection: socket.socket, peer: Endpoint) -> None:
        try:
            message = connection.recv(65536)
            if message:
                self._remember(message, peer, connection)
                connection.send(message)
                return
        except OSError:
            pass  # reset by the client, or gone meanwhile: closed below
        self._selector.unregister(connection)
        connection.close()

    def _on_datagram(self, listener: socket.socket) -> None:
        message, extra, _, peer = listener.recvmsg(65536, 256)
        self._remember(message, peer, None)
        with contextlib.suppress(OSError):  # the answer may be forbidden
            listener.sendmsg([message], _answer_from(extra), 0, peer)

    def _remember(self, message: bytes, peer: Endpoint, connection: socket.socket | None) -> None:
        if len(self._senders) > TOKENS_REMEMBERED:
            self._senders.clear()
            self._connections.clear()
        self._senders[message] = (peer[0], peer[1])
        if connection is not None:
            self._connections[message] = connection

    # in the caller's thread

    def _listener(self, transport: Transport, family: int, port: int, address: str) -> socket.socket:
        kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
        listener = self._open_socket(socket.AF_INET6 if family == 6 else socket.AF_INET, kind, 0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == 6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        else:
            listener.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        listener.bind((address, port))
        if transport == "tcp":
            listener.listen(128)
        return listener


def _answer_from(extra: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """The control message that makes an answer leave from the address that was written to."""
    for level, kind, data in extra:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            return [(level, kind, struct.pack("=I", 0) + data[4:8] + b"\0" * 4)]
        if (level, kind) == (socket.IPPROTO_IPV6, IPV6_PKTINFO):
            return [(level, kind, data)]
    return []
