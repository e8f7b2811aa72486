"""Links in memory, for tests: refuses what the kernel refuses, fails where it is told to."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from msgspec.structs import replace

from nova_netagent.backend.links.protocol import LinksFailed
from nova_netagent.plan_links import ActualLinks, Link, LinkPlan

_SYSCTLS = {
    "net/ipv4/ip_forward": "0",
    "net/ipv6/conf/all/forwarding": "0",
    "net/bridge/bridge-nf-call-iptables": "0",
    "net/bridge/bridge-nf-call-ip6tables": "0",
}


class FakeLinks:
    """A host with ``lo`` and whatever ``add_link`` gives it."""

    def __init__(self) -> None:
        self.links: dict[str, Link] = {}
        self.addresses: set[tuple[str, str]] = set()
        self.sysctls: dict[str, str] = dict(_SYSCTLS)
        self.edits: list[str] = []
        """Every edit that was made, in order."""
        self.fail: dict[str, str] = {}
        """Links whose edits fail, and the reason."""
        self.add_link("lo")

    def add_link(self, name: str, kind: str | None = None, master: str | None = None, up: bool = True) -> None:
        """Give the host a link, as an operator or a hypervisor would."""
        mac = f"02:00:00:00:00:{len(self.links):02x}"
        self.links[name] = Link(len(self.links) + 1, name, kind, master, up, 1500, mac)
        self.sysctls.setdefault(f"net/ipv6/conf/{name}/accept_ra", "1")

    def remove_link(self, name: str) -> None:
        """Take a link away, with its addresses and ports."""
        del self.links[name]
        self.sysctls.pop(f"net/ipv6/conf/{name}/accept_ra", None)
        self.addresses = {each for each in self.addresses if each[0] != name}
        for port, link in self.links.items():
            if link.master == name:
                self.links[port] = replace(link, master=None)

    def read(self) -> ActualLinks:
        """The links as they are."""
        return ActualLinks(dict(self.links), frozenset(self.addresses))

    def read_sysctls(self, names: Iterable[str]) -> Mapping[str, str]:
        """The sysctls that the host has."""
        return {name: self.sysctls[name] for name in names if name in self.sysctls}

    def prepare(self, plan: LinkPlan) -> None:
        """What goes before the rules."""
        failures: dict[str, str] = {}
        for device in plan.remove_ports:
            self._edit(failures, device, f"- port {device}", partial(self._set_master, device, None))
        for each in plan.remove_addresses:
            self._edit(failures, each[0], f"- {each[1]}", partial(self.addresses.remove, each))
        self._write_sysctls(plan.sysctls_before)
        _raise(failures)

    def finish(self, plan: LinkPlan) -> None:
        """What comes after the rules."""
        failures: dict[str, str] = {}
        for bridge in plan.add_bridges:
            name = bridge.name
            self._edit(failures, name, f"+ bridge {name}", partial(self.add_link, name, "bridge"))
        for name in plan.set_up:
            self._edit(failures, name, f"up {name}", partial(self._set_up, name))
        for address in plan.add_addresses:
            key = (address.interface, address.cidr)
            self._edit(failures, key[0], f"+ {key[1]}", partial(self._add_address, key))
        for device, master in plan.add_ports.items():
            edit = f"+ port {device}"
            self._edit(failures, device, edit, partial(self._set_master, device, master))
        self._write_sysctls(plan.sysctls_after)
        for name in plan.remove_bridges:
            self._edit(failures, name, f"- bridge {name}", partial(self.remove_link, name))
        _raise(failures)

    def next_due(self) -> float | None:
        """Nothing is ever due."""
        return None

    def do_due(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Nothing to close."""

    def _edit(self, failures: dict[str, str], name: str, text: str, edit: Callable[[], object]) -> None:
        if name in self.fail:
            failures[name] = self.fail[name]
            return
        edit()
        self.edits.append(text)

    def _set_master(self, device: str, master: str | None) -> None:
        assert master is None or self.links[master].kind == "bridge", f"{master} is no bridge"
        self.links[device] = replace(self.links[device], master=master)

    def _set_up(self, name: str) -> None:
        self.links[name] = replace(self.links[name], up=True)

    def _add_address(self, key: tuple[str, str]) -> None:
        assert key[0] in self.links, f"there is no {key[0]}"
        assert key not in self.addresses, f"{key} is there already"
        self.addresses.add(key)

    def _write_sysctls(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            assert name in self.sysctls, f"there is no sysctl {name}"
            self.sysctls[name] = value
            self.edits.append(f"{name} = {value}")


def _raise(failures: Mapping[str, str]) -> None:
    if failures:
        raise LinksFailed(failures)
