"""netfilter's hooks, and where iptables' tables stand among everything that is hooked in there.

Sources: linux/netfilter.h (``enum nf_inet_hooks``), linux/netfilter_ipv4.h (``enum nf_ip_hook_priorities``).
"""

HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
"""By their numbers."""

FRAME_HOOKS = ("ingress", "prerouting", "input", "forward", "output", "postrouting", "egress")
"""Where a frame is met as such, below IP: by its link, or by its bridge."""
BRIDGED_IP = {"prerouting": 0, "forward": -1, "postrouting": 2**31 - 1}
"""When br_netfilter shows the bridge's frames to iptables (net/bridge/br_netfilter_hooks.c: ``br_nf_ops``)."""

_PRIORITIES = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}
_NAT_PRIORITIES = {"PREROUTING": -100, "OUTPUT": -100, "INPUT": 100, "POSTROUTING": 100}


def priority(table: str, hook: str) -> int:
    """When packets meet one of iptables' tables at a hook: the lower, the earlier."""
    return _NAT_PRIORITIES[hook] if table == "nat" else _PRIORITIES[table]
