"""The unix socket: made over what a dead program left, never over a living one."""

import grp
import os
import resource
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nova_netagent.api.sockets import ListenFailed, UnixListener, somebody_listens


@pytest.fixture
def path() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="netagent-") as folder:
        yield f"{folder}/run/api.sock"


def test_it_is_made_with_its_folder_and_mode(path: str) -> None:
    listener = UnixListener(path, 0o600)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert somebody_listens(path)
    listener.remove()
    assert not os.path.exists(path)
    listener.remove()
    listener.socket.close()


def test_its_group(path: str) -> None:
    group = next(each for each in grp.getgrall() if each.gr_gid not in (0, os.getgid()))
    UnixListener(path, 0o660, group.gr_name).socket.close()
    assert os.stat(path).st_gid == group.gr_gid


def test_a_group_that_is_not_there_is_refused(path: str) -> None:
    with pytest.raises(ListenFailed, match=r"\[api\] socket_group = no-such-group: there is no such group"):
        UnixListener(path, 0o660, "no-such-group")


def test_what_a_dead_program_left_is_replaced(path: str) -> None:
    UnixListener(path).socket.close()
    assert os.path.exists(path)
    assert not somebody_listens(path)
    listener = UnixListener(path)
    assert somebody_listens(path)
    listener.socket.close()


def test_a_living_one_is_left_alone(path: str) -> None:
    listener = UnixListener(path)
    with pytest.raises(ListenFailed, match=r"\[api\] socket = .*: another program listens there"):
        UnixListener(path)
    assert somebody_listens(path)
    listener.socket.close()


def test_a_living_one_whose_queue_is_full_is_left_alone(path: str) -> None:
    Path(path).parent.mkdir()
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(path)
        busy.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(path)
        with pytest.raises(ListenFailed, match="another program listens there"):
            UnixListener(path)
        for each in waiting:
            each.close()


def test_what_is_no_socket_is_left_alone(path: str) -> None:
    Path(path).parent.mkdir()
    Path(path).write_text("precious")
    with pytest.raises(ListenFailed, match="is there already and is no socket"):
        UnixListener(path)
    assert Path(path).read_text() == "precious"


def test_a_path_that_cannot_be(path: str) -> None:
    with pytest.raises(ListenFailed, match="AF_UNIX path too long"):
        UnixListener(f"{path}{'x' * 200}")
    Path(path).touch()
    with pytest.raises(ListenFailed, match=r"Not a directory|File exists"):
        UnixListener(f"{path}/api.sock")


def test_a_successor_s_socket_is_not_removed(path: str) -> None:
    first = UnixListener(path)
    first.socket.close()
    second = UnixListener(path)
    first.remove()
    assert os.path.exists(path)
    second.remove()
    assert not os.path.exists(path)
    second.socket.close()


def test_a_name_that_was_taken_away_is_had_again(path: str) -> None:
    listener = UnixListener(path, 0o600)
    first = listener.socket
    assert not listener.renew()
    os.unlink(path)
    os.rmdir(os.path.dirname(path))
    assert listener.renew()
    first.close()
    assert somebody_listens(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert not listener.renew()
    listener.remove()
    assert not os.path.exists(path)
    listener.socket.close()


def test_a_name_that_was_taken_away_is_had_again_when_there_are_descriptors(path: str) -> None:
    listener = UnixListener(path)
    first = listener.socket
    os.unlink(path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(ListenFailed, match="Too many open files"):
            listener.renew()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert listener.renew()
    first.close()
    listener.socket.close()


def test_a_name_that_is_another_s_now_is_left_to_it_until_it_goes(path: str) -> None:
    listener = UnixListener(path)
    first, descriptors = listener.socket, len(os.listdir("/proc/self/fd"))
    os.unlink(path)
    other = UnixListener(path)
    for _ in range(3):
        with pytest.raises(ListenFailed, match="another program listens there"):
            listener.renew()
    other.remove()
    other.socket.close()
    assert listener.renew()
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2, "the first socket, and the name of the other"
    first.close()
    listener.socket.close()
