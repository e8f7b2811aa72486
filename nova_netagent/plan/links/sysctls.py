"""The sysctls of links: forwarding, bridged packets shown to the rules, and who hears routers."""

from collections.abc import Mapping

from nova_netagent.compile.links import Links
from nova_netagent.plan.links.actual import ActualLinks, Made

BRIDGE_SYSCTLS = {4: "net/bridge/bridge-nf-call-iptables", 6: "net/bridge/bridge-nf-call-ip6tables"}
FORWARD_IPV6 = "net/ipv6/conf/all/forwarding"
_FORWARD_SYSCTLS = {4: "net/ipv4/ip_forward", 6: FORWARD_IPV6}


def sysctls_of(
    desired: Links, actual: ActualLinks, made: Mapping[Made, str], *, forwarding: bool = False
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The sysctls that a state wants, before and after its rules are in the kernel.

    A host that forwards IPv6 ignores router advertisements unless accept_ra is 2, and
    forgets the default route that it learned from one: so 2 comes first, for every link
    that may have accepted them (kernel, ip-sysctl.rst, accept_ra). A link that comes when
    the host forwards already never accepted any: it may be the tap of an instance.

    :param forwarding: whether the host forwards IPv6 already.
    """
    before = dict.fromkeys(BRIDGE_SYSCTLS.values(), "1") if desired.filter_bridges else {}
    if 6 in desired.forward:
        before |= {name: "2" for kind, name in made if kind == "sysctl" and name.endswith("/accept_ra")}
    if 6 in desired.forward and not forwarding:
        ours = {"lo", *desired.ports, *(name for kind, name in made if kind in ("bridge", "vlan"))}
        before |= {
            accept_ra(link.name): "2"
            for link in actual.links.values()
            if (link.master is None or link.name in desired.uplinks) and link.name not in ours
        }
    after = {_FORWARD_SYSCTLS[family]: "1" for family in sorted(desired.forward)}
    return before, after


def accept_ra(device: str) -> str:
    """The sysctl by which a link hears router advertisements or not."""
    return f"net/ipv6/conf/{device}/accept_ra"


def accepts(device: str, sysctls: Mapping[str, str]) -> bool:
    """Whether a link hears router advertisements (ip-sysctl, accept_ra)."""
    value = sysctls.get(accept_ra(device))
    return value == "2" or (value == "1" and sysctls.get(FORWARD_IPV6) != "1")


def to_change(wanted: Mapping[str, str], present: Mapping[str, str]) -> Mapping[str, str]:
    """Those that this host has and that do not serve as they are."""
    return {
        name: value for name, value in wanted.items() if name in present and not _serves(name, value, present[name])
    }


def _serves(name: str, wanted: str, present: str) -> bool:
    if name.endswith("/accept_ra"):
        return present != "1"  # 0: the operator wants none; 2: accepted already
    return present == wanted
