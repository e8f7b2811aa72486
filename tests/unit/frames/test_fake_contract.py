"""The fake does what every backend of frames does."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from msgspec.structs import replace

from nova_netagent.backend import RuleRefused, Unavailable
from nova_netagent.backend.frames.layout import SETS
from nova_netagent.backend.frames_fake import FakeFrames
from nova_netagent.backend.nft.objects import BaseHook, Chain, Element, interface_name, key
from nova_netagent.netfilter.frames import Frames
from tests.unit.frames.contract import EVERYTHING, FramesContract, vifs


class FakeWorld:
    """The fake, and what others do to it."""

    def __init__(self) -> None:
        self.frames = FakeFrames()

    def drift(self, what: str) -> None:
        table = self.frames.table
        assert table is not None
        self.touch()
        from_vif = table.rules["from-vif"]
        match what:
            case "table deleted" | "ruleset flushed":
                self.frames.table = None
            case "table asleep":
                table.awake = False
            case "rule deleted":
                table.rules["from-vif"] = from_vif[1:]
            case "rule added":
                table.rules["from-vif"] = (from_vif[1], *from_vif)
            case "rule replaced":
                table.rules["from-vif"] = (from_vif[1], *from_vif[1:])
            case "rules swapped":
                table.rules["from-vif"] = (from_vif[1], from_vif[0], *from_vif[2:])
            case "chain flushed":
                table.rules["from-vif"] = ()
            case "chain added":
                table.chains["strange"], table.rules["strange"] = Chain("strange"), ()
            case "policy changed" | "chain hooked in elsewhere":
                table.chains["prerouting"] = Chain("prerouting", BaseHook(0, 0))
            case "set of another kind":
                table.sets["uplinks"] = SETS["macs"]
            case "set added":
                table.sets["strange"] = replace(SETS["closed"], name="strange")
                table.elements["strange"] = {}
            case "set flushed":
                table.elements["macs"].clear()
            case "element deleted":
                table.elements["macs"].popitem()
            case "element added":
                table.elements["closed"][interface_name("x")] = Element(interface_name("x"))
            case "element of a range added":
                element = next(iter(table.elements["arp-prefixes"].values()))
                other = key((interface_name("x"), element.key[16:]))
                table.elements["arp-prefixes"][other] = Element(other, end=other)
            case "value changed":
                gateway = interface_name("tap1")
                table.elements["gateways"][gateway] = Element(gateway, data=bytes(6))
            case _:
                raise NotImplementedError(what)

    def touch(self) -> None:
        self.frames.generation += 1

    def generation(self) -> int:
        return self.frames.generation

    @contextmanager
    def somebody_is_faster(self) -> Iterator[None]:
        self.frames.before_commit = self.touch
        yield
        self.frames.before_commit = lambda: None


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


class TestFakeFrames(FramesContract):
    """All of it."""


def test_what_the_kernel_refuses_changes_nothing(world: FakeWorld) -> None:
    world.frames.apply(vifs(1))
    world.frames.refuse = lambda set_name, element: set_name == "macs" and element.key.startswith(b"tap2\0")
    with pytest.raises(RuleRefused, match=r"add to set macs: tap2 \. fa:16:3e:00:00:02"):
        world.frames.apply(vifs(1, 2))
    assert world.frames.read()["secured"] == {"tap1"}


def test_a_kernel_that_cannot_be_reached(world: FakeWorld) -> None:
    world.frames.unavailable = 1
    with pytest.raises(Unavailable):
        world.frames.apply(EVERYTHING)
    assert world.frames.apply(EVERYTHING)


def test_a_kernel_without_what_is_needed(world: FakeWorld) -> None:
    world.frames.unsupported = "the kernel refuses chain prerouting: Operation not supported"
    assert world.frames.supported() == world.frames.unsupported
    with pytest.raises(RuleRefused):
        world.frames.apply(Frames())
