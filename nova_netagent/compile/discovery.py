"""What every instance may do to come to life: DHCP and neighbour discovery (RFC 2131, 8415, 4861)."""

from nova_netagent.netfilter.rule import Family, PortRange, Ports

LINK_LOCAL = "fe80::/10"
CLIENT_PORT: dict[Family, PortRange] = {4: (68, 68), 6: (546, 546)}
SERVER_PORT: dict[Family, PortRange] = {4: (67, 67), 6: (547, 547)}
DHCP_CLIENT: dict[Family, Ports] = {
    family: Ports("udp", source=CLIENT_PORT[family], destination=SERVER_PORT[family]) for family in CLIENT_PORT
}
DHCP_SERVER: dict[Family, Ports] = {
    family: Ports("udp", source=SERVER_PORT[family], destination=CLIENT_PORT[family]) for family in CLIENT_PORT
}

ROUTER_ADVERTISEMENT = 134
HEARD = (130, ROUTER_ADVERTISEMENT, 135, 136)
"""ICMPv6 types an instance always hears: MLD query, router advertisement, neighbour
solicitation and advertisement."""
SENT = (131, 132, 133, 135, 136, 143)
"""ICMPv6 types an instance may always send: MLD report and done, router and neighbour
solicitation, neighbour advertisement, MLDv2 report."""
SENT_UNSPECIFIED = (131, 133, 135, 143)
"""Those of them that a host sends before it has an address."""
