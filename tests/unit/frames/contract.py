"""What every backend of frames does, the kernel's and the fake alike."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import pytest
from msgspec.structs import replace

from nova_netagent.backend import TableChanged
from nova_netagent.backend.frames import FramesBackend
from nova_netagent.netfilter.frames import Closed, Frames, Gateway, Isolated, Redirected, Secured

BRIDGE_MAC = "02:00:00:00:00:fe"
EMPTY = {
    "ports", "secured", "closed", "macs", "arp-hosts", "arp-prefixes", "rarp-hosts", "nd-hosts", "nd-prefixes",
    "isolated", "uplinks", "redirected", "gateways", "hairpins", "unjudged",
}  # fmt: skip


def vif(number: int, *pairs: tuple[str, str]) -> Secured:
    """The vif tapN: fa:16:3e:00:00:N, 10.1.0.N and fd00:1::N."""
    mac = f"fa:16:3e:00:{number >> 8:02x}:{number & 255:02x}"
    own = (f"10.1.{number >> 8}.{number & 255}/32", f"fd00:1::{number:x}/128")
    addresses = (*((each, mac) for each in own), *pairs)
    return Secured(f"tap{number}", mac, addresses, ("instances", f"a{number}", ""))


def vifs(*numbers: int) -> Frames:
    """These vifs and nothing else."""
    return Frames(secured=tuple(map(vif, numbers)))


EVERYTHING = Frames(
    secured=(
        vif(1),
        vif(
            2,
            ("10.9.0.0/24", "fa:16:3e:00:00:02"),
            ("10.1.0.9/32", "00:00:5e:00:01:01"),
            ("fd00:9::/64", "fa:16:3e:00:00:02"),
        ),
    ),
    closed=(Closed("tap7", ("networks", "n1", "nobody's port")),),
    isolated=(
        Isolated("eth1", "10.1.0.1", ("networks", "n1", "shared address")),
        Isolated("eth1", "10.2.0.1", ("networks", "n2", "shared address")),
    ),
    redirected=(Redirected("10.1.0.1/32", "10.1.0.0/24", inverted=True, origin=("floating_ips", "198.51.100.1", "")),),
    gateways=(Gateway("tap1", BRIDGE_MAC), Gateway("eth1", BRIDGE_MAC)),
    hairpins=("tap1", "tap2"),
    unjudged=(6,),
)

DRIFTS = (
    "table deleted",
    "ruleset flushed",
    "table asleep",
    "rule deleted",
    "rule added",
    "rule replaced",
    "rules swapped",
    "chain flushed",
    "chain added",
    "policy changed",
    "chain hooked in elsewhere",
    "set added",
    "set of another kind",
    "set flushed",
    "element deleted",
    "element added",
    "element of a range added",
    "value changed",
)


class World(Protocol):
    """A backend, and what other programs do behind its back."""

    frames: FramesBackend

    def drift(self, what: str) -> None:
        """One of ``DRIFTS`` happens to our table."""

    def touch(self) -> None:
        """Another program changes something of its own."""

    def generation(self) -> int:
        """A number that every change of nf_tables counts up, whoever makes it."""

    def somebody_is_faster(self) -> AbstractContextManager[None]:
        """Meanwhile another program does so just before each commit of ours."""


class FramesContract:
    """To be inherited, with a fixture ``world``."""

    def test_the_kernel_can_do_it(self, world: World) -> None:
        before = world.generation()
        assert world.frames.supported() is None
        assert world.generation() == before
        assert world.frames.read() == {}

    def test_nothing_desired_is_a_table_that_says_nothing(self, world: World) -> None:
        assert world.frames.apply(Frames()) == ["bridge nova-netagent: + table"]
        assert world.frames.read() == dict.fromkeys(EMPTY, frozenset())

    def test_everything_is_there_as_people_read_it(self, world: World) -> None:
        world.frames.apply(EVERYTHING)
        assert world.frames.read() == {
            "ports": {"tap1", "tap2", "tap7", "eth1"},
            "secured": {"tap1", "tap2"},
            "closed": {"tap7"},
            "macs": {"tap1 . fa:16:3e:00:00:01", "tap2 . fa:16:3e:00:00:02", "tap2 . 00:00:5e:00:01:01"},
            "arp-hosts": {
                "tap1 . fa:16:3e:00:00:01 . 10.1.0.1",
                "tap2 . fa:16:3e:00:00:02 . 10.1.0.2",
                "tap2 . 00:00:5e:00:01:01 . 10.1.0.9",
            },
            "arp-prefixes": {"tap2 . fa:16:3e:00:00:02 . 10.9.0.0-10.9.0.255"},
            "rarp-hosts": {"tap1 . fa:16:3e:00:00:01", "tap2 . fa:16:3e:00:00:02"},
            "nd-hosts": {"tap1 . fd00:1::1", "tap2 . fd00:1::2"},
            "nd-prefixes": {"tap2 . fd00:9::-fd00:9::ffff:ffff:ffff:ffff"},
            "isolated": {"eth1 . 10.1.0.1", "eth1 . 10.2.0.1"},
            "uplinks": {"eth1"},
            "hairpins": {"tap1 . tap1", "tap2 . tap2"},
            "redirected": {"10.1.0.1 . 0.0.0.0-10.0.255.255", "10.1.0.1 . 10.1.1.0-255.255.255.255"},
            "unjudged": {"ip6"},
            "gateways": {f"tap1 : {BRIDGE_MAC}", f"eth1 : {BRIDGE_MAC}"},
        }

    def test_what_is_there_is_not_written_again(self, world: World) -> None:
        world.frames.apply(EVERYTHING)
        before = world.generation()
        assert world.frames.apply(EVERYTHING) == []
        assert world.generation() == before

    def test_order_means_nothing(self, world: World) -> None:
        world.frames.apply(EVERYTHING)
        turned = Frames(*(tuple(reversed(getattr(EVERYTHING, name))) for name in EVERYTHING.__struct_fields__))
        assert world.frames.plan(turned) == []

    def test_one_more_vif_is_a_few_elements(self, world: World) -> None:
        world.frames.apply(vifs(1))
        assert world.frames.apply(vifs(1, 2)) == [
            "bridge nova-netagent: + ports tap2 (instances a2)",
            "bridge nova-netagent: + secured tap2",
            "bridge nova-netagent: + macs tap2 . fa:16:3e:00:00:02",
            "bridge nova-netagent: + arp-hosts tap2 . fa:16:3e:00:00:02 . 10.1.0.2",
            "bridge nova-netagent: + rarp-hosts tap2 . fa:16:3e:00:00:02",
            "bridge nova-netagent: + nd-hosts tap2 . fd00:1::2",
        ]

    def test_a_vif_goes_with_all_its_elements(self, world: World) -> None:
        world.frames.apply(vifs(1))
        before = world.frames.read()
        world.frames.apply(vifs(1, 2))
        assert all(" - " in line for line in world.frames.apply(vifs(1)))
        assert world.frames.read() == before

    def test_an_address_changes_hands_in_one_step(self, world: World) -> None:
        world.frames.apply(Frames(closed=(Closed("tap1"),)))
        assert world.frames.apply(vifs(1))[:2] == [
            "bridge nova-netagent: - ports tap1",
            "bridge nova-netagent: - closed tap1",
        ]
        assert world.frames.read()["secured"] == {"tap1"}

    def test_a_gateway_moves_to_another_bridge(self, world: World) -> None:
        world.frames.apply(Frames(gateways=(Gateway("tap1", BRIDGE_MAC),)))
        world.frames.apply(Frames(gateways=(Gateway("tap1", "02:00:00:00:00:01"),)))
        assert world.frames.read()["gateways"] == {"tap1 : 02:00:00:00:00:01"}

    def test_a_port_stays_spoken_of_while_anything_is_said(self, world: World) -> None:
        world.frames.apply(EVERYTHING)
        world.frames.apply(replace(EVERYTHING, secured=(), isolated=()))
        assert world.frames.read()["ports"] == {"tap1", "tap7", "eth1"}

    def test_pairs_may_overlap(self, world: World) -> None:
        mac, other = "fa:16:3e:00:00:01", "00:00:5e:00:01:01"
        nested = ("10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/24", "10.1.0.1/32", "0.0.0.0/0", "fd00::/16", "fd00:1::/64")
        pairs = (*((each, mac) for each in nested), *((each, other) for each in nested))
        world.frames.apply(Frames(secured=(vif(1, *pairs), vif(2, *pairs))))
        assert world.frames.plan(Frames(secured=(vif(1, *pairs), vif(2, *pairs)))) == []
        world.frames.apply(Frames(secured=(vif(1, *pairs[1:4]), vif(2))))
        assert world.frames.read()["arp-prefixes"] == {"tap1 . fa:16:3e:00:00:01 . 10.1.0.0-10.1.255.255"}

    def test_redirections_may_overlap(self, world: World) -> None:
        overlapping = (
            Redirected("10.1.0.0/24", "0.0.0.0/0"),
            Redirected("10.1.0.5/32", "10.1.0.0/24", inverted=True),
            Redirected("10.1.0.5/32", "10.1.0.9/32"),
            Redirected("10.0.0.0/8", "192.0.2.0/24"),
        )
        for count in (1, 2, 3, 4, 2, 1, 4, 0, 3):
            desired = Frames(redirected=overlapping[:count])
            world.frames.apply(desired)
            assert world.frames.plan(desired) == []

    def test_long_names_and_odd_words_are_no_harm(self, world: World) -> None:
        odd = Secured("tap-0123456789a", "fa:16:3e:00:00:01", origin=("instances", 'a "quoted" ä' * 20, ""))
        desired = Frames(secured=(odd,), closed=(Closed("t", ("networks", "", "")),))
        world.frames.apply(desired)
        assert world.frames.plan(desired) == []

    def test_the_plan_says_what_apply_does(self, world: World) -> None:
        planned = world.frames.plan(EVERYTHING)
        assert world.frames.read() == {}
        assert world.frames.apply(EVERYTHING) == planned
        assert world.frames.plan(EVERYTHING) == []

    @pytest.mark.parametrize("what", DRIFTS)
    def test_drift_is_seen_and_put_right(self, world: World, what: str) -> None:
        world.frames.apply(EVERYTHING)
        expected, rules = world.frames.read(), _texts(world.frames)
        world.drift(what)
        planned = world.frames.plan(EVERYTHING)
        assert planned
        assert world.frames.apply(EVERYTHING) == planned
        assert world.frames.read() == expected
        assert _texts(world.frames) == rules
        assert world.frames.plan(EVERYTHING) == []

    @pytest.mark.parametrize("what", DRIFTS)
    def test_drift_is_told_to_who_asks(self, world: World, what: str) -> None:
        assert not world.frames.meddled()
        world.frames.apply(EVERYTHING)
        assert not world.frames.meddled()
        world.touch()
        assert not world.frames.meddled()
        assert world.frames.apply(EVERYTHING) == []
        world.drift(what)
        assert world.frames.meddled()
        world.frames.apply(EVERYTHING)
        assert not world.frames.meddled()

    def test_drift_is_told_also_when_somebody_else_asked_to_see_the_table(self, world: World) -> None:
        world.frames.apply(EVERYTHING)
        world.drift("ruleset flushed")
        assert world.frames.read() == {}
        assert world.frames.plan(EVERYTHING)
        assert world.frames.passing(EVERYTHING) is None
        assert world.frames.meddled()

    def test_a_table_asleep_that_lacks_a_hook_is_made_anew(self, world: World) -> None:
        world.frames.apply(EVERYTHING)
        expected = world.frames.read()
        world.drift("chain hooked in elsewhere")
        world.drift("table asleep")
        assert world.frames.apply(EVERYTHING)[:2] == ["bridge nova-netagent: - table", "bridge nova-netagent: + table"]
        assert world.frames.plan(EVERYTHING) == []
        assert world.frames.read() == expected

    def test_drift_and_change_are_one_step(self, world: World) -> None:
        world.frames.apply(vifs(1))
        world.drift("rule deleted")
        before = world.generation()
        world.frames.apply(vifs(2))
        assert world.generation() == before + 1
        assert world.frames.read()["secured"] == {"tap2"}

    def test_what_others_do_is_none_of_our_business(self, world: World) -> None:
        world.frames.apply(EVERYTHING)
        world.touch()
        before = world.generation()
        assert world.frames.apply(EVERYTHING) == []
        assert world.generation() == before

    def test_what_passed_before_is_known_of_those_asked_for(self, world: World) -> None:
        asked = Frames(secured=(vif(1, ("10.9.0.0/24", "fa:16:3e:00:00:01")), vif(2), vif(3)))
        assert world.frames.passing(asked) is None
        world.frames.apply(Frames(secured=(vif(1), vif(4)), closed=(Closed("tap2"), Closed("tap9"))))
        assert world.frames.passing(asked) == Frames(secured=(vif(1),), closed=(Closed("tap2"),))

    @pytest.mark.parametrize(
        "what", ["table asleep", "rule deleted", "chain hooked in elsewhere", "set of another kind"]
    )
    def test_where_not_all_is_judged_everything_passed_before(self, world: World, what: str) -> None:
        world.frames.apply(EVERYTHING)
        world.drift(what)
        assert world.frames.passing(EVERYTHING) is None

    def test_who_is_too_late_is_told(self, world: World) -> None:
        world.frames.apply(vifs(1))
        with world.somebody_is_faster(), pytest.raises(TableChanged):
            world.frames.apply(vifs(1, 2))
        assert world.frames.read()["secured"] == {"tap1"}
        world.frames.apply(vifs(1, 2))
        assert world.frames.read()["secured"] == {"tap1", "tap2"}

    def test_all_of_it_can_go(self, world: World) -> None:
        assert world.frames.remove() == []
        world.frames.apply(EVERYTHING)
        assert world.frames.remove() == ["bridge nova-netagent: - table"]
        assert world.frames.read() == {}
        assert world.frames.remove() == []
        assert "bridge nova-netagent: + table" in world.frames.apply(EVERYTHING)

    def test_each_rule_can_be_read(self, world: World) -> None:
        world.frames.apply(EVERYTHING)
        counters = world.frames.counters()
        assert (0, 0, "iifname @ports goto from-port") in counters["prerouting"]
        assert counters["from-vif"][0][2] == 'iifname . ether saddr != @macs counter drop comment "another\'s MAC"'


def _texts(frames: FramesBackend) -> Mapping[str, list[str]]:
    return {chain: [text for _, _, text in rules] for chain, rules in frames.counters().items()}
