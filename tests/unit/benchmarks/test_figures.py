"""How a figure is judged and reads."""

import pytest

from benchmarks.figures import TITLES, Figure, in_turn, markdown

ONE_MORE = Figure(1000, "private", "one instance more", 27.0, against="libiptc", other=20.0, runs=5, bar=1.35)
ALONE = Figure(10, "by 20", "rules in the kernel", 39690, unit="")


def test_a_ratio_is_ours_by_the_others() -> None:
    assert ONE_MORE.ratio == pytest.approx(1.35)


@pytest.mark.parametrize("other", [None, 0.0])
def test_beside_nothing_there_is_no_ratio_and_no_verdict(other: float | None) -> None:
    figure = Figure(10, "private", "of these lost", 0.0, other=other, bar=1)
    assert (figure.ratio, figure.met) == (None, "")


@pytest.mark.parametrize(
    ("ours", "bar", "verdict"),
    [(27.0, 1.35, "yes (1.35)"), (27.1, 1.35, "no (1.35)"), (6.0, 1 / 3, "yes (0.333)"), (1.0, None, "")],
)
def test_a_bar_is_met_by_a_ratio_that_does_not_exceed_it(ours: float, bar: float | None, verdict: str) -> None:
    assert Figure(10, "private", "row", ours, other=20.0, bar=bar).met == verdict


def test_the_same_beside_something_else_keeps_what_is_ours() -> None:
    assert ONE_MORE.beside("nova", 540.0, 3, 0.04) == Figure(
        1000, "private", "one instance more", 27.0, against="nova", other=540.0, runs=3, bar=0.04
    )
    assert ONE_MORE.beside("firewalld", 540.0, 3).bar is None


def test_a_row_of_a_table_says_units_and_only_digits_that_mean_something() -> None:
    assert ONE_MORE.cells() == (
        "1000", "private", "one instance more", "27.0 ms", "1.35", "20.0 ms", "libiptc", "yes (1.35)",
    )  # fmt: skip
    assert ALONE.cells() == ("10", "by 20", "rules in the kernel", "39690", "", "", "", "")
    assert Figure(10, "private", "row", 0.5, other=100.0).cells()[3:6] == ("0.50 ms", "0.0050", "100.0 ms")


def test_a_row_of_a_terminal_says_the_same() -> None:
    words, bare = (" ".join(each.line().split()) for each in (ONE_MORE, ALONE))
    assert words == "1000 private one instance more 27.00 1.35 20.00 libiptc yes (1.35)"
    assert bare == "10 by 20 rules in the kernel 39690.00"


def test_a_row_for_a_machine_has_the_ratio() -> None:
    assert ONE_MORE.plain() == {
        "size": 1000,
        "groups": "private",
        "row": "one instance more",
        "ours": 27.0,
        "unit": "ms",
        "against": "libiptc",
        "other": 20.0,
        "runs": 5,
        "bar": 1.35,
        "ratio": ONE_MORE.ratio,
    }


def test_a_table_has_a_title_and_as_many_cells_in_every_row() -> None:
    head, rule, *rows = markdown([ONE_MORE, ALONE]).splitlines()
    assert head == f"| {' | '.join(TITLES)} |"
    assert {each.count("|") for each in (head, rule, *rows)} == {len(TITLES) + 1}
    assert len(rows) == 2


def test_what_is_done_in_turn_is_done_in_turn() -> None:
    done: list[str] = []
    in_turn([lambda: done.append("ours")] * 2, [lambda: done.append("theirs")] * 2)
    assert done == ["ours", "theirs"] * 2
