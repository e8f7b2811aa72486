"""A bridge with three instances, the host, and another machine behind the uplink; no agent.

::

    elsewhere 198.51.100.77 ── segment "wire" ── eth1 ─┐        ┌─ tap-vm1 ── vm1 .11
                                                       br100 ───┼─ tap-vm2 ── vm2 .12
                               198.51.100.1, the host ─┘        └─ tap-vm3 ── vm3 .13

Nothing filters IP here, so that what does not arrive was stopped by the frames' own rules.
"""

import fcntl
import re
import socket
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nova_netagent.backend.frames import KernelFrames
from nova_netagent.model import values
from nova_netagent.netfilter.frames import Frames, Secured
from tests.lab import Frame, Lab, Namespace, arrives, refused
from tests.lab.passage import Refusal
from tests.lab.probes import Probe
from tests.lab.topology import GATEWAY4, GATEWAY6

W = "nova-netagent"
UPLINK = "eth1"
NETWORK = "198.51.100.0/24"


class BridgeSite:
    """The machines, and the frames that are kept to what ``let`` says."""

    gateway4, gateway6 = GATEWAY4, GATEWAY6

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.host = lab.host(uplinks={UPLINK: "wire"})
        lab.bridge(self.host, ports=[UPLINK])
        self.vm1, self.vm2, self.vm3 = (self.instance() for _ in range(3))
        self.elsewhere = self.machine_on_wire("elsewhere", 77)
        self.frames: KernelFrames = self.host.call(KernelFrames, W)

    def machine_on_wire(self, name: str, number: int) -> Namespace:
        """A machine behind the uplink, 198.51.100.N."""
        machine = self.lab.add(Namespace(name))
        self.lab.plug(machine, "eth0", "wire")
        machine.ip4, machine.ip6 = f"198.51.100.{number}", f"2001:db8:198::{number}"
        machine.links.add_address("eth0", f"{machine.ip4}/24")
        machine.links.add_address("eth0", f"{machine.ip6}/64")
        machine.mac = machine.links.mac("eth0")
        return machine

    def judge_all_frames_of(self, port: str, on: bool = True) -> None:
        """Have the bridge treat frames for 01:80:c2:00:00:0x like all others at this port.

        Otherwise it learns their source and hands them to the host, and no hook is asked about
        those for ...:0e, and with spanning tree ...:00. Whoever joins a tap has to set this.
        """
        self.call(Path(f"/sys/class/net/{port}/brport/group_fwd_mask").write_text, "0xfffd" if on else "0")

    def instance(self, bridge: str = "br100") -> Namespace:
        """One more instance."""
        machine = self.lab.instance(self.host, bridge=bridge)
        self.judge_all_frames_of(self.tap(machine))
        return machine

    def tap(self, machine: Namespace) -> str:
        """The port of a machine."""
        return machine.peers["eth0"][1]

    def secured(self, machine: Namespace, *pairs: tuple[str, str], mac: str | None = None) -> Secured:
        """A machine's vif, with the prefixes and MACs of its allowed pairs."""
        mac = mac or machine.mac
        own = (machine.ip4, machine.ip6, values.link_local(mac))
        addresses = tuple((values.host(each), mac) for each in own)
        return Secured(self.tap(machine), mac, (*addresses, *pairs), ("instances", machine.name, ""))

    def let(self, frames: Frames) -> list[str]:
        """Make the kernel hold these frames."""
        lines: list[str] = self.call(self.frames.apply, frames)
        return lines

    def let_all_be_secured(self, *others: Secured, **fields: Any) -> None:
        """Port security for the three instances, except for vifs given by themselves."""
        given = {each.device for each in others}
        rest = [self.secured(each) for each in (self.vm1, self.vm2, self.vm3) if self.tap(each) not in given]
        self.let(Frames(secured=(*others, *rest), **fields))

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call something in the host."""
        return self.host.call(function, *args, **kwargs)

    # frames

    def passes(self, sender: Namespace, receiver: Namespace, probe: Probe) -> bool:
        """Whether the probe arrives on the receiver's wire, at the host on the bridge."""
        return arrives(sender, receiver, probe, device=self._device(receiver)) is not None

    def passes_soon(self, sender: Namespace, receiver: Namespace, probe: Probe) -> bool:
        """The same, where nothing that could be sent after it would arrive: by the wire's own proof."""
        return not refused(sender, receiver, probe, device=self._device(receiver), within=0.05)

    def stops(self, sender: Namespace, receiver: Namespace, probe: Probe, control: Probe) -> Refusal:
        """True when the probe does not arrive while the control, sent after it, does."""
        return refused(sender, receiver, probe, control=control, device=self._device(receiver))

    def receivers(self) -> Iterable[Namespace]:
        """Those to whom vm1 can lie: a neighbour, the host, a machine behind the uplink."""
        return (self.vm2, self.host, self.elsewhere)

    def _device(self, receiver: Namespace) -> str:
        return "br100" if receiver is self.host else "eth0"

    # what an operator does

    def nft(self, *command: str) -> str:
        """Run nft in the host."""
        return self.host.run(["nft", *command]).stdout

    def drops(self, chain: str) -> int:
        """How many packets the last rule of a chain of ours has dropped."""
        text = self.nft("list", "chain", "bridge", W, chain)
        return int(re.findall(r"counter packets (\d+) bytes \d+ drop", text)[-1])


def raw(build: Callable[[bytes], bytes]) -> Frame:
    """A frame given as bytes."""
    return Frame(build)


def vlan_offload(namespace: Namespace, device: str, on: bool) -> None:
    """Whether the link takes a VLAN tag beside the frame (as cards with offload do) or only within it."""
    siocethtool, get_flags, set_flags, tx_vlan = 0x8946, 0x25, 0x26, 1 << 7

    def flags(command: int, value: int = 0) -> int:
        request = bytearray(struct.pack("=II", command, value))
        buffer = (bytes_address(request), request)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, siocethtool, struct.pack("16sP16x", device.encode(), buffer[0]))
        return int(struct.unpack("=II", request)[1])

    def change() -> None:
        known = flags(get_flags)
        flags(set_flags, known | tx_vlan if on else known & ~tx_vlan)
        assert bool(flags(get_flags) & tx_vlan) == on

    namespace.call(change)


def bytes_address(buffer: bytearray) -> int:
    """Where a buffer is."""
    import ctypes

    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))
