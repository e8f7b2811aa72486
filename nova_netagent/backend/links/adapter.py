"""Edits of links through pyroute2, one at a time: the failure of one does not stop the others."""

import errno
import hashlib
import ipaddress
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from pyroute2.netlink.exceptions import NetlinkError

from nova_netagent.backend import Unavailable
from nova_netagent.backend.links import connected, holdings, neighbours, passable, routes
from nova_netagent.backend.links.announcements import Announcer
from nova_netagent.backend.links.holdings import Holdings, MoveFailed
from nova_netagent.backend.links.image import LinkImage
from nova_netagent.backend.links.passable import Passable
from nova_netagent.backend.links.protocol import LEAST_MTU_OF_IPV6, LinksFailed, too_small_for_ipv6
from nova_netagent.backend.links.watch import Watch
from nova_netagent.compile.links import Address, Bridge, Vlan
from nova_netagent.plan.links import ActualLinks, Join, Link, LinkPlan, NewMac, Release, accept_ra, led_out
from nova_netagent.plan.neighbours import Had, Neighbours

LOG = logging.getLogger(__name__)

_PROC_SYS = Path("/proc/sys")
_SYSCTL_SIZE = 4096
_SCOPE_LINK = 253
_IFA_F_NODAD = 0x02
_HAIRPIN = 1
_ALL_FRAMES = 0xFFFD
"""Every group but that of PAUSE, which the kernel refuses: frames for a bridge itself pass like others."""


class _Refused(Exception):
    """The kernel refuses an edit, and it is known why."""


class _Remembered(Struct, frozen=True):
    """What a bridge held."""

    read_from: int
    """The index of the link that its messages name."""
    holdings: Holdings
    at: float
    """When it was read, in seconds since the host was started, those included in which it slept."""
    has: int | None
    """The index of the link that has it: not that of a bridge that was made anew, and has not been given it yet.

    ``None``: nobody looked after it since, and who gave the uplink other addresses meanwhile knew better.
    """

    def is_lost_by(self, bridge: Link) -> bool:
        """Whether a bridge of that name has it no more, or not yet."""
        return not bridge.up or self.has != bridge.index

    def lacked_by(self, holding: Holdings) -> Holdings:
        """What of it a link lacks that holds this, but for what has ended meanwhile.

        What it has is newer than what it had: a lease may have been renewed.
        """
        return self.holdings.aged(_since_boot() - self.at).without([*holding.keys()])

    def is_outdated_by(self, holding: Holdings) -> bool:
        """Whether somebody gave the uplink addresses that its bridge had not."""
        return bool(holding.without([*self.holdings.keys()]).addresses)


