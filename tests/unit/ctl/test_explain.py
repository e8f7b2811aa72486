"""explain as an operator reads it."""

import json

import pytest

from tests.unit.ctl.test_ctl import Ctl, agent, ctl, on_terminal, served

__all__ = ["agent", "ctl", "served"]

ASKED = ("explain", "--proto", "tcp", "--src", "203.0.113.9:4000", "--dst", "198.51.100.1:22")


def test_a_packet_rule_by_rule(ctl: Ctl) -> None:
    assert ctl(*ASKED).code == 0
    assert ctl.out.splitlines() == [
        "tcp 203.0.113.9:4000 -> 198.51.100.1:22 (NEW) is routed",
        "  from eth0",
        "",
        "  IPv4 raw PREROUTING",
        "    PREROUTING 1: -m odd",
        "      # foreign; not counted",
        "",
        "  IPv4 filter FORWARD",
        "    a 2: -p tcp -j DROP",
        "      DROP # instance vm1: fallback; 123K packets so far",
        "",
        "  (1 jumps of the agent's that every packet takes are left out; --all)",
        "",
        "  translated to 203.0.113.9:4000 -> 10.1.0.2:22",
        "It is dropped: no security group of instance vm1 lets it in.",
        "  That is not certain:",
        "  if rule 1 of raw PREROUTING applied (-m odd), it passes",
        "Note: tap1 is down: nothing comes or goes that way.",
        "",
        "To let it through:",
        "  - security group group1: add it",
        "  Tried on a copy of the state: it passes then. With --format json the bodies are there for"
        " netagentctl set security-groups.",
    ]
    counted = "20 packets so far with the others of its set or map"
    assert f"FORWARD 1: -j a\n      # the agent; {counted}\n" in ctl(*ASKED, "--all").out


def test_what_is_uncertain_by_a_note_alone_announces_no_rules(ctl: Ctl) -> None:
    said = ctl(*ASKED, "--in-dev", "tap1").out.splitlines()
    where = said.index("  That is not certain.")
    assert said[where + 1] == "Note: tap1 is down: nothing comes or goes that way."


def test_json_is_the_apis_own(ctl: Ctl) -> None:
    found = json.loads(ctl("--format", "json", *ASKED).out)
    assert (found["verdict"], found["refused_by"]["owner"]["name"]) == ("DROP", "vm1")
    assert found["proposal"]["changes"][0]["body"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--in-dev", "nowhere"), "--in-dev: there is no link nowhere on this host"),
        (("--src", "x"), "--src: 'x' is not an address, nor ADDRESS:PORT (IPv6: [ADDRESS]:PORT)"),
        (("--src", "::1"), "--dst: 198.51.100.1 is not of the family of ::1"),
        (("--proto", "cats"), "--proto: "),
        (("--icmp-type", "8"), "--icmp-type: protocol tcp has none"),
        (("--mac", "x"), "--mac: "),
        (("--icmp-type", "1_0"), "argument --icmp-type: it is not a number from 0 to 255;"),
        (("--icmp-code", "9" * 5000), "argument --icmp-code: it is not a number from 0 to 255;"),
        (("--graph", ""), "argument --graph: it is empty;"),
    ],
)
def test_what_is_no_packet_is_wrong_usage_of_an_option(ctl: Ctl, given: tuple[str, ...], said: str) -> None:
    """CONTRACT, section 1: 2 is for bad arguments, in one line that says which."""
    assert ctl(*ASKED, *given).code == 2
    assert ctl.err.startswith(f"netagentctl: {said}")
    assert (ctl.out, ctl.err.count("\n")) == ("", 1)


@pytest.mark.parametrize("width", [60, 40])
def test_a_terminal_has_its_width_and_its_colours(ctl: Ctl, width: int) -> None:
    shown = on_terminal(ctl, *ASKED, COLUMNS=str(width))
    assert "\x1b[31mis dropped\x1b[0m" in shown
    assert all(len(line.replace("\x1b[31m", "").replace("\x1b[0m", "")) <= width for line in shown.splitlines())


def test_real_packets_as_they_were_traced(ctl: Ctl) -> None:
    way = "192.0.2.1:1 -> 198.51.100.1:22, translated to 192.0.2.1:1 -> 10.1.0.2:22, from eth0"
    said = ctl(*ASKED, "--trace", "7").out
    assert said[said.index("Packet 1:") :].splitlines() == [
        f"Packet 1: {way}, to br1: it passes.",
        "",
        "  IPv4 filter FORWARD",
        "    a 1: -p tcp -j ACCEPT",
        "      ACCEPT # the agent; 5 packets so far",
        "",
        f"Packet 2: {way}, to br1: it passes.",
        "  by the same rules",
        "Packet 3: 192.0.2.1:1 -> 198.51.100.1:22, from eth0: it is dropped.",
        "",
        "  IPv4 filter FORWARD",
        "    a 2: -p tcp -j DROP",
        "      DROP # foreign; 1 packets so far",
        "",
        "Packet 4: 192.0.2.1:1 -> 198.51.100.1:22, from eth0: it was not seen to leave, and no rule refused it.",
        "",
        "(3 more)",
        "Note: some rules are missing.",
    ]
    assert json.loads(ctl("--format", "json", *ASKED, "--trace", "7").out)["trace"]["more"] == 3
    assert json.loads(ctl("--format", "json", *ASKED).out)["trace"] is None


def test_a_trace_that_cannot_be(ctl: Ctl) -> None:
    assert ctl(*ASKED, "--trace", "61").said[0] == 2
    asked = [each if each != "tcp" else "udp" for each in ASKED]
    assert ctl(*asked, "--trace", "1").said == (1, "", "netagentctl: packets are being traced already\n")
