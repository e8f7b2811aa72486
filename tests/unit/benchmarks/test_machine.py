"""The line about the machine."""

from typing import Any

import pytest

from benchmarks import machine

HERE: dict[str, Any] = {
    "date": "2026-01-02",
    "cpu": "A Processor",
    "cpus": 2,
    "memory_mib": 8192,
    "kernel": "6.1.0",
    "python": "3.11.2",
    "iptables": "iptables v1.8.9 (legacy)",
    "nft": "nftables v1.0.6",
    "ipset": "ipset v7.17",
    "nova_netagent": "1.0-3-gabcdef0",
    "peers": ["nova 18.3.0", "firewalld 1.3.3-1"],
    "load": 0.4,
}


def test_it_names_everything() -> None:
    assert machine.line(HERE) == (
        "2026-01-02, 2 CPUs (A Processor), 8192 MiB, Linux 6.1.0, Python 3.11.2, iptables v1.8.9 (legacy),"
        " nftables v1.0.6, ipset v7.17; nova-netagent 1.0-3-gabcdef0, beside nova 18.3.0, firewalld 1.3.3-1."
        " Wall time unless a row says CPU, medians; load 0.4 at the end."
    )


def test_what_is_not_there_is_not_named() -> None:
    line = machine.line({**HERE, "nft": "", "peers": []})
    assert "iptables v1.8.9 (legacy), ipset v7.17; nova-netagent 1.0-3-gabcdef0. Wall" in line


def test_a_program_that_is_missing_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    here = machine.look([])
    assert (here["iptables"], here["nft"], here["ipset"]) == ("", "", "")
    assert here["nova_netagent"]


def test_a_value_is_found_by_its_whole_name() -> None:
    text = "processor\t: 0\nmodel\t\t: 1\nmodel name\t: A Processor: 2 GHz\nmodel name\t: Another\n"
    assert machine.value_of("model name", text) == "A Processor: 2 GHz"
    assert machine.value_of("bogomips", text) == ""
