"""The unix socket that the API is reached at, made, guarded by its mode, and taken away again; the port for TCP."""

import errno
import grp
import os
import socket
import stat
from contextlib import ExitStack
from pathlib import Path

BACKLOG = 1024


class ListenFailed(Exception):
    """The API cannot be reached where it is configured to be; the message says why."""


class UnixListener:
    """A listening unix socket and its name in the file system.

    :param path: where it is to be. What is left of a program that is gone is replaced.
    :param mode: its file mode; nobody can connect before it has it.
    :param group: the name of its group; by default the process's.
    :raises ListenFailed: somebody listens there already, or it cannot be made.
    :ivar group: the number of its group.
    """

    def __init__(self, path: str, mode: int = 0o660, group: str | None = None) -> None:
        self._path = Path(path)
        self._mode, self._wanted_group = mode, group
        self.socket, self._name = self._listening()

    def _listening(self) -> tuple[socket.socket, int]:
        """A socket that listens, and what holds its name."""
        with ExitStack() as undone:
            try:
                listener = undone.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                left = is_taken(self._path)
                self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                if left:
                    self._remove_stale()
                listener.bind(str(self._path))
                # While this is open nobody else's file is given our inode's number.
                name = os.open(self._path, os.O_PATH | os.O_CLOEXEC)
                undone.callback(os.close, name)
                group = self._wanted_group
                if group is not None and (wanted := _group_id(group)) != self._path.stat().st_gid:
                    os.chown(self._path, -1, wanted)  # which a service manager may forbid altogether
                self._path.chmod(self._mode)
                self.group = self._path.stat().st_gid
                listener.listen(BACKLOG)  # until here nobody is let in, whatever the mode was
            except OSError as error:
                raise ListenFailed(f"[api] socket = {self._path}: {error.strerror or error}") from error
            undone.pop_all()
        return listener, name

    def renew(self) -> bool:
        """Listen on a new socket where somebody has taken the name away, since nobody could come by the old one.

        :returns: whether ``socket`` is another now; the old one is left to be closed.
        :raises ListenFailed: it cannot be made, or the name is somebody else's now.
        """
        if self._has_name():
            return False
        before = self._name
        self.socket, self._name = self._listening()
        os.close(before)
        return True

    def _has_name(self) -> bool:
        try:
            return os.path.samestat(self._path.lstat(), os.fstat(self._name))
        except OSError:
            return False

    def _remove_stale(self) -> None:
        if somebody_listens(self._path):
            raise ListenFailed(f"[api] socket = {self._path}: another program listens there")
        self._path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Take the name away, if it is still this socket's and not a successor's."""
        if self._has_name():
            self._path.unlink(missing_ok=True)


def is_taken(path: Path) -> bool:
    """Whether a socket has the name, of a program that listens or of one that is gone.

    :raises ListenFailed: something else has it, and is not to be replaced; or there cannot be such a name.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, PermissionError):  # who may not look may not make it either, and will be told so
        return False
    except OSError as error:
        raise ListenFailed(f"[api] socket = {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise ListenFailed(f"[api] socket = {path}: it is there already and is no socket")
    return True


def listen_tcp(host: str, port: int) -> socket.socket:
    """A listening TCP socket.

    :param host: an address, or a name of one.
    :raises ListenFailed: somebody listens there already, or the address is not this host's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        reason = error.strerror or error
        raise ListenFailed(f"[api] bind_host = {host}, bind_port = {port}: {reason}") from error
    return listener


def somebody_listens(path: Path | str) -> bool:
    """Whether a program accepts connections at a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except OSError as error:
            # EAGAIN: its queue is full, so there is one.
            return error.errno in (errno.EAGAIN, errno.EACCES)
        return True


def _group_id(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ListenFailed(f"[api] socket_group = {name}: there is no such group") from None
