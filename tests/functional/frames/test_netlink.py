"""nf_tables through netlink: large transactions, listings that are disturbed, refusals that say what."""

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest

from nova_netagent.backend import RuleRefused, TableChanged, Unavailable
from nova_netagent.backend.nft import Batch, Netlink
from nova_netagent.backend.nft.expressions import Verdict
from nova_netagent.backend.nft.objects import (
    ETHER_ADDRESS,
    INTERFACE_NAME,
    IPV4_ADDRESS,
    BaseHook,
    Chain,
    Element,
    Family,
    Set,
    SetFlag,
    TableId,
    interface_name,
    key,
)
from nova_netagent.backend.nft.statements import goes, rule
from tests.functional.agent.kernel import eventually
from tests.lab import Namespace, needs

pytestmark = needs("nftables")

T = TableId(Family.BRIDGE, "test")
HOSTS = Set("hosts", (INTERFACE_NAME, IPV4_ADDRESS))
RANGES = Set("ranges", (IPV4_ADDRESS, IPV4_ADDRESS), interval=True)
MACS = Set("macs", (INTERFACE_NAME,), ETHER_ADDRESS)


def host(number: int, comment: str | None = None) -> Element:
    return Element(key((interface_name(f"tap{number}"), number.to_bytes(4, "big"))), comment=comment)


def table_with(*sets: Set) -> Batch:
    batch = Batch()
    batch.add_table(T)
    for each in sets:
        batch.add_set(T, each)
    return batch


@pytest.fixture
def namespace(new_namespace: Callable[[str], Namespace]) -> Namespace:
    return new_namespace("netlink")


@pytest.fixture
def kernel(namespace: Namespace) -> Iterator[Netlink]:
    opened = namespace.call(Netlink)
    yield opened
    opened.close()


def test_a_transaction_may_be_large(kernel: Netlink) -> None:
    many = [host(number, f"the number {number}") for number in range(20_000)]
    batch = table_with(HOSTS)
    batch.add_elements(T, HOSTS, many)
    assert sum(len(each) for each in batch.encode(generation=None, commit=True)) > 1 << 20
    kernel.commit(batch)
    wanted = sorted(many, key=lambda each: each.key)
    # A listing may miss an element while the kernel still makes its hash table larger, behind the commit.
    eventually(lambda: sorted(kernel.elements(T, "hosts"), key=lambda each: each.key) == wanted, 5)
    batch = Batch()
    batch.delete_elements(T, HOSTS, many)
    kernel.commit(batch)
    assert kernel.elements(T, "hosts") == []


@pytest.mark.parametrize("count", [*range(130), 511, 512, 513])
def test_a_listing_ends_wherever_its_end_stands(kernel: Netlink, count: int) -> None:
    """At the tail of the last data, or in a message of its own."""
    batch = table_with(HOSTS)
    batch.add_elements(T, HOSTS, [host(number, "x" * (number % 100)) for number in range(count)])
    kernel.commit(batch)
    for _ in range(2):
        assert len(kernel.elements(T, "hosts")) == count
    assert kernel.generation() == 2


def test_a_listing_that_is_disturbed_is_begun_anew(kernel: Netlink, namespace: Namespace) -> None:
    """The number of elements is always even: half of a change is never seen."""
    batch = table_with(HOSTS)
    batch.add_elements(T, HOSTS, [host(number) for number in range(2000)])
    kernel.commit(batch)
    stop = threading.Event()

    def disturb() -> None:
        other = Netlink()
        pair = [host(5000), host(6000)]
        while not stop.is_set():
            for change in (Batch.add_elements, Batch.delete_elements):
                batch = Batch()
                change(batch, T, HOSTS, pair)
                other.commit(batch)
                stop.wait(0.004)
        other.close()

    done = namespace.submit(disturb)
    seen = set()
    try:
        for _ in range(150):
            with contextlib.suppress(TableChanged):  # a busy machine reads slower than it is disturbed
                seen.add(len(kernel.steadily(lambda: kernel.elements(T, "hosts"))[1]))
    finally:
        stop.set()
        done.result()
    assert seen
    assert seen <= {2000, 2002}


def test_a_listing_that_never_has_peace_is_given_up(kernel: Netlink, monkeypatch: pytest.MonkeyPatch) -> None:
    from nova_netagent.backend.nft import netlink

    def disturbed(*_: object) -> Iterator[dict[int, bytes]]:
        raise netlink.Disturbed
        yield {}

    monkeypatch.setattr(kernel, "_ask", disturbed)
    with pytest.raises(TableChanged):
        kernel.elements(T, "hosts")


def test_a_reading_that_never_has_peace_is_given_up(kernel: Netlink) -> None:
    def read() -> None:
        batch = Batch()
        batch.add_table(TableId(Family.IP, "foreign"))
        batch.delete_table(TableId(Family.IP, "foreign"))
        kernel.commit(batch)

    with pytest.raises(TableChanged):
        kernel.steadily(read)


