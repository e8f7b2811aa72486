"""What libiptc's errors mean for the caller, without a kernel."""

import ctypes
import errno
from types import SimpleNamespace

import pytest

from nova_netagent.backend import BackendError, RuleRefused, TableChanged, Unavailable
from nova_netagent.backend.iptables import libiptc
from nova_netagent.netfilter.rule import TableId

FILTER = TableId(4, "filter")


def failing(number: int) -> int:
    ctypes.set_errno(number)
    return 0


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A library that gives out a table and takes none back."""
    made = SimpleNamespace(
        init=lambda table: 1,
        free=lambda handle: None,
        strerror=lambda number: b"Bad rule (does a matching rule exist?)",
    )
    monkeypatch.setattr(libiptc, "_library", lambda family: made)
    return made


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.EAGAIN, TableChanged),
        (errno.ENOMEM, Unavailable),
        (errno.EPERM, Unavailable),
        (errno.EINVAL, RuleRefused),
        (errno.ENOENT, RuleRefused),
        (errno.ELOOP, RuleRefused),
        (errno.EOPNOTSUPP, RuleRefused),
    ],
)
def test_a_failed_commit_says_what_to_do_next(library: SimpleNamespace, number: int, error: type[BackendError]) -> None:
    library.commit = lambda handle: failing(number)
    with libiptc.Handle(FILTER) as handle, pytest.raises(error, match="IPv4 filter"):
        handle.commit()


def test_a_table_that_is_not_given_is_unavailable(library: SimpleNamespace) -> None:
    library.init = lambda table: failing(errno.EPERM)
    with pytest.raises(Unavailable, match="EPERM"), libiptc.Handle(FILTER):
        pass


def test_an_edit_that_does_not_fit_names_its_chain(library: SimpleNamespace) -> None:
    library.insert_entry = lambda chain, key, index, handle: failing(errno.E2BIG)
    with libiptc.Handle(FILTER) as handle, pytest.raises(RuleRefused, match=r"rule to INPUT.*E2BIG"):
        handle.insert("INPUT", 5, b"")


def test_a_handle_is_given_back_whatever_happens(library: SimpleNamespace) -> None:
    freed: list[object] = []
    library.free = freed.append
    with pytest.raises(ZeroDivisionError), libiptc.Handle(FILTER):
        raise ZeroDivisionError
    assert freed == [1]
