"""The methods by which nova's own network RPC client speaks to one host, versions 1.0 to 1.17.

Their names, arguments and targets are those of nova 18.3.0's ``nova/network/rpcapi.py``. They
act on what the agent holds already: a controller described the networks and instances.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from nova_netagent.api.agent import Agent
from nova_netagent.api.errors import ObjectFailed
from nova_netagent.engine import Change, Informant, Look, NotApplied
from nova_netagent.events import Delete, Put
from nova_netagent.model import DesiredState, FloatingIP, Instance, Invalid, Key, Network, Object, values
from nova_netagent.rpc.asked import Asked, Method
from nova_netagent.rpc.errors import NotFound, bad
from nova_netagent.status import Status

_DIGITS = 19
"""As many has the highest number of nova's database."""

Release = Callable[[str, str, str, str], None]
"""Gives a lease back: of a bridge, its server, an address and a MAC; raises OSError."""


class Nova:
    """Each method takes what came over the wire, and returns what it comes to.

    :param host: this host's name, as nova knows it.
    :param release: tells a DHCP server that an address is free.
    """

    NAMESPACE = None
    VERSION = "1.17"

    def __init__(self, agent: Agent, host: str, release: Release) -> None:
        self._agent = agent
        self._host = host
        self._release = release

    def methods(self) -> Mapping[str, Method]:
        """What may be called, under nova's names."""
        return {
            "_associate_floating_ip": self.associate_floating_ip,
            "_disassociate_floating_ip": self.disassociate_floating_ip,
            "setup_networks_on_host": self.setup_networks_on_host,
            "rpc_setup_network_on_host": self.rpc_setup_network_on_host,
            "update_dns": self.update_dns,
            "release_dhcp": self.release_dhcp,
            "migrate_instance_start": self.migrate_instance_start,
            "migrate_instance_finish": self.migrate_instance_finish,
        }

    # --- floating IPs

    def associate_floating_ip(
        self, floating_address: Any, fixed_address: Any, interface: Any = None, instance_uuid: Any = None
    ) -> Asked:
        """Have a floating IP lead to a fixed IP of a network that is here.

        An instance that is here has to have the fixed IP; it may be on another host as well.
        When it comes to nothing all is as before: nova takes it back on its side, too.
        """
        try:
            asked = FloatingIP(
                id=_text("floating_address", floating_address),
                fixed_ip_address=_text("fixed_address", fixed_address),
                interface=_text("interface", interface) if interface else None,
                instance_id=_uuid("instance_uuid", instance_uuid) if instance_uuid else None,
            )
        except Invalid as error:
            name = {"id": "floating_address", "fixed_ip_address": "fixed_address"}.get(error.field, error.field)
            raise bad(name, error.reason) from None

        def found(state: DesiredState) -> Asked:
            item = _placed(state, asked)
            before = state.get(FloatingIP, item.id)
            if before is not None:
                item = replace(item, project_id=before.project_id)
                undo = _put(replace(before, revision=None))
            else:
                undo = Change(Delete(FloatingIP.KIND, item.id), wait=False, source="rpc")
            return Asked((_put(item),), lambda answer: _refuse_trouble(answer.status), (undo,))

        return self._with_state(found)

    def disassociate_floating_ip(self, address: Any, interface: Any = None, instance_uuid: Any = None) -> Asked:
        """Have a floating IP lead nowhere any more. Where it was bound and whose it was is known here."""
        del interface, instance_uuid
        id_ = _ipv4("address", address)
        return self._with_state(lambda state: _delete([_held(state, FloatingIP, id_)]))

    def migrate_instance_start(
        self,
        instance_uuid: Any,
        rxtx_factor: Any = None,
        project_id: Any = None,
        source: Any = None,
        dest: Any = None,
        floating_addresses: Any = None,
    ) -> Asked:
        """Take an instance's floating IPs off this host: it moves to another."""
        del rxtx_factor, project_id
        return self._moved(instance_uuid, source, dest, floating_addresses, concerns=source, act=_delete)

    def migrate_instance_finish(
        self,
        instance_uuid: Any,
        rxtx_factor: Any = None,
        project_id: Any = None,
        source: Any = None,
        dest: Any = None,
        floating_addresses: Any = None,
    ) -> Asked:
        """See that the floating IPs of an instance that moved here, described before, are in the kernel."""
        del rxtx_factor, project_id
        return self._moved(instance_uuid, source, dest, floating_addresses, concerns=dest, act=_ensure)

    # --- networks

    def setup_networks_on_host(self, instance_id: Any, host: Any, teardown: Any = None, instance: Any = None) -> Asked:
        """See that an instance's networks and its own rules are in the kernel, or take the instance off this host."""
        id_ = _instance_uuid(instance_id, instance)
        if host and host != self._host:
            return self._elsewhere(host)
        act = _delete if _flag("teardown", teardown) else _ensure
        return self._with_state(lambda state: act([_held(state, Instance, id_)]))

    def rpc_setup_network_on_host(self, network_id: Any, teardown: Any = None) -> Asked:
        """See that a network is in the kernel, or take it off this host where no instance is on it any more."""
        key = _network_key("network_id", network_id)
        gone = _flag("teardown", teardown)

        def found(state: DesiredState) -> Asked:
            network = _network(state, key)
            if not gone:
                return _ensure([network])
            users = sorted(each.id for each in state.of(Instance) for vif in each.vifs if vif.network_id == network.id)
            if users:
                return _nothing(f"network {network.id} stays: instance {users[0]} is on it")
            return _delete([network])

        return self._with_state(found)

    def update_dns(self, network_ids: Any) -> Asked:
        """See that the names of networks' instances are known to their DNS servers."""
        if not isinstance(network_ids, list):
            raise bad("network_ids", f"{network_ids!r:.80} is not a list")
        keys = [_network_key(f"network_ids[{index}]", each) for index, each in enumerate(network_ids)]
        return self._with_state(lambda state: _ensure(_network(state, key) for key in keys))

    def release_dhcp(self, dev: Any, address: Any, vif_address: Any) -> Asked:
        """Tell the DHCP server of a bridge that an instance's address is free.

        Of networks that share the bridge it is the one that holds the address, whose server dnsmasq knows it by. Where
        none does it is NotFound, as for any network that is not here: nova takes an answer for a lease that is gone.
        """
        bridge = _parsed("dev", dev, values.interface)
        ip = _ipv4("address", address)
        mac = _parsed("vif_address", vif_address, values.mac)

        def found(state: DesiredState) -> object:
            network = _network_on(state, bridge, ip)
            if network.server is None or not network.enable_dhcp:
                return f"network {network.id} has no DHCP server here"
            try:
                self._release(bridge, network.server, ip, mac)
            except OSError as error:
                raise ObjectFailed(f"{ip} of {bridge} was not released: {error}") from error
            return None

        return self._with_state(found)

    # --- what they share

    def _moved(
        self,
        instance_uuid: Any,
        source: Any,
        dest: Any,
        floating_addresses: Any,
        *,
        concerns: Any,
        act: Callable[[Iterable[Object]], Asked],
    ) -> Asked:
        """Do what one end of a migration does with the instance's floating IPs.

        :param concerns: the host at that end; where it is not told it is this one.
        """
        _uuid("instance_uuid", instance_uuid)
        addresses = _addresses(floating_addresses)
        if not addresses or (source and source == dest):
            return _nothing("no floating IP moves")
        if concerns and concerns != self._host:
            return self._elsewhere(concerns)
        return self._with_state(lambda state: act(_held(state, FloatingIP, each) for each in addresses))

    def _with_state(self, found: Callable[[DesiredState], Asked | object]) -> Asked:
        """Go on with the state as it is when the engine has served what came before."""
        return Asked((Look(lambda _: self._agent.view().state),), found)

    def _elsewhere(self, host: object) -> Asked:
        return _nothing(f"this is {self._host}, not {host!s:.80}: nothing was done")


