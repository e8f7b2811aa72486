"""Which packet filter a host lives in, by what is in each."""

import pytest

from nova_netagent import wiring
from nova_netagent.backend import Unavailable, worlds
from nova_netagent.backend.worlds import Undecided, World, choose, warnings
from nova_netagent.netfilter.owner import Owner
from nova_netagent.settings import FirewallSettings, Settings

NONE, LOADED = World(), World(loaded=True)
RULES, MORE, OURS = World(True, 2), World(True, 3), World(True, 0, ours=True)


@pytest.mark.parametrize(
    ("iptables", "nftables", "chosen"),
    [
        (RULES, LOADED, "iptables"),
        (LOADED, RULES, "nftables"),
        (NONE, RULES, "nftables"),
        (MORE, RULES, "iptables"),
        (RULES, MORE, "nftables"),
        (World(True, 1, ours=True), RULES, "nftables"),
        (OURS, LOADED, "iptables"),
        (LOADED, OURS, "nftables"),
        (NONE, OURS, "nftables"),
        (OURS, OURS, "iptables"),
        (LOADED, LOADED, "iptables"),
        (LOADED, NONE, "iptables"),
        (NONE, LOADED, "nftables"),
        (NONE, NONE, "nftables"),
    ],
)
def test_it_follows_the_rules_of_others_then_ours_then_what_is_loaded(
    iptables: World, nftables: World, chosen: str
) -> None:
    name, why = choose(iptables, nftables)
    assert name == chosen
    assert why


def test_it_does_not_guess() -> None:
    with pytest.raises(Undecided, match=r"\[firewall\] backend = auto: 2 rules of others .* say iptables or nftables"):
        choose(RULES, RULES)


def test_it_warns_of_what_drops_in_the_other_one() -> None:
    assert list(warnings("iptables", LOADED)) == []
    assert list(warnings("nftables", OURS)) == []
    assert list(warnings("iptables", RULES)) == [
        "rules of others are in nf_tables: what they drop is dropped, whatever our rules say"
    ]
    closed = World(True, 2, closed=("IPv4 filter FORWARD",))
    (warning,) = warnings("nftables", closed)
    assert warning.startswith("IPv4 filter FORWARD of the legacy tables drops what it does not allow")


def test_it_warns_of_what_drops_beside_our_own_tables() -> None:
    (warning,) = warnings("nftables", LOADED, ["inet filter forward"])
    assert warning.startswith("inet filter forward of nf_tables drops what it does not allow")


def test_what_cannot_be_seen_is_not_guessed_and_does_not_matter_when_it_is_configured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def denied(owner: Owner) -> World:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(worlds, "look_at_iptables", denied)
    with pytest.raises(Undecided, match="cannot see what this host has"):
        wiring._choose_backend(Settings())
    chosen, _ = wiring._choose_backend(Settings(firewall=FirewallSettings(backend="nftables")))
    assert chosen == "nftables"
    with pytest.raises(Unavailable, match=r"cannot see whether rules of others are in the way: .*not permitted"):
        wiring._in_the_way("nftables", Owner("ours"), tuple)


def test_a_table_that_changes_while_it_is_read_is_read_again() -> None:
    sizes, asked = iter(range(1000, 1100)), []

    def ask(option: int, answer: bytearray) -> None:
        asked.append(option)
        if option == worlds._GET_INFO:
            answer[:] = worlds._INFO.pack(b"filter", 14, *range(5), *range(5), 1, next(sizes))
        elif len(asked) < often:
            raise BlockingIOError(11, "Resource temporarily unavailable")

    often = 8
    hooks, begins, ends, entries = worlds._read_legacy(ask, b"filter")
    assert (hooks, begins, ends, len(entries)) == (14, [*range(5)], [*range(5)], 1003)
    often = 1000
    with pytest.raises(BlockingIOError):
        worlds._read_legacy(ask, b"filter")


@pytest.mark.parametrize("name", ["iptables", "nftables"])
def test_what_cannot_be_seen_may_be_left_of_ours(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def denied(owner: Owner) -> bool:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(worlds, f"ours_in_{name}", denied)
    with (
        pytest.raises(Unavailable, match=f"cannot see whether rules of ours are left in {name}: .*not permitted"),
        wiring._open_leftovers(name, FirewallSettings(), 0.0),
    ):
        pass
