"""Rows of one scene, and those of another packet filter beside them."""

from benchmarks.figures import Figure
from benchmarks.rows import Rows
from benchmarks.scene import Scene


def test_a_row_is_of_its_scene_and_noted() -> None:
    noted: list[Figure] = []
    Rows(Scene(100, 20), 5, noted.append).add("row", 1.0, "other", 2.0, unit="s", bar=0.5)
    assert noted == [Figure(100, "by 20", "row", 1.0, "s", "other", 2.0, 5, 0.5)]


def test_the_last_one_is_found_by_its_name() -> None:
    rows = Rows(Scene(100), 5, lambda _: None, "nftables")
    rows.add("row", 1.0)
    rows.add("row", 2.0, runs=3)
    assert rows.find("row") == Figure(100, "private", "nftables: row", 2.0, runs=3)
    assert rows.find("another") is None


def test_what_has_nothing_beside_it_is_beside_the_same_of_the_first_packet_filter() -> None:
    first = Rows(Scene(100), 5, lambda _: None)
    first.add("both", 4.0, "a peer", 8.0)
    second = Rows(Scene(100), 5, lambda _: None, "nftables", first)
    second.add("both", 1.0, bar=0.1)
    second.add("alone", 1.0)
    both, alone = second.find("both"), second.find("alone")
    assert both is not None
    assert (both.against, both.other, both.bar) == ("the iptables backend", 4.0, 0.1)
    assert alone is not None
    assert (alone.against, alone.other) == ("", None)
    second.add("both", 1.0, "a floor", 0.5)
    assert second.find("both") == Figure(100, "private", "nftables: both", 1.0, "ms", "a floor", 0.5, 5)