def test_a_transaction_on_an_older_ruleset_is_refused(kernel: Netlink) -> None:
    generation = kernel.generation()
    kernel.commit(table_with(HOSTS), generation=generation)
    assert kernel.generation() == generation + 1
    batch = Batch()
    batch.add_elements(T, HOSTS, [host(1)])
    with pytest.raises(TableChanged):
        kernel.commit(batch, generation=generation)
    assert kernel.elements(T, "hosts") == []
    kernel.commit(batch, generation=generation + 1)
    assert kernel.elements(T, "hosts") == [host(1)]


def test_a_trial_leaves_nothing(kernel: Netlink) -> None:
    generation = kernel.generation()
    kernel.check(table_with(HOSTS, RANGES, MACS))
    assert kernel.generation() == generation
    assert kernel.table_flags(T) is None


def test_one_refusal_leaves_nothing(kernel: Netlink) -> None:
    batch = table_with(HOSTS)
    batch.add_rule(T, "nowhere", rule(goes(Verdict.DROP)))
    with pytest.raises(TableChanged, match=r"rule nowhere: drop: No such file"):
        kernel.commit(batch)
    assert kernel.table_flags(T) is None


def test_a_refusal_names_the_element(kernel: Netlink) -> None:
    kernel.commit(table_with(HOSTS, RANGES))
    batch = Batch()
    bad = Element(key((interface_name("bad"), bytes(4)))[:-1])
    batch.add_elements(T, HOSTS, [host(1), host(2), bad, host(3)])
    with pytest.raises(RuleRefused, match=r"add to set hosts: bad \. .*Invalid argument"):
        kernel.commit(batch)
    batch = Batch()
    low, high = (key((bytes(4), bytes(each))) for each in ((10, 0, 0, 0), (10, 0, 0, 9)))
    inside = key((bytes(4), bytes((10, 0, 0, 5))))
    batch.add_elements(T, RANGES, [Element(low, high), Element(inside, inside)])
    with pytest.raises(RuleRefused, match=r"add to set ranges: 0\.0\.0\.0 \. 10\.0\.0\.5: File exists"):
        kernel.commit(batch, generation=kernel.generation())
    assert kernel.elements(T, "hosts") == kernel.elements(T, "ranges") == []


def test_what_is_gone_meanwhile_is_told_from_what_never_fits(kernel: Netlink) -> None:
    kernel.commit(table_with(HOSTS))
    batch = Batch()
    batch.delete_elements(T, HOSTS, [host(1)])
    with pytest.raises(TableChanged, match=r"delete from set hosts: tap1 \. 0\.0\.0\.1: No such file"):
        kernel.commit(batch)
    with pytest.raises(RuleRefused):
        kernel.commit(batch, generation=kernel.generation())


def test_what_is_in_use_cannot_go_yet(kernel: Netlink) -> None:
    batch = table_with()
    batch.add_chain(T, Chain("one"))
    batch.add_chain(T, Chain("two"))
    batch.add_rule(T, "one", rule(goes(Verdict.JUMP, "two")))
    kernel.commit(batch)
    batch = Batch()
    batch.delete_chain(T, "two")
    with pytest.raises(TableChanged, match="delete chain two: Device or resource busy"):
        kernel.commit(batch)


def test_what_is_listed_is_what_was_made(kernel: Netlink) -> None:
    batch = table_with(HOSTS, RANGES, MACS)
    batch.add_chain(T, Chain("base", BaseHook(4, -350), comment="a comment"))
    batch.add_chain(T, Chain("other"))
    kernel.commit(batch)
    assert [(each.name, each.flags, each.key_size, each.data_size, each.fields) for each in kernel.sets(T)] == [
        ("hosts", SetFlag(0), 20, 0, ()),
        ("ranges", SetFlag.INTERVAL | SetFlag.CONCATENATED, 8, 0, (4, 4)),
        ("macs", SetFlag.MAP, 16, 6, ()),
    ]
    base, other = kernel.chains(T)
    assert (base.name, base.hook, base.priority, base.type, base.policy) == ("base", 4, -350, "filter", 1)
    assert (other.name, other.hook) == ("other", None)
    assert kernel.rules(T) == []


def test_a_table_that_is_not_there_lists_nothing(kernel: Netlink) -> None:
    assert not any((kernel.chains(T), kernel.rules(T), kernel.sets(T), kernel.elements(T, "hosts")))


def test_without_permission_it_is_unavailable(namespace: Namespace) -> None:
    with pytest.raises(Unavailable, match="not permitted"):
        namespace.call(_commit_without_permission)


def _commit_without_permission() -> None:
    import ctypes

    opened = Netlink()
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # this thread alone, which ends with the test
    capset = 126
    if libc.syscall(capset, header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")
    opened.commit(table_with(HOSTS))
