"""What of a group becomes another rule."""

import pytest

from benchmarks.scene import RULES, Scene


@pytest.mark.parametrize(("shifted", "changed"), [(RULES, RULES), (1, 1)])
def test_as_many_rules_change_as_are_asked_for(shifted: int, changed: int) -> None:
    before, after = Scene(10).group(1), Scene(10).group(1, shift=3, shifted=shifted)
    assert len(before.rules) == len(after.rules) == RULES
    assert len(set(after.rules) - set(before.rules)) == changed
