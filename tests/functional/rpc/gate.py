"""The way from a host to the broker: open, shut, or standing still.

A host's agent connects to a port of its own loopback; what it says is carried to the broker.
So a broker can be gone for one host, or a connection half dead, in no time.
"""

import contextlib
import selectors
import socket
import threading
from typing import Any

from tests.functional.rpc.broker import PORT
from tests.lab import Namespace


class Gate:
    """Carries connections from the loopback of a namespace to the broker. It begins open."""

    def __init__(self, namespace: Namespace, *, is_open: bool = True) -> None:
        self._namespace = namespace
        listener = self._listener = self._listen(0)
        self.port: int = listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._frozen = False
        self._selector = selectors.DefaultSelector()
        self._closed = False
        self._woken, self._wake = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        if is_open:
            self._selector.register(listener, selectors.EVENT_READ)
        else:
            listener.close()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def shut(self) -> None:
        """Cut every connection and refuse new ones, as a machine does whose broker has ended."""
        with self._lock:
            self._frozen = False
            self._drop(self._listener)
            self._cut()

    def open(self) -> None:
        """Let everything through again; what was frozen goes on."""
        with self._lock:
            self._frozen = False
            if self._listener.fileno() == -1:
                self._listener = self._listen(self.port)
                self._selector.register(self._listener, selectors.EVENT_READ)
        self._wake.send(b"w")

    def freeze(self) -> None:
        """Carry nothing and end nothing: those at both ends are told nothing."""
        with self._lock:
            self._frozen = True

    def close(self) -> None:
        """End it."""
        self._closed = True
        self._wake.send(b"w")
        self._thread.join()
        with self._lock:
            self._drop(self._listener)
            self._cut()

    def _listen(self, port: int) -> socket.socket:
        listener = self._namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        return listener

    def _carry(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select(0.05 if self._frozen else None):
                if key.fileobj is self._woken:
                    self._woken.recv(100)
                    continue
                with self._lock:
                    if not self._frozen and key.fileobj in (*self._pairs, self._listener):
                        self._serve(key.fileobj)
            if self._frozen:
                threading.Event().wait(0.01)

    def _serve(self, ready: Any) -> None:
        if ready is self._listener:
            client, _ = ready.accept()
            server = socket.create_connection(("127.0.0.1", PORT)) if _broker_listens() else None
            if server is None:
                client.close()
                return
            self._pairs[client], self._pairs[server] = server, client
            for each in (client, server):
                self._selector.register(each, selectors.EVENT_READ)
            return
        other = self._pairs[ready]
        try:
            data = ready.recv(1 << 16)
            if data:
                other.sendall(data)
                return
        except OSError:
            pass
        self._drop(ready)
        self._drop(other)

    def _cut(self) -> None:
        for each in list(self._pairs):
            self._drop(each)

    def _drop(self, sock: socket.socket) -> None:
        self._pairs.pop(sock, None)
        if sock.fileno() != -1:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(sock)
            sock.close()


def _broker_listens() -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", PORT)) == 0
