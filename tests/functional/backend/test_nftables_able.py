"""What the kernel can do is found out by trial, and what it cannot is not asked of it."""

from collections.abc import Callable, Iterator

import pytest

from nova_netagent.backend import RuleRefused, TableChanged, Unavailable
from nova_netagent.backend.nft import Batch, Netlink, objects
from nova_netagent.backend.nftables import NftablesBackend
from nova_netagent.netfilter.rule import DROP, Chain, Rule, Table, TableId
from nova_netagent.plan.tables import AddChain, Insert, TablePlan
from tests.functional.backend import nft
from tests.lab import isolation

FILTER = TableId(4, "filter")


@pytest.fixture
def backend() -> Iterator[NftablesBackend]:
    isolation.require()
    netlink = Netlink()
    nft.empty(netlink)
    made = nft.new_backend()
    yield made
    made.close()
    nft.empty(netlink)
    netlink.close()


def test_every_table_is_had_here_and_the_question_leaves_nothing(backend: NftablesBackend) -> None:
    netlink = Netlink()
    before = netlink.generation(), netlink.tables()
    assert [str(table) for table in backend.tables()] == [
        f"IPv{family} {name}" for family in (4, 6) for name in ("filter", "nat", "mangle", "raw")
    ]
    assert (netlink.generation(), netlink.tables()) == before
    assert backend.loaded_tables() == []
    netlink.close()


def refusing(what: str) -> Callable[[Netlink, Batch], None]:
    """A kernel that refuses whatever has this in it."""

    def check(self: Netlink, batch: Batch) -> None:
        if what.encode() in b"".join(batch.encode(generation=None, commit=False)):
            raise RuleRefused(f"no {what}")

    return check


@pytest.mark.parametrize(("what", "left"), [("physdev", {"nat"}), ("nat", {"filter", "mangle", "raw"})])
def test_what_a_kernel_refuses_is_no_table_of_ours(
    backend: NftablesBackend, monkeypatch: pytest.MonkeyPatch, what: str, left: set[str]
) -> None:
    monkeypatch.setattr(Netlink, "check", refusing(what))
    assert {table.name for table in backend.tables((4,))} == left


def test_a_kernel_that_does_not_answer_is_told(backend: NftablesBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise OSError(93, "Protocol not supported")

    monkeypatch.setattr("nova_netagent.backend.nft.netlink.socket.socket", gone)
    with pytest.raises(Unavailable, match="Protocol not supported"):
        backend.tables()


# --- a transaction


def table(**chains: tuple[Rule, ...]) -> Table:
    return Table(FILTER, {f"ours-{name}": Chain(f"ours-{name}", rules) for name, rules in chains.items()}, ())


def edit(backend: NftablesBackend, *edits: AddChain | Insert[bytes]) -> None:
    backend.read(FILTER, fresh=False)
    backend.apply(TablePlan(FILTER, edits))


def test_what_is_edited_together_is_committed_together_or_not_at_all(backend: NftablesBackend) -> None:
    netlink = Netlink()
    with backend.transaction():
        edit(backend, AddChain("ours-a"))
        edit(backend, AddChain("ours-b"))
        assert netlink.chains(nft.table(4)) == []
    assert [each.name for each in netlink.chains(nft.table(4))] == ["ours-a", "ours-b"]
    generation = netlink.generation()
    (key,) = backend.encode(table(probe=(Rule(DROP),))).chains["ours-probe"]

    def half_of_it_cannot_be() -> None:
        with backend.transaction():
            edit(backend, AddChain("ours-c"))
            edit(backend, Insert("ours-none", 0, key))

    with pytest.raises(RuleRefused):
        half_of_it_cannot_be()
    assert netlink.generation() == generation
    netlink.close()


def test_others_at_work_in_their_own_tables_do_not_disturb_a_transaction(backend: NftablesBackend) -> None:
    other = Netlink()
    with backend.transaction():
        edit(backend, AddChain("ours-a"))
        batch = Batch()
        batch.add_table(objects.TableId(objects.Family.IP, "theirs"))
        other.commit(batch)
    assert [each.name for each in other.chains(nft.table(4))] == ["ours-a"]
    assert not backend.meddled()
    batch = Batch()
    batch.delete_table(objects.TableId(objects.Family.IP, "theirs"))
    other.commit(batch)
    other.close()


def test_others_at_work_in_ours_do(backend: NftablesBackend) -> None:
    edit(backend, AddChain("ours-a"))
    other = Netlink()

    def meddled_with_meanwhile() -> None:
        with backend.transaction():
            edit(backend, AddChain("ours-b"))
            nft.put(other, FILTER, "ours-a", [Rule(DROP)])

    with pytest.raises(TableChanged):
        meddled_with_meanwhile()
    assert [each.name for each in other.chains(nft.table(4))] == ["ours-a"]
    assert len(backend.read(FILTER, fresh=False)["ours-a"]) == 1
    other.close()


def test_what_goes_unheard_is_read(backend: NftablesBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(backend, AddChain("ours-a"))
    other = Netlink()
    monkeypatch.setattr("nova_netagent.backend.nft.watch.Watch.changes", lambda *_: None)
    nft.put(other, FILTER, "ours-a", [Rule(DROP)])
    assert len(backend.read(FILTER, fresh=False)["ours-a"]) == 1
    assert backend.meddled()
    assert not backend.meddled()
    other.close()
