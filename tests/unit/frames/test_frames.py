"""Boxes, prefixes, elements and the plan, as values."""

import itertools
from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st

from nova_netagent.backend.frames import layout
from nova_netagent.backend.frames.plan import Image, image_of, plan_frames
from nova_netagent.backend.nft.objects import COMMENT_LIMIT, element_text
from nova_netagent.netfilter.frames import (
    Box,
    Frames,
    Gateway,
    Redirected,
    Secured,
    boxes,
    without_contained,
)
from tests.unit.frames.contract import EVERYTHING, vif, vifs

# Few bits, so that prefixes meet: 10.0.0.0/28 and what is around it.
prefixes = st.builds(
    lambda host, length: str(ip_network((0x0A000000 + host, length), strict=False)),
    st.integers(0, 31),
    st.sampled_from([0, 8, 27, 28, 29, 30, 31, 32]),
)
origins = st.none() | st.sampled_from([("floating_ips", "a", ""), ("floating_ips", "b", "")])
redirections = st.builds(Redirected, prefixes, prefixes, st.booleans(), origins)
INTERESTING = [0, 0x09FFFFFF, *range(0x0A000000, 0x0A000021), 0x0B000000, 0xFFFFFFFF]


def within(box: Box, source: int, destination: int) -> bool:
    return box.source[0] <= source <= box.source[1] and box.destination[0] <= destination <= box.destination[1]


def wanted(each: Redirected, source: int, destination: int) -> bool:
    def holds(prefix: str, address: int) -> bool:
        network = ip_network(prefix)
        return int(network.network_address) <= address <= int(network.broadcast_address)

    return holds(each.source, source) and holds(each.destination, destination) != each.inverted


@given(st.lists(redirections, max_size=6))
def test_boxes_are_the_same_packets_each_once(redirected: list[Redirected]) -> None:
    found = boxes(redirected)
    for source, destination in itertools.product(INTERESTING, INTERESTING):
        times = sum(within(box, source, destination) for box in found)
        assert times == any(wanted(each, source, destination) for each in redirected)


@given(st.lists(redirections, max_size=6))
def test_boxes_do_not_depend_on_order(redirected: list[Redirected]) -> None:
    assert boxes(redirected) == boxes(reversed(redirected))


@given(st.lists(prefixes, max_size=8))
def test_prefixes_without_contained_ones_are_disjoint_and_cover_the_same(given_: list[str]) -> None:
    kept = [ip_network(each) for each in without_contained(given_)]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(kept, 2))
    assert all(any(ip_network(each).subnet_of(cover) for cover in kept) for each in given_)  # type: ignore[arg-type]
    assert {str(each) for each in kept} <= set(given_)


def test_one_floating_ip_more_leaves_the_boxes_of_others() -> None:
    one, other = (Redirected(f"10.1.0.{last}/32", "10.1.0.0/24", inverted=True) for last in (2, 3))
    assert set(boxes([one])) < set(boxes([one, other]))


def test_the_macs_of_a_vif_are_its_own_and_its_pairs() -> None:
    mac, other = "fa:16:3e:00:00:01", "00:00:5e:00:01:01"
    vif_ = Secured("tap1", mac, (("10.1.0.2/32", mac), ("10.1.0.9/32", other), ("10.2.0.0/24", other)))
    assert vif_.macs == (mac, other)
    assert Secured("tap1", mac).macs == (mac,)


def test_a_comment_fits_and_can_be_quoted() -> None:
    odd = Secured("tap1", "fa:16:3e:00:00:01", origin=("instances", '"ä"' * 100, ""))
    comment = layout.elements(Frames(secured=(odd,)))["ports"]
    (element,) = comment.values()
    assert element.comment is not None
    assert len(element.comment.encode()) < COMMENT_LIMIT
    assert '"' not in element.comment
    assert element.comment.isascii()


def test_a_port_of_which_two_things_are_said_is_one_element() -> None:
    frames = Frames(secured=(vif(1),), gateways=(Gateway("tap1", "02:00:00:00:00:01"),))
    assert len(layout.elements(frames)["ports"]) == 1


def test_every_rule_refers_to_what_is_there() -> None:
    expressions = [each for rules in layout.RULES.values() for rule in rules for each in rule.expressions]
    assert {each.looked_into for each in expressions} - {None} == set(layout.SETS)
    assert {each.jumped_to for each in expressions} - {None} == {
        name for name, chain in layout.CHAINS.items() if chain.hook is None
    }


def test_a_plan_of_nothing_is_false_and_says_nothing() -> None:
    elements = layout.elements(EVERYTHING)
    plan = plan_frames(image_of(elements), layout.elements(EVERYTHING))
    assert not plan
    assert list(plan.lines()) == []


def test_a_plan_from_nothing_makes_everything() -> None:
    plan = plan_frames(Image(), layout.elements(vifs(1)))
    assert plan.make_table
    assert plan.add_chains == plan.fill == tuple(layout.CHAINS)
    assert plan.add_sets == tuple(layout.SETS)
    assert next(plan.lines()) == "+ table"


def test_an_element_whose_comment_differs_is_exchanged() -> None:
    actual = image_of(layout.elements(Frames(secured=(Secured("tap1", "fa:16:3e:00:00:01"),))))
    desired = Frames(secured=(Secured("tap1", "fa:16:3e:00:00:01", origin=("instances", "a1", "")),))
    plan = plan_frames(actual, layout.elements(desired))
    assert list(plan.lines()) == ["- ports tap1", "+ ports tap1 (instances a1)"]


def test_elements_read_as_nft_prints_them() -> None:
    elements = layout.elements(EVERYTHING)
    texts = [element_text(layout.SETS[name], each) for name in elements for each in elements[name].values()]
    assert "tap2 . fa:16:3e:00:00:02 . 10.9.0.0-10.9.0.255" in texts
    assert "tap2 . fd00:9::-fd00:9::ffff:ffff:ffff:ffff" in texts
    assert "eth1 : 02:00:00:00:00:fe" in texts
