"""What else lives in nf_tables stays as it is; what is ours is put right without an instant of openness."""

import re
import threading
import time

import pytest

from nova_netagent.backend.frames import layout
from nova_netagent.backend.nft.statements import COUNTED, Field, rule, within
from nova_netagent.netfilter.frames import Frames
from tests.functional.frames.lies import LIES
from tests.functional.frames.site import BridgeSite, W
from tests.functional.frames.test_contract import KernelWorld, world  # noqa: F401 (a fixture)
from tests.lab import arp_request, needs
from tests.unit.frames.contract import DRIFTS, EVERYTHING, vif, vifs

pytestmark = needs("bridge", "veth", "nftables", "br_netfilter", "program:nft")

FOREIGN = """
table bridge filter {
	comment "nova-netagent"
	set ports {
		type ifname
		elements = { "tap1", "tap9" }
	}

	chain FORWARD {
		type filter hook forward priority filter; policy accept;
		iifname @ports ether type arp counter packets 7 bytes 77 accept comment "nova-netagent"
	}
}
table bridge nova-netagent-2 {
	chain prerouting {
		type filter hook prerouting priority -350; policy accept;
		iifname "tap1" counter packets 1 bytes 2 accept
	}
}
table inet nova-netagent {
	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		counter packets 3 bytes 4
	}
}
table arp nova-netagent {
	chain INPUT {
		type filter hook input priority filter; policy accept;
	}
}
table ip nova-netagent {
	chain x {
	}
}
""".strip()


def foreign(world: KernelWorld) -> str:  # noqa: F811
    """Everything but our table, as nft prints it."""
    listed = world.nft("list", "ruleset")
    return re.sub(r"^table bridge nova-netagent \{\n.*?^\}\n?", "", listed, flags=re.M | re.S).strip()


@pytest.mark.parametrize("what", [each for each in DRIFTS if each != "ruleset flushed"])
def test_other_tables_stay_byte_for_byte(world: KernelWorld, what: str) -> None:  # noqa: F811
    world.namespace.run(["nft", "-f", "-"], stdin=FOREIGN)
    before = foreign(world)
    assert "counter packets 7 bytes 77" in before
    world.frames.supported()
    world.frames.apply(EVERYTHING)
    assert foreign(world) == before
    world.drift(what)
    world.frames.apply(vifs(1))
    assert foreign(world) == before
    world.frames.remove()
    assert world.nft("list", "ruleset").strip() == before


def test_what_nft_lists_it_also_loads(world: KernelWorld) -> None:  # noqa: F811
    """An operator's saved ruleset must not be useless because of us."""
    world.frames.apply(EVERYTHING)
    listed = world.nft("list", "ruleset")
    world.nft("flush ruleset")
    world.namespace.run(["nft", "-f", "-"], stdin=listed)
    assert world.nft("list", "ruleset") == listed
    lines = world.frames.apply(EVERYTHING)
    assert all(line.startswith("bridge nova-netagent: rules of chain") for line in lines)


def test_our_words_are_nfts(world: KernelWorld) -> None:  # noqa: F811
    """What ``counters`` says of a rule is what ``nft list`` prints."""
    world.frames.apply(EVERYTHING)
    listed = [re.sub(r" packets \d+ bytes \d+", "", line.strip()) for line in world.nft("list", "ruleset").splitlines()]
    for rules in layout.RULES.values():
        for each in rules:
            assert each.text in listed


def test_counters_go_on(site: BridgeSite) -> None:
    site.let_all_be_secured()
    site.vm1.wire("eth0").send(LIES["an unknown ethertype"](site).build(b"x"))  # type: ignore[union-attr]
    dropped = site.drops("from-vif")
    assert dropped
    site.let(Frames(secured=(site.secured(site.vm1),)))
    site.let_all_be_secured()
    site.call(site.frames.apply, Frames())
    assert site.drops("from-vif") == dropped
    counted = site.call(site.frames.counters)["from-vif"][-1]
    assert counted[0] == dropped
    assert counted[1] >= dropped * 46


def test_a_liar_finds_no_gap_while_it_is_put_right(site: BridgeSite) -> None:
    site.let_all_be_secured()
    site.elsewhere.wire("eth0")
    lie = LIES["ARP request as a neighbour"](site).build(b"GAP-IN-THE-WALL")  # type: ignore[union-attr]
    wire, stop, sent = site.vm1.wire("eth0"), threading.Event(), [0]

    def lie_on() -> None:
        while not stop.is_set():
            wire.send(lie)
            sent[0] += 1

    liar = threading.Thread(target=lie_on)
    receiver = site.vm2.wire("eth0")
    with receiver.listening():
        liar.start()
        try:
            for number in range(30):
                site.nft(f"add chain bridge {W} strange; add set bridge {W} odd {{ type ifname; }}")
                lines = site.call(site.frames.apply, everybody(site, number % 2))
                assert any("- set odd" in line for line in lines)
        finally:
            stop.set()
            liar.join()
        assert sent[0] > 1000
        time.sleep(0.05)
        assert not any(b"GAP-IN-THE-WALL" in seen.data for seen in receiver.read())
    assert site.passes(site.vm1, site.vm2, arp_request(site.vm1, wanted=site.vm2.ip4))


def everybody(site: BridgeSite, others: int) -> Frames:
    machines = tuple(site.secured(each) for each in (site.vm1, site.vm2, site.vm3))
    return Frames(secured=(*machines, *(vif(100 + number) for number in range(others * 50))))


def test_a_kernel_that_lacks_something_says_what(
    world: KernelWorld,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This kernel, with more than it has asked of it."""
    unknown = Field("meta of the future", 16, key=99)  # type: ignore[arg-type]
    more = {**layout.RULES, "to-vif": (rule(within("ports", unknown), COUNTED),)}
    monkeypatch.setattr("nova_netagent.backend.frames.kernel.RULES", more)
    before = world.generation()
    reason = world.frames.supported()
    assert reason == (
        "the kernel refuses bridge rule to-vif: meta of the future @ports counter: Operation not supported"
    )
    assert world.generation() == before
    assert world.nft("list", "ruleset") == ""
