"""What is laid out from last time is what is laid out anew."""

from hypothesis import example, given
from hypothesis import strategies as st

from nova_netagent.backend.frames import layout
from nova_netagent.backend.frames.layout import Elements
from nova_netagent.backend.frames.plan import image_of, plan_frames
from nova_netagent.backend.nft.objects import interface_name, key
from nova_netagent.netfilter.frames import Closed, Frames, Gateway, Isolated, Secured
from nova_netagent.plan.frames import narrowed

DEVICES = ("tap1", "tap2", "tap3")
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
ADDRESSES = ("192.0.2.1/32", "192.0.2.0/24", "2001:db8::1/128", "2001:db8::/64")


@st.composite
def frames(draw: st.DrawFn) -> Frames:
    secured, closed = [], []
    for device in DEVICES:
        kind = draw(st.sampled_from(("secured", "secured", "closed", "absent")))
        if kind == "secured":
            mac = draw(st.sampled_from(MACS))
            claims = draw(st.sets(st.tuples(st.sampled_from(ADDRESSES), st.sampled_from(MACS))))
            origin = ("instances", draw(st.sampled_from("ab")), "")
            secured.append(Secured(device, mac, tuple(sorted(claims)), origin))
        elif kind == "closed":
            closed.append(Closed(device))
    return Frames(
        secured=tuple(secured),
        closed=tuple(closed),
        isolated=tuple(Isolated("eth0", "192.0.2.9") for _ in range(draw(st.integers(0, 1)))),
        gateways=tuple(Gateway("tap1", MACS[0]) for _ in range(draw(st.integers(0, 1)))),
        hairpins=tuple(sorted(draw(st.sets(st.sampled_from(DEVICES))))),
        unjudged=draw(st.sampled_from(((), (6,)))),
    )


@given(st.lists(frames(), min_size=1, max_size=5))
def test_from_frames_to_frames(steps: list[Frames]) -> None:
    laid = None
    for each in steps:
        before, laid = laid, layout.lay_out(each, laid)
        anew = layout.elements(each)
        assert laid.elements == anew
        if before is not None:
            assert plan_frames(image_of(before.elements), laid.elements) == plan_frames(
                image_of(layout.elements(before.frames)), anew
            )


def ranges(elements: Elements, kind: str) -> list[tuple[bytes, bytes]]:
    """As whom may be spoken, from first to last: a port with an address, in ARP also a MAC."""
    found = (each for name in ("hosts", "prefixes") for each in elements[f"{kind}-{name}"].values())
    return [(each.key, each.end or each.key) for each in found]


A_PREFIX = Frames(secured=(Secured("tap1", MACS[0], (("2001:db8::/64", MACS[0]),)),))
AN_ADDRESS_OF_IT = Frames(
    secured=(Secured("tap1", MACS[0], (("2001:db8::/64", MACS[1]), ("2001:db8::1/128", MACS[0]))),)
)


@given(frames(), frames())
@example(A_PREFIX, AN_ADDRESS_OF_IT)
def test_at_a_start_nobody_claims_more_than_the_kernel_let_him(before: Frames, after: Frames) -> None:
    held = layout.elements(before)
    asked = [each.device for each in after.secured]
    found = layout.elements(narrowed(after, layout.passing(after, held), asked, asked))
    for kind in ("arp", "nd"):
        let = ranges(held, kind)
        assert all(any(low <= first and last <= high for low, high in let) for first, last in ranges(found, kind))
    own = {key((interface_name(each.device), layout._mac(each.mac))) for each in after.secured}
    assert found["macs"].keys() <= held["macs"].keys() | own
    assert found["unjudged"].keys() >= held["unjudged"].keys()
    shut = {each.device for each in before.closed} & {*asked}
    assert {interface_name(device) for device in shut} <= found["closed"].keys() - found["secured"].keys()


@given(frames())
def test_what_was_let_before_is_let_at_a_start(same: Frames) -> None:
    held = layout.elements(same)
    asked = [each.device for each in same.secured]
    assert narrowed(same, layout.passing(same, held), asked, asked) == same
