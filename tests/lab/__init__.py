"""A laboratory of network namespaces: real hosts, real packets, none of them the machine's own.

A test of the usual kind::

    from tests.lab import Tcp, needs, refused, tcp

    @needs("iptables", "br_netfilter")
    def test_a_group_lets_in_what_it_names(lab):
        host = lab.host()
        web, other = lab.instance(host), lab.instance(host)
        agent = lab.agent(host, {"network": {"fixed_range": "198.51.100.0/24"}})
        agent.put(...)
        assert tcp(other, web, 80)
        assert refused(other, web, Tcp(22), control=Tcp(80))

Places: Lab (topology), Namespace (functions, programs, sockets, sysctl), Links (its ``links``).
Conversations: tcp, udp, ping, connect (a connection to keep), Flood (traffic meanwhile).
Single packets: arrives and refused with Tcp, Udp, UdpLite, Sctp, Icmp, Gre, Ip, Frame, Forged.
The daemon: Agent; what the kernel holds: iptables_save, ipsets.
"""

import pytest

from tests.lab.agent import Agent, AgentError
from tests.lab.clients import Answer, ping, tcp, udp
from tests.lab.connection import Connection, connect
from tests.lab.flood import Flood
from tests.lab.frames import Seen
from tests.lab.namespace import Namespace, veth
from tests.lab.passage import ControlLostError, Refusal, arrives, refused
from tests.lab.probes import Forged, Frame, Gre, Icmp, Ip, Sctp, Tcp, Udp, UdpLite, arp_request
from tests.lab.tables import ipsets, iptables, iptables_save
from tests.lab.topology import Lab

needs = pytest.mark.needs
"""``@needs("ip6tables", "ipset")``: skip, with the reason, where the kernel lacks one of them."""

__all__ = [
    "Agent",
    "AgentError",
    "Answer",
    "Connection",
    "ControlLostError",
    "Flood",
    "Forged",
    "Frame",
    "Gre",
    "Icmp",
    "Ip",
    "Lab",
    "Namespace",
    "Refusal",
    "Sctp",
    "Seen",
    "Tcp",
    "Udp",
    "UdpLite",
    "arp_request",
    "arrives",
    "connect",
    "ipsets",
    "iptables",
    "iptables_save",
    "needs",
    "ping",
    "refused",
    "tcp",
    "udp",
    "veth",
]
