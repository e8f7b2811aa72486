"""What this agent committed is no stranger's change, unless it was of the very table."""

from nova_netagent.backend.nft.commits import Commits, following
from nova_netagent.backend.nft.objects import Family, TableId

RULES, FRAMES = TableId(Family.IP, "ours"), TableId(Family.BRIDGE, "ours")


def test_our_own_transactions_leave_other_tables_alone() -> None:
    commits = Commits()
    commits.note(7, [RULES])
    commits.note(8, [RULES])
    assert commits.spared(FRAMES, 7, 9)
    assert commits.spared(FRAMES, 9, 9)
    assert not commits.spared(RULES, 7, 9)
    assert commits.spared(RULES, 9, 9)


def test_what_others_committed_spares_nothing() -> None:
    commits = Commits()
    commits.note(7, [RULES])
    commits.note(9, [RULES])  # 8 is a stranger's
    assert not commits.spared(FRAMES, 7, 10)
    assert commits.spared(FRAMES, 9, 10)
    assert not commits.spared(FRAMES, 10, 11)


def test_generations_begin_anew_at_one() -> None:
    commits = Commits()
    commits.note(0xFFFFFFFF, [RULES])
    assert following(0xFFFFFFFF) == 1
    assert commits.spared(FRAMES, 0xFFFFFFFF, 1)


def test_what_is_long_ago_is_not_known() -> None:
    commits = Commits()
    for generation in range(1, 200):
        commits.note(generation, [RULES])
    assert not commits.spared(FRAMES, 1, 200)
    assert commits.spared(FRAMES, 150, 200)
    assert len(commits._edited) < 100