def _nothing(sentence: str) -> Asked:
    """Change nothing and say so."""
    return Asked(answer=lambda: sentence)


def _put(item: Object) -> Change:
    return Change(Put(item), source="rpc")


def _ensure(items: Iterable[Object]) -> Asked:
    """See that the kernel has objects that are held already. They are not put again: they may change meanwhile."""
    keys = [(each.KIND, each.id) for each in items]
    return Asked((Look(lambda engine: _look(engine, keys)),))


def _look(engine: Informant, keys: Iterable[Key]) -> None:
    """In the engine's thread: try again what failed, and see how objects fare.

    :raises NotApplied: the kernel does not have the state.
    :raises ObjectFailed: one of them is pending or in error.
    """
    if engine.view.failure:
        engine.resync()
        if engine.view.failure:
            raise NotApplied(engine.view.failure)
    for key in keys:
        _refuse_trouble(engine.view.status(key))


def _delete(items: Iterable[Object]) -> Asked:
    return Asked(tuple(Change(Delete(each.KIND, each.id), source="rpc") for each in items))


def _refuse_trouble(status: Status | None) -> None:
    """Nova takes an answer for success: what is pending or in error is none.

    :raises ObjectFailed: with the reason.
    """
    if status is not None and status.state != "done":
        state = "in error" if status.state == "error" else status.state
        raise ObjectFailed(f"it is {state}: {status.message}")


