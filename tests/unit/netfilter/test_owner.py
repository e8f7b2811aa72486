"""Whose chain is it: the grammar of our names, and the short ids in them."""

import hashlib
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nova_netagent.compile.skeleton import CHAINS
from nova_netagent.netfilter.owner import (
    FILTER_TOP,
    MAX_CHAIN_NAME,
    MAX_SET_NAME,
    POSTROUTING_BOTTOM,
    Owner,
    digest,
    short_ids,
    short_names,
)

OWNER = Owner("nova-netagent")
PLAIN = [
    "INPUT",
    "FORWARD",
    "OUTPUT",
    "PREROUTING",
    "POSTROUTING",
    "local",
    "ports",
    "established",
    "discovery",
    "provider",
    "sg-fallback",
    "senders",
    "no-server",
    "unspecified",
    "services",
    "egress-ok",
    "egress-done",
    "snat",
    "float-snat",
]
KINDS = ["inst", "vif", "net", "out", "src", "sgi", "sge", "to"]
NAMES = [*PLAIN, *(f"{kind}-0123abcd" for kind in KINDS)]


@pytest.mark.parametrize("name", NAMES)
def test_the_names_of_the_grammar_are_ours(name: str) -> None:
    assert OWNER.chain(name) == f"nova-netagent-{name}"
    assert OWNER.owns_chain(f"nova-netagent-{name}")
    assert len(Owner("x" * 14).chain(name)) <= MAX_CHAIN_NAME


@pytest.mark.parametrize("name", ["mangle-ports", "raw-to-0123abcd", "nat-OUTPUT"])
def test_an_older_agents_names_are_ours_in_a_table_that_is_ours_alone(name: str) -> None:
    assert OWNER.owns_in_own_table(f"nova-netagent-{name}")
    assert not OWNER.owns_chain(f"nova-netagent-{name}")
    assert not Owner("nova").owns_in_own_table(f"nova-netagent-{name}")


@pytest.mark.parametrize("name", ["theirs", "mangle-theirs", "filter-ports", "mangle-raw-ports", "mangle-portsx"])
def test_other_names_are_not_ours_there_either(name: str) -> None:
    assert not OWNER.owns_in_own_table(f"nova-netagent-{name}")


def test_every_chain_of_the_skeleton_is_of_the_grammar() -> None:
    assert {name for names in CHAINS.values() for name in names} <= set(PLAIN)


@pytest.mark.parametrize(
    "name",
    [
        "", "input", "INPUTx", "xINPUT", "INPUT\n", "INPUT ", "local-", "locals", "snat2", "inst", "inst-",
        "inst-1", "inst-10", "inst-0123abc", "inst-0123abcde", "inst-0123ABCD", "inst-0123abcg", "inst-01 3abcd",
        "inst-12345678x", "2-INPUT", "-INPUT", "foo-0123abcd", "nova-netagent-INPUT", "g4-01234567", "filter-top",
    ],
)  # fmt: skip
def test_what_is_not_of_the_grammar_is_nobodys_of_us(name: str) -> None:
    assert not OWNER.owns_chain(f"nova-netagent-{name}")
    with pytest.raises(ValueError, match="not a chain name of ours"):
        OWNER.chain(name)


@pytest.mark.parametrize(
    "name",
    [
        "INPUT", "nova-netagent", "nova-netagentINPUT", "nova-netagent_INPUT", "nova-netagent2-INPUT",
        "nova-netagent-2-INPUT", "nova-netagen-INPUT", "xnova-netagent-INPUT", "NOVA-NETAGENT-INPUT",
        "nova-netagent--INPUT", FILTER_TOP, POSTROUTING_BOTTOM, "nova-compute-inst-1", "neutron-linuxbri-INPUT",
        " nova-netagent-INPUT", "nova-netagent-INPUT -j DROP",
    ],
)  # fmt: skip
def test_what_merely_looks_alike_is_foreign(name: str) -> None:
    """Ownership is by whole name: never by prefix or substring."""
    assert not OWNER.owns_chain(name)


def test_one_instances_chain_is_not_the_start_of_anothers() -> None:
    """nova's inst-1 took inst-10 to inst-19 with it (Q1)."""
    assert OWNER.owns_chain("nova-netagent-inst-00000001")
    for other in ("nova-netagent-inst-1", "nova-netagent-inst-000000010", "nova-netagent-inst-0000001"):
        assert not OWNER.owns_chain(other)


WRAPS = ["nova", "nova-netagent", "nova-n", "w", "w-2", "w-inst", "w-to", "W", "a_b", "local"]


