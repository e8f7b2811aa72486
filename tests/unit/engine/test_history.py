"""The ring of the last attempts."""

from nova_netagent.history import LENGTH, MOST_LINES, History


def test_it_keeps_the_last_ones_newest_first() -> None:
    history = History()
    for number in range(LENGTH + 5):
        history.done(float(number), "change", 1, 0.01, lambda number=number: [f"edit {number}"])  # type: ignore[misc]
    told = history.told()
    assert [each.plan[0] for each in told] == [f"edit {number}" for number in range(LENGTH + 4, 4, -1)]
    assert (told[-1].at, told[-1].result, told[-1].seconds) == ("1970-01-01T00:00:05.000Z", "done", 0.01)


def test_what_changed_nothing_is_not_told() -> None:
    history = History()
    history.done(1.0, "resync", 0, 0.01, list)
    assert history.told() == []


def test_one_failure_again_and_again_does_not_drive_out_the_others() -> None:
    history = History()
    history.done(1.0, "change", 1, 0.01, lambda: ["edit"])
    for at in range(2, 100):
        history.failed(float(at), "retry", "the lock was not free", 10.0)
    history.failed(100.0, "retry", "another reason", 1.0)
    assert [(each.result, each.message) for each in history.told()] == [
        ("failed", "another reason"),
        ("failed", "the lock was not free"),
        ("done", ""),
    ]


def test_long_plans_are_cut() -> None:
    history = History()
    history.done(1.0, "start", 20_000, 1.0, lambda: map(str, range(20_000)))
    assert (len(history.told()[0].plan), history.told()[0].edits) == (MOST_LINES, 20_000)