def _placed(state: DesiredState, floating: FloatingIP) -> FloatingIP:
    """A floating IP as this host can have it.

    :raises NotFound: its fixed IP is of no network here, or not the instance's.
    """
    fixed = floating.fixed_ip_address
    if not any(_holds(each, fixed) for each in state.of(Network)):
        raise NotFound(f"no network here holds the fixed IP {fixed}")
    instance = state.get(Instance, floating.instance_id) if floating.instance_id else None
    if instance is None:
        return replace(floating, instance_id=None)
    if not any(fixed in vif.fixed_ips for vif in instance.vifs):
        raise NotFound(f"instance {instance.id} has no fixed IP {fixed} here")
    return floating


def _held(state: DesiredState, cls: type[Any], id_: str) -> Any:
    item = state.get(cls, id_)
    if item is None:
        raise NotFound(f"there is no {id_} among the {cls.KIND} here")
    return item


def _network_key(name: str, value: Any) -> str | int:
    """A network's UUID, or the number that nova's database has for it."""
    if type(value) is int:
        return value
    if not isinstance(value, str):
        raise bad(name, f"{value!r:.80} is neither a network's id nor nova's number of it")
    if value.isascii() and value.isdigit() and len(value) <= _DIGITS:
        return int(value)
    return _uuid(name, value)


def _network(state: DesiredState, key: str | int) -> Network:
    if isinstance(key, str):
        return _held(state, Network, key)  # type: ignore[no-any-return]
    for each in state.of(Network):
        if each.nova_id == key:
            return each
    raise NotFound(f"there is no network of nova's number {values.shown(key)} here")


def _network_on(state: DesiredState, bridge: str, address: str) -> Network:
    """The network on a bridge that holds an address.

    :raises NotFound: no network is there, or none of those that are.
    """
    networks = [each for each in state.of(Network) if each.bridge == bridge]
    if not networks:
        raise NotFound(f"dev: no network here has the bridge {bridge}")
    for each in networks:
        if _holds(each, address):
            return each
    raise NotFound(f"address: no network on {bridge} holds {address}")


def _holds(network: Network, address: str) -> bool:
    return network.cidr is not None and values.prefix(network.cidr).contains(values.prefix(address))


def _instance_uuid(instance_id: Any, instance: Any) -> str:
    """An instance's UUID: from nova's object as it is serialised, from a plain one, or from an id that is one."""
    if isinstance(instance, dict):
        data = instance.get("nova_object.data", instance)
        if isinstance(data, dict) and data.get("uuid"):
            return _uuid("instance.uuid", data["uuid"])
    if instance is not None:
        raise bad("instance", "is no instance: it has no uuid")
    if not isinstance(instance_id, str):
        raise bad("instance_id", f"{instance_id!r:.80} is a number of nova's database: send instance as well")
    return _uuid("instance_id", instance_id)


def _addresses(value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise bad("floating_addresses", f"{value!r:.80} is not a list")
    return list(dict.fromkeys(_ipv4(f"floating_addresses[{index}]", each) for index, each in enumerate(value)))


def _flag(name: str, value: Any) -> bool:
    if value is not None and not isinstance(value, bool):
        raise bad(name, f"{value!r:.80} is neither true nor false")
    return bool(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise bad(name, f"{value!r:.80} is not a string")
    return value


def _parsed(name: str, value: Any, parse: Callable[[str], str]) -> str:
    try:
        return parse(_text(name, value))
    except ValueError as error:
        raise bad(name, str(error)) from None


def _uuid(name: str, value: Any) -> str:
    return _parsed(name, value, values.uuid)


def _ipv4(name: str, value: Any) -> str:
    return _parsed(name, value, values.ipv4)
