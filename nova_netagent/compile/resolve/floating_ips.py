"""The floating IPs that lead to somebody here."""

from collections.abc import Iterable, Mapping

from nova_netagent.compile.resolve.networks import no_host_has_it
from nova_netagent.compile.resolve.resolved import Port, Problem
from nova_netagent.model import Claim, DesiredState, FloatingIP, Key, Network, values

METADATA_ADDRESS = "169.254.169.254"


class Ranges:
    """Networks' IPv4 ranges: which of them has an address is looked up, not looked for in every network."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._ids = {values.prefix(each.cidr): each.id for each in networks if each.cidr is not None}
        self._lengths = {each.length for each in self._ids}

    def holder(self, address: values.Prefix) -> str | None:
        """A network whose range has an address: the only one, of those that are routed here."""
        return next(filter(None, (self._ids.get(address.within(length)) for length in self._lengths)), None)

    def meant_whole(self, address: values.Prefix) -> str | None:
        """A network of whose range an address is the first or the last: that leads to all of it, or to nobody."""
        ranges = (address.within(length) for length in self._lengths)
        return next((self._ids[each] for each in ranges if each in self._ids and not each.has_host(address)), None)


def routed_floating_ips(state: DesiredState, networks: Iterable[Network]) -> Mapping[str, Claim]:
    """For each floating IP in a range that is routed here the claim of whoever has it as a fixed IP."""
    ranges = Ranges(each for each in networks if each.routed(4))
    holders = ((id_, ranges.holder(values.prefix(id_))) for id_ in state.floating_ips)
    return {id_: ("address", network_id, id_) for id_, network_id in holders if network_id is not None}


def usable_floating_ips(
    state: DesiredState,
    networks: Mapping[str, Network],
    ports: Mapping[str, tuple[Port, ...]],
    fixed: Mapping[str, Claim],
    ranges: Ranges,
    without: Mapping[Key, str],
    problems: dict[Key, list[Problem]],
) -> Iterable[FloatingIP]:
    """The floating IPs to install, in numerical order.

    :param fixed: those that are a vif's fixed IP as well, each with the vif's claim.
    """
    entries = state.floating_ips.values()
    if not entries:
        return
    own = {
        address: network.id for network in networks.values() for address in (network.gateway, network.server) if address
    }
    for entry in sorted(entries, key=lambda each: values.prefix(each.object.id)):
        floating = entry.object
        assert isinstance(floating, FloatingIP)
        key = (FloatingIP.KIND, floating.id)
        if key in without:
            continue
        problem = _floating_problem(floating, ranges, own, fixed, ports)
        if problem is None:
            yield floating
        else:
            problems.setdefault(key, []).append(problem)


def _floating_problem(
    floating: FloatingIP,
    ranges: Ranges,
    own: Mapping[str, str],
    fixed_here: Mapping[str, Claim],
    ports: Mapping[str, tuple[Port, ...]],
) -> Problem | None:
    if floating.id == METADATA_ADDRESS:
        return "error", f"{floating.id} is the metadata service's address"
    if floating.id in own:
        return "error", f"{floating.id} is the gateway of network {own[floating.id]}"
    if floating.id in fixed_here:
        _, network_id, _, instance_id = fixed_here[floating.id]
        return "error", f"{floating.id} is a fixed IP of instance {instance_id} on network {network_id}"
    whole = ranges.meant_whole(values.prefix(floating.id))
    if whole is not None:
        return "error", f"{floating.id} {no_host_has_it(whole)}"
    fixed = floating.fixed_ip_address
    if floating.instance_id is not None:
        if any(fixed in port.addresses for port in ports.get(floating.instance_id, ()) if port.network):
            return None
        return "pending", f"waits for instance {floating.instance_id} with fixed IP {fixed}"
    if ranges.holder(values.prefix(fixed)) is not None:
        return None
    return "pending", f"waits for a network that holds {fixed}"
