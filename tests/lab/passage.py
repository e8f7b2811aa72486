"""Does this packet get from here to there? Yes as soon as it is seen, no as soon as that is certain.

A packet crosses any number of veth pairs, bridges and routers of one machine within the call
that sends it: every hop puts it at the end of the same processor's backlog, which is worked off
in order. So what the same processor sends later cannot overtake it, and when the later packet
has arrived, the earlier one was dropped. What is sent later is, by preference:

* ``control``: a probe that the caller knows to be permitted;
* ``reply``: an answer to a datagram of the receiver's. Replies pass whatever the groups say, so
  that this proves, and nobody need think of it, that the way from sender to receiver works. It
  can be had when the receiver may open a flow to the sender;
* ``wire``: frames on the receiver's own link. They prove that the backlog is worked off and
  that the receiver would have seen the packet, but nothing about the way before;
* ``time``: nothing, when even the link is unknown; then the packet has 0.3 s.
"""

from dataclasses import dataclass
from typing import Literal

from tests.lab.clients import PATIENCE
from tests.lab.frames import Seen
from tests.lab.namespace import Namespace
from tests.lab.probes import Probe, new_token
from tests.lab.proof import drain, one_processor, reply_flow
from tests.lab.watch import watching

Proof = Literal["control", "reply", "wire", "time"]


class ControlLostError(AssertionError):
    """The permitted packet did not arrive either: the way itself is broken, and nothing was proved."""


@dataclass(frozen=True)
class Refusal:
    """What ``refused`` found out; true when the packet did not arrive."""

    seen: Seen | None
    proof: Proof

    def __bool__(self) -> bool:
        return self.seen is None

    @property
    def way_proved(self) -> bool:
        """Whether something else went the same way right after it."""
        return self.proof in ("control", "reply")


def arrives(
    sender: Namespace, receiver: Namespace, probe: Probe, *, within: float = PATIENCE, device: str | None = None
) -> Seen | None:
    """Send the probe; the packet as the receiver saw it, or None when it did not come in time.

    A packet arrives when the receiver's ``eth0`` (or ``device``) takes it in, whomever it was
    meant for; at a host that filters its own input, when a socket would get it. To show that a
    packet does *not* arrive use ``refused``, which is quicker and proves more.
    """
    probe = probe.towards(receiver)
    token = new_token()
    with watching(receiver, [probe], device) as watch:
        watch.expect(token)
        shoot = probe.prepare(sender, token)
        shoot()
        return watch.wait(token, within)


def refused(
    sender: Namespace,
    receiver: Namespace,
    probe: Probe,
    *,
    control: Probe | None = None,
    within: float = 0.3,
    device: str | None = None,
) -> Refusal:
    """Send the probe and prove that it does not arrive, where possible by what is sent after it.

    With ``control``, a packet that must arrive, it raises ControlLostError when that does not.
    """
    probe = probe.towards(receiver)
    if control is not None:
        return _refused_by_control(sender, receiver, probe, control.towards(receiver), device)
    token = new_token()
    with (
        watching(receiver, [probe], device) as watch,
        one_processor(),
        reply_flow(sender, receiver, probe) as flow,
    ):
        watch.expect(token)
        shoot = probe.prepare(sender, token)
        in_order = getattr(probe, "sent_at_once", True)
        shoot()
        if in_order and flow is not None and flow.answer():
            return Refusal(watch.look(token), "reply")
        if in_order and drain(receiver):
            return Refusal(watch.look(token), "wire")
        return Refusal(watch.wait(token, within), "time")


def _refused_by_control(
    sender: Namespace, receiver: Namespace, probe: Probe, control: Probe, device: str | None
) -> Refusal:
    token, control_token = new_token(), new_token()
    with watching(receiver, [probe, control], device) as watch, one_processor():
        watch.expect(token)
        watch.expect(control_token)
        shoot, shoot_control = probe.prepare(sender, token), control.prepare(sender, control_token)
        shoot()
        shoot_control()
        if watch.wait(control_token, 1.0) is None:
            raise ControlLostError(f"{control} did not arrive either")
        return Refusal(watch.look(token), "control")
