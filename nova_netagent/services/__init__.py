"""What serves the instances beside the kernel: dnsmasq gives DHCP, DNS and router advertisements."""

from nova_netagent.services.dnsmasq import DnsmasqServers
from nova_netagent.services.plan import ActualService, DhcpPlan, plan_dhcp
from nova_netagent.services.protocol import DhcpServers, Trouble

__all__ = ["ActualService", "DhcpPlan", "DhcpServers", "DnsmasqServers", "Trouble", "plan_dhcp"]
