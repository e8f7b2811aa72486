"""What the agent may do, and what it says when that is too little."""

import logging
from pathlib import Path

import pytest

from nova_netagent import capabilities

ALL = 1 << 10 | 1 << 12 | 1 << 13


@pytest.fixture
def status(tmp_path: Path) -> Path:
    return tmp_path / "status"


def _may(status: Path, mask: int) -> Path:
    status.write_text(f"Name:\tagent\nCapPrm:\t{0:016x}\nCapEff:\t{mask:016x}\nCapBnd:\t{0:016x}\n")
    return status


def test_with_all_of_them_nothing_is_said(status: Path, caplog: pytest.LogCaptureFixture) -> None:
    capabilities.require(_may(status, ALL))
    assert caplog.records == []


@pytest.mark.parametrize(("bit", "name"), [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW")])
def test_without_one_that_is_required_it_is_named(status: Path, bit: int, name: str) -> None:
    with pytest.raises(capabilities.Missing, match=f"^{name} is missing: it is needed to [^;]*$"):
        capabilities.require(_may(status, ALL & ~(1 << bit)))


def test_without_any_all_are_named(status: Path) -> None:
    with pytest.raises(capabilities.Missing, match=r"CAP_NET_ADMIN .*; CAP_NET_RAW "):
        capabilities.require(_may(status, 0))


def test_without_one_that_is_wanted_it_is_told(status: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        capabilities.require(_may(status, ALL & ~(1 << 10)))
    assert "CAP_NET_BIND_SERVICE is missing: it is needed to serve DHCP" in caplog.text


def test_this_process_is_read() -> None:
    assert capabilities.effective() >= 0