class KernelLinks:
    """The links of the network namespace that the thread is in.

    :param host: the host's name, by which its MACs differ from another's that was cloned from it.
    :param announcements: how often a new address is announced to its neighbours; 0 is never.
    :param on_change: called, from any thread, when links changed since the last ``read`` and when
        a ``read`` finds that they did.
    """

    def __init__(
        self,
        host: str = "",
        announcements: int = 3,
        on_change: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from pyroute2.iproute.linux import IPRoute  # 235 ms: only where links are managed

        self._route: Any = IPRoute()
        self._image = LinkImage()
        self._announcer = Announcer(clock, self._holder)
        self._host = host
        self._announcements = announcements
        self._failures: dict[str, str] = {}
        self._remembered: dict[str, _Remembered] = {}
        self._on_change = on_change
        self._found: ActualLinks | None = None
        self._watch = None if on_change is None else Watch(self._image.fileno(), on_change)

    def close(self) -> None:
        """Close the sockets; nothing in the kernel changes."""
        if self._watch is not None:
            self._watch.close()
        self._image.close()
        self._route.close()

    def next_due(self) -> float | None:
        """When the next announcement is due, by time.monotonic()."""
        return self._announcer.next_due()

    def do_due(self) -> None:
        """Send the announcements that are due."""
        try:
            self._announcer.send_due()
        except OSError as error:
            LOG.warning("an address is not announced, as the links cannot be read: %s", error)

    def read(self) -> ActualLinks:
        """The host's links and addresses as they are now.

        :raises Unavailable: the kernel does not tell.
        """
        if self._on_change is None or self._watch is None:
            return self._actual()
        self._watch.rearm()  # before the read: what comes meanwhile is announced once more
        found = self._actual()
        if found is not self._found:
            # The watch does not see what is read before it looks: epoll tells of what is there then.
            self._found = found
            self._on_change()
        return found

    def _actual(self) -> ActualLinks:
        try:
            return self._image.read()
        except OSError as error:
            raise Unavailable(f"the links cannot be read: {error.strerror}") from error

    def read_sysctls(self, names: Iterable[str]) -> Mapping[str, str]:
        """The values of those sysctls that this host has."""
        found = {}
        for name in names:
            try:
                found[name] = _read(f"{_PROC_SYS}/{name}")
            except OSError:
                continue
        return found

    def held(self, names: Iterable[str]) -> Mapping[str, str]:
        """What links hold that is not the kernel's own."""
        links = self._actual().links
        return {name: " ".join(_holdings_of(links[name].index).keys()) for name in names if name in links}

    def unled(self, addresses: Collection[tuple[str, str]]) -> Collection[tuple[str, str]]:
        """Those addresses to whose network the kernel has no route by the interface."""
        links = self._actual().links
        try:
            led = connected.networks()
        except OSError as error:
            raise Unavailable(f"the routes cannot be read: {error.strerror}") from error
        networks = {each: str(ipaddress.ip_interface(each[1]).network) for each in addresses if each[0] in links}
        return tuple(each for each, network in networks.items() if (links[each[0]].index, network) not in led)

    def remember(self, bridges: Mapping[str, Collection[str]], uplinks: Mapping[str, str]) -> Mapping[str, str]:
        """Keep in mind what bridges hold; of one that is not there, down, or waits for its uplink, what it held."""
        actual = self._actual()
        joined, links = led_out(uplinks, actual), actual.links
        known = {name: each for name, each in self._remembered.items() if name in bridges}
        for name, ours in bridges.items():
            if name in links and links[name].up:
                index = links[name].index
                if name in joined or name not in known or known[name].has == index:
                    found, old = _holdings_of(index).without(ours), known.get(name)
                    if old is None or (old.has, old.read_from, old.holdings) != (index, index, found):
                        known[name] = _Remembered(index, found, _since_boot(), index)
        self._remembered = known
        return {name: msgspec.json.encode(each).decode() for name, each in known.items()}

    def recall(self, remembered: Mapping[str, str]) -> None:
        """Keep in mind what was remembered before a restart, of those bridges that are gone, down or made anew."""
        links = self._actual().links
        for name, text in remembered.items():
            try:
                known = msgspec.json.decode(text, type=_Remembered)
            except msgspec.MsgspecError as error:  # of another version, which had other things to say
                LOG.warning("what %s held for the host does not read, and is not given again: %s", name, error)
            else:
                if name not in links or known.is_lost_by(links[name]):
                    self._remembered[name] = replace(known, has=None)

    def route(self, asked: routes.Asked) -> routes.Route:
        """Where the host sends a packet, or would take it."""
        return routes.ask(asked)

    def passable(self, name: str) -> Passable | None:
        """What lets frames pass a link, or not; ``None``: there is none of that name."""
        return passable.look(name)

    def behind(self, bridge: str, mac: str) -> str | None:
        """The port by which a bridge gives out frames for a MAC, if it has learned or was told it."""
        return passable.behind(bridge, mac)

    def prepare(self, plan: LinkPlan) -> None:
        """Take ports and addresses away, and have bridged frames filtered."""
        with self._collect():
            for device in plan.remove_ports:
                self._try(device, partial(self._set, device, master=0))
            for device, cidr in plan.remove_addresses:
                self._try(device, partial(self._remove_address, device, cidr))
            self._write_sysctls(plan.sysctls_before)

    def finish(self, plan: LinkPlan) -> None:
        """Make bridges, give addresses, join ports, forward; then remove what is left over."""
        with self._collect():
            for release in plan.release:
                self._try(release.device, partial(self._release, release))
            for name in plan.remake_vlans:
                self._try(name, partial(self._remove, name))
            for vlan in plan.add_vlans:
                self._try(vlan.name, partial(self._add_vlan, vlan))
            for bridge in plan.add_bridges:
                self._try(bridge.name, partial(self._add_bridge, bridge))
            for name, new in plan.set_mac.items():
                self._try(name, partial(self._set_mac, name, new))
            for name, mtu in plan.set_mtu.items():
                self._try(name, partial(self._set, name, mtu=mtu))
            for name in plan.set_up:
                self._try(name, partial(self._set_up, name))
            for join in plan.join:
                self._try(join.device, partial(self._join, join))
            for address in plan.add_addresses:
                self._try(address.interface, partial(self._add_address, address))
            for device, cidr in plan.add_routes:
                self._try(device, partial(self._lead, device, cidr))
            for device, master in plan.add_ports.items():
                self._try(device, partial(self._add_port, device, master))
            self._write_sysctls(plan.sysctls_after)
            unreleased = {each.bridge: each.device for each in plan.release if each.device in self._failures}
            for name in plan.remove_bridges:
                if name in unreleased:  # it has what the host needs
                    self._failures[name] = f"{unreleased[name]} could not leave it"
                else:
                    self._try(name, partial(self._remove, name))
            for name in plan.remove_vlans:
                self._try(name, partial(self._remove, name))

    def known_neighbours(self, bridges: Collection[str]) -> Neighbours:
        """Who answered for which address there, as far as the host remembers."""
        links = self._actual().links
        names = {links[name].index: name for name in bridges if name in links}
        try:
            found = neighbours.answered(names) if names else ()
        except OSError as error:
            LOG.warning("who answered before the start is not known: %s", error)
            return {}
        return {(names[index], address): mac for index, address, mac in found}

    def refuse_waiting(self, now: Neighbours) -> None:
        """Throw away what waits for an answer from these addresses."""
        try:
            neighbours.refuse_waiting(self._by_index(now))
        except OSError as error:
            LOG.warning("what was sent to an address before it was somebody's may arrive: %s", error)

    def forget(self, gone: Collection[Had]) -> None:
        """Have the host ask anew who has these addresses."""
        links = self._actual().links
        try:
            neighbours.forget([(links[name].index, asked, mac) for name, asked, mac in gone if name in links])
        except OSError as error:
            LOG.warning("the host may send to who had an address for a minute: %s", error)

    def introduce(self, now: Neighbours) -> None:
        """Tell the host who has these addresses, where it knows of somebody else or has waited for an answer."""
        try:
            neighbours.correct(self._by_index(now))
        except OSError as error:
            LOG.warning("the host may send to who had an address before: %s", error)

    def _by_index(self, now: Neighbours) -> Mapping[tuple[int, str], str]:
        links = self._actual().links
        return {(links[bridge].index, address): mac for (bridge, address), mac in now.items() if bridge in links}

    @contextmanager
    def _collect(self) -> Iterator[None]:
        self._failures = {}
        yield
        if self._failures:
            raise LinksFailed(self._failures)

    def _try(self, name: str, edit: Callable[[], object]) -> None:
        try:
            edit()
        except NetlinkError as error:
            # Gone or done already: the hypervisor and we may do the same thing at once.
            if error.code not in (errno.ENODEV, errno.EEXIST, errno.EADDRNOTAVAIL):
                self._failures[name] = f"{errno.errorcode.get(error.code, error.code)} {error}"
        except KeyError:
            pass  # the link went away; a new one will be announced
        except (OSError, MoveFailed, _Refused) as error:
            self._failures[name] = str(error)

    def _index(self, name: str) -> int:
        return self._image.read().links[name].index

    def _set(self, name: str, **options: object) -> None:
        self._route.link("set", index=self._index(name), **options)

    def _remove(self, name: str) -> None:
        self._route.link("del", index=self._index(name))

    def _add_bridge(self, bridge: Bridge) -> None:
        # A MAC that is set stays; one that the kernel chose follows the lowest of the ports.
        uplink = None if bridge.uplink is None else self._image.read().links.get(bridge.uplink)
        mac = (uplink and uplink.mac) or _own_mac(self._host, bridge.name)
        self._route.link("add", ifname=bridge.name, kind="bridge", address=mac, br_stp_state=0, br_forward_delay=0)
        self._write_sysctls({accept_ra(bridge.name): "0"})
        if uplink is not None and self._ipv6_disabled(uplink.name) == "0":
            self._write_sysctls({_disable_ipv6(bridge.name): "0"})  # whatever new links have: it gets what that holds
        # Set afterwards: an MTU given at creation is lost when the first port joins.
        self._set(bridge.name, state="up", **({"mtu": bridge.mtu} if bridge.mtu else {}))

    def _add_vlan(self, vlan: Vlan) -> None:
        # A MAC of its own, as nova gave it: one host's bridges on several VLANs are told apart by any switch.
        self._set(vlan.interface, state="up")
        self._route.link(
            "add",
            ifname=vlan.name,
            kind="vlan",
            link=self._index(vlan.interface),
            vlan_id=vlan.number,
            address=_own_mac(self._host, vlan.name),
        )
        self._set(vlan.name, state="up", **({"mtu": vlan.mtu} if vlan.mtu else {}))

    def _set_mac(self, bridge: str, new: NewMac) -> None:
        self._set(bridge, address=new.mac)
        for cidr in new.announce:
            self._announcer.announce(bridge, cidr, self._announcements)

    def _holder(self, interface: str, cidr: str) -> str | None:
        """The MAC of an interface that has an address."""
        found = self._image.read()
        return found.links[interface].mac if (interface, cidr) in found.addresses else None

    def _set_up(self, name: str) -> None:
        self._set(name, state="up")
        self._give_again(name)

    def _join(self, join: Join) -> None:
        """Put an uplink on its bridge; what it holds is on the one or the other at every instant."""
        uplink, bridge = self._index(join.device), self._index(join.bridge)
        # Who moves a port from bridge to bridge has it on none for an instant, and that is told too: ask
        # once more, and be answered when the other is through.
        self._route.link("get", index=uplink)
        master = self._image.read().links[join.device].master
        if master not in (None, join.bridge):
            raise MoveFailed(f"it is a port of {master} already")
        if join.accept_ra:
            self._write_sysctls({accept_ra(join.bridge): "2"})
        self._set(join.device, state="up")
        holding = holdings.read(uplink)
        known = self._remembered.get(join.bridge)
        if known is not None and known.has is None and known.is_outdated_by(holding):
            del self._remembered[join.bridge]
        try:
            self._give_again(join.bridge)  # first: it is a bridge without its uplink that is known to lack something
        finally:
            self._set(join.device, master=bridge)
            holdings.move(holding, uplink, bridge)

    def _release(self, release: Release) -> None:
        """Give an uplink back what its bridge holds for it; first, as a bridge without it leads nowhere."""
        links = self._image.read().links
        uplink, bridge = links[release.device].index, links.get(release.bridge)
        known = self._remembered.pop(release.bridge, None)
        if release.deafen:
            self._write_sysctls({accept_ra(release.bridge): "0"})
        holding = Holdings() if bridge is None else holdings.read(bridge.index).without(release.keep)
        if holding or (known is not None and known.holdings):
            self._set(release.device, state="up")  # as it was, or no route can lead by it
        if bridge is not None:
            holdings.move(holding, bridge.index, uplink)
        if known is not None and (bridge is None or known.is_lost_by(bridge)):
            self._give_back(known, uplink, anew=bridge is not None and bridge.index == known.read_from)
        if self._image.read().links[release.device].master == release.bridge:
            self._set(release.device, master=0)

    def _give_again(self, bridge: str) -> None:
        """Give a bridge what it is remembered to have held: who deletes a bridge takes that with it."""
        known = self._remembered.get(bridge)
        if known is not None:
            index = self._index(bridge)
            holdings.give(known.lacked_by(holdings.read(index)), known.read_from, index)
            self._remembered[bridge] = replace(known, has=index)

    def _give_back(self, known: _Remembered, uplink: int, *, anew: bool) -> None:
        """Give an uplink what its bridge lost with its being there, or up.

        :param anew: what it holds was its bridge's until now; else somebody may have given it others, who knew better.
        """
        holding = holdings.read(uplink)
        if anew or not known.is_outdated_by(holding):
            holdings.give(known.lacked_by(holding), known.read_from, uplink)

    def _add_address(self, address: Address) -> None:
        host = ipaddress.ip_interface(address.cidr)
        options: dict[str, object] = {}
        if host.version == 6:
            options["flags"] = _IFA_F_NODAD  # a gateway that waits a second for its address is deaf for one
        elif host.network.prefixlen < 31:
            options["broadcast"] = str(host.network.broadcast_address)
        if address.scope_link:
            options["scope"] = _SCOPE_LINK
        index = self._index(address.interface)
        try:
            self._route.addr("add", index=index, address=str(host.ip), prefixlen=host.network.prefixlen, **options)
        except NetlinkError as error:
            why = self._why_no_ipv6(address.interface) if host.version == 6 else None
            if why is None:
                raise
            raise _Refused(why) from error
        self._image.assume(index, f"{host.ip}/{host.network.prefixlen}")
        if address.announce:
            self._announcer.announce(address.interface, address.cidr, self._announcements)

    def _lead(self, device: str, cidr: str) -> None:
        connected.lead(self._index(device), cidr)

    def _why_no_ipv6(self, name: str) -> str | None:
        """Why a link has no IPv6 address at all, where that is so."""
        mtu = self._image.read().links[name].mtu
        if mtu < LEAST_MTU_OF_IPV6:
            return too_small_for_ipv6(mtu)
        if self._ipv6_disabled(name) == "1":
            return f"IPv6 is switched off there: {_PROC_SYS}/{_disable_ipv6(name)} is 1"
        return None

    def _ipv6_disabled(self, name: str) -> str | None:
        """``1`` or ``0``; ``None`` where the kernel has no IPv6 for a link at all."""
        return self.read_sysctls((_disable_ipv6(name),)).get(_disable_ipv6(name))

    def _remove_address(self, device: str, cidr: str) -> None:
        host = ipaddress.ip_interface(cidr)
        with self._neighbours_kept(device):
            self._route.addr("del", index=self._index(device), address=str(host.ip), prefixlen=host.network.prefixlen)

    @contextmanager
    def _neighbours_kept(self, device: str) -> Iterator[None]:
        """Where the first address of a prefix goes, the kernel takes the others away, unless it is told to keep them.

        Those may be the host's own (ip-sysctl, promote_secondaries).
        """
        name = f"net/ipv4/conf/{device}/promote_secondaries"
        found = self.read_sysctls((name,)).get(name)
        if found == "0":
            self._write_sysctls({name: "1"})
        try:
            yield
        finally:
            if found == "0":
                self._write_sysctls({name: found})

    def _add_port(self, device: str, bridge: str) -> None:
        index = self._index(device)
        self._set(device, master=self._index(bridge))
        # Hairpin: an instance reaches its own floating IP only if its port sends back to itself.
        # Before it is up, since no hook sees what a bridge takes for its own (decision 6).
        self._route.brport("set", index=index, mode=_HAIRPIN, group_fwd_mask=_ALL_FRAMES)
        self._set(device, state="up")

    def _write_sysctls(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            try:
                (_PROC_SYS / name).write_text(value)
            except OSError as error:
                self._failures[name] = str(error)


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _disable_ipv6(name: str) -> str:
    return f"net/ipv6/conf/{name}/disable_ipv6"


def _read(path: str) -> str:
    """What a sysctl says; those of every change are read, and Python's own files take twice as long."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, _SYSCTL_SIZE).decode().strip()
    finally:
        os.close(file)


def _holdings_of(index: int) -> Holdings:
    try:
        return holdings.read(index)
    except MoveFailed as error:
        raise Unavailable(str(error)) from error


def _own_mac(host: str, name: str) -> str:
    """A locally administered MAC that a link of this name always has on this host."""
    seed = Path("/etc/machine-id").read_text() if Path("/etc/machine-id").exists() else ""
    digest = hashlib.sha1(f"{seed}{host}{name}".encode(), usedforsecurity=False).digest()
    return bytes([(digest[0] & 0xFC) | 2, *digest[1:6]]).hex(":")
