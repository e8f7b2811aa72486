"""How a rule of nf_tables is made to meet one probe and nothing else."""

from nova_netagent.netfilter.packet import Packet
from tests.functional.agent.site import Site
from tests.functional.agent.witness import packet_of
from tests.lab import Namespace, arrives
from tests.lab.probes import IpProbe


def met_alone(site: Site, sender: Namespace, receiver: Namespace, probe: IpProbe) -> tuple[Packet, str]:
    """A probe as a packet, and what a rule asks to meet it alone; it is known by MAC, and by no flow."""
    arrives(sender, receiver, probe)  # whoever has to ask for a MAC asks now
    site.forget_flows()
    packet = packet_of(sender, probe, None)
    kind = "icmpv6 type echo-request" if packet.protocol == 58 else f"meta l4proto {packet.protocol}"
    return packet, f"{'ip6' if packet.family == 6 else 'ip'} saddr {packet.source} {kind}"