@pytest.mark.parametrize("wrap", WRAPS)
def test_agents_of_other_names_own_nothing_of_ours(wrap: str) -> None:
    """Whatever two wrap names are, no chain belongs to both; nor are the shared ones anybody's."""
    for other in WRAPS:
        if other != wrap:
            owned = [name for name in NAMES if Owner(other).owns_chain(Owner(wrap).chain(name))]
            assert owned == []
    assert not Owner(wrap).owns_chain(FILTER_TOP)
    assert not Owner(wrap).owns_chain(POSTROUTING_BOTTOM)


def test_a_wrap_name_is_no_pattern() -> None:
    assert not Owner("w.").owns_chain("wx-INPUT")


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("nova-netagent-g4-01234567", True),
        ("nova-netagent-g6-abcdef00", True),
        ("nova-netagent-g5-01234567", False),
        ("nova-netagent-g4-0123456", False),
        ("nova-netagent-g4-012345678", False),
        ("nova-netagent-g4-0123456G", False),
        ("nova-netagent-INPUT", False),
        ("nova-netagent2-g4-01234567", False),
        ("g4-01234567", False),
    ],
)
def test_which_sets_are_ours(name: str, ours: bool) -> None:
    assert OWNER.owns_set(name) is ours
    assert OWNER.owns_chain(name) is ("INPUT" in name)


def test_a_sets_name_must_be_of_the_grammar_and_fits_the_kernel() -> None:
    assert OWNER.set("g4-01234567") == "nova-netagent-g4-01234567"
    assert len(Owner("x" * 14).set("g6-01234567")) <= MAX_SET_NAME - 2  # room for what a swap would add
    for name in ("g5-01234567", "inst-01234567", "", "g4-01234567\n"):
        with pytest.raises(ValueError, match="not a set name of ours"):
            OWNER.set(name)


# --- short ids


def sha(text: str, rounds: int = 1) -> str:
    for _ in range(rounds):
        text = hashlib.sha1(text.encode()).hexdigest()
    return text[:8]


def test_a_short_id_is_the_first_eight_digits() -> None:
    assert short_ids(["01234567-aaaa", "89abcdef-aaaa"]) == {"01234567-aaaa": "01234567", "89abcdef-aaaa": "89abcdef"}
    assert short_ids([]) == {}


def test_of_those_that_share_them_each_has_the_sha1_of_its_whole_id() -> None:
    ids = ["01234567-a", "01234567-b", "89abcdef-c"]
    assert short_ids(ids) == {ids[0]: sha(ids[0]), ids[1]: sha(ids[1]), ids[2]: "89abcdef"}


def test_a_digest_that_is_anothers_first_digits_clashes_further() -> None:
    """Also the one whose own digits it is goes on to its digest."""
    ids = ["01234567-a", "01234567-b"]
    third = f"{sha(ids[0])}-c"
    assert short_ids([*ids, third]) == {ids[0]: sha(ids[0], 2), ids[1]: sha(ids[1]), third: sha(third)}


def test_two_digests_that_clash_are_digested_again() -> None:
    # Found by trying: the SHA-1 of these two begins alike.
    ids = _two_ids_whose_digests_begin_alike()
    found = short_ids(ids)
    assert sha(ids[0]) == sha(ids[1])
    assert found == {id_: sha(id_, 2) for id_ in ids}


def _two_ids_whose_digests_begin_alike() -> tuple[str, str]:
    seen: dict[str, str] = {}
    for number in range(1_000_000):
        id_ = f"00000000-{number}"
        other = seen.setdefault(sha(id_), id_)
        if other != id_:
            return other, id_
    raise AssertionError


@given(st.lists(st.text("01", min_size=9, max_size=12), unique=True, max_size=5))
def test_short_ids_do_not_depend_on_order_and_never_clash(ids: list[str]) -> None:
    found = short_ids(ids)
    assert len(set(found.values())) == len(ids)
    for order in permutations(ids):
        assert short_ids(order) == found
    assert short_ids([*ids, *ids]) == found


@given(st.lists(st.uuids(), unique=True, min_size=1, max_size=40))
def test_an_id_that_shares_its_digits_with_nobody_keeps_them(ids: list[object]) -> None:
    found = short_ids(map(str, ids))
    for id_, short in found.items():
        if sum(1 for other in found if other[:8] == id_[:8]) == 1:
            assert short == id_[:8]


def test_a_digest_is_sha1() -> None:
    assert digest("10.0.0.0/28")[:8] == sha("10.0.0.0/28")


@given(st.lists(st.text("01", min_size=9, max_size=12), unique=True))
def test_short_names_are_short_ids(ids: list[str]) -> None:
    names, found = short_names(ids), short_ids(ids)
    assert {id_: names[id_] for id_ in ids} == found
    assert len(names.exceptions) <= len(ids)
