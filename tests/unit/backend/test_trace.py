"""What a trace has to put back, when it cannot, and when somebody wrote nonsense there."""

import errno
from pathlib import Path

import pytest

from nova_netagent.backend import Unavailable, trace
from nova_netagent.backend.nft import Netlink


@pytest.fixture
def loggers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The loggers of the address families, as the kernel shows them."""
    found = tmp_path / "nf_log"
    found.mkdir()
    (found / "2").write_text("nfnetlink_log")
    monkeypatch.setattr(trace, "_LOGGERS", found)
    return found


def test_it_is_put_back_once(tmp_path: Path, loggers: Path) -> None:
    note = trace.note(str(tmp_path))
    note.write_text("2 nf_log_syslog\n")
    assert trace.put_back(note)
    assert (loggers / "2").read_text() == "nf_log_syslog"
    assert not trace.put_back(note)


@pytest.mark.parametrize("text", ["", "nonsense", "../../etc nothing", "99 nf_log_syslog"])
def test_what_is_no_note_changes_nothing(tmp_path: Path, loggers: Path, text: str) -> None:
    note = trace.note(str(tmp_path))
    note.write_text(text)
    assert trace.put_back(note)
    assert [each.name for each in loggers.iterdir()] == ["2"]
    assert (loggers / "2").read_text() == "nfnetlink_log"
    assert not note.exists()


def test_what_cannot_be_put_back_is_tried_again(tmp_path: Path, loggers: Path) -> None:
    (loggers / "2").unlink()
    (loggers / "2").mkdir()
    note = trace.note(str(tmp_path))
    note.write_text("2 nf_log_syslog\n")
    assert not trace.put_back(note)
    assert note.exists()


def test_a_note_that_cannot_be_read(tmp_path: Path, loggers: Path) -> None:
    note = trace.note(str(tmp_path))
    note.mkdir()
    assert not trace.put_back(note)


def test_only_root_may_read_which_tables_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path) -> str:
        raise PermissionError

    assert not trace._has_legacy_tables(4) or Path("/proc/net/ip_tables_names").read_text()
    monkeypatch.setattr(Path, "read_text", closed)
    assert trace._has_legacy_tables(4)


def test_a_kernel_without_nf_tables_holds_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int) -> None:
        def flags(netlink: object, table: object) -> int | None:
            raise Unavailable("the kernel does not list its nf_tables") from OSError(number, "")

        monkeypatch.setattr(Netlink, "table_flags", flags)

    note = trace.note(str(tmp_path))
    refuse(errno.EOPNOTSUPP)
    assert not trace.sweep("W", note, has_nf_tables=True)
    refuse(errno.EPERM)
    with pytest.raises(Unavailable):
        trace.sweep("W", note, has_nf_tables=True)
