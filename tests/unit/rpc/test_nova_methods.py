"""nova's host methods: the messages are those that ``nova.network.rpcapi`` of 18.3.0 sends, argument by argument."""

from typing import Any

import pytest

from nova_netagent.api.errors import ObjectFailed
from nova_netagent.engine import NotApplied
from nova_netagent.rpc.errors import BadArgument, NotFound, as_nova, bad
from nova_netagent.testing import (
    instance_id,
    make_floating_ip,
    make_instance,
    make_network,
    network_id,
)
from tests.unit.rpc.conftest import Remote

FLOATING = "198.51.100.1"
ASSOCIATE: dict[str, Any] = {
    "floating_address": FLOATING,
    "fixed_address": "10.1.0.2",
    "interface": "eth0",
    "instance_uuid": instance_id(1),
}
MIGRATE: dict[str, Any] = {
    "instance_uuid": instance_id(1),
    "rxtx_factor": 1.0,
    "project_id": "p",
    "source": "node-1",
    "dest": "node-2",
    "floating_addresses": [FLOATING],
}
INSTANCE: dict[str, Any] = {
    "nova_object.name": "Instance",
    "nova_object.namespace": "nova",
    "nova_object.version": "2.4",
    "nova_object.data": {"uuid": instance_id(1), "id": 5, "host": "node-1"},
    "nova_object.changes": ["uuid"],
}


def floating(remote: Remote) -> Any:
    entry = remote.engine.view.state.floating_ips.get(FLOATING)
    return None if entry is None else entry.object


def test_a_floating_ip_belongs_to_the_instance_where_that_is_here(remote: Remote) -> None:
    remote.held(make_network(1), make_instance(1))
    assert remote("_associate_floating_ip", **ASSOCIATE) is None
    assert floating(remote) == make_floating_ip(1, interface="eth0", instance_id=instance_id(1))


def test_and_to_the_network_where_the_instance_is_on_another_host(remote: Remote) -> None:
    remote.held(make_network(1))
    assert remote("_associate_floating_ip", **{**ASSOCIATE, "interface": None}) is None
    assert floating(remote) == make_floating_ip(1)


def test_what_would_come_to_nothing_changes_nothing(remote: Remote) -> None:
    with pytest.raises(NotFound, match="no network here"):
        remote("_associate_floating_ip", **ASSOCIATE)
    remote.held(make_network(1), make_instance(1))
    with pytest.raises(NotFound, match="has no fixed IP"):
        remote("_associate_floating_ip", **{**ASSOCIATE, "fixed_address": "10.1.0.9"})
    assert floating(remote) is None


@pytest.mark.parametrize("before", [None, make_floating_ip(1, 3, revision=4)])
def test_a_failure_is_undone_as_nova_undoes_it_on_its_side(remote: Remote, before: Any) -> None:
    remote.held(make_network(1), make_instance(1), *([] if before is None else [before]))
    remote.engine.refused[("floating_ips", FLOATING)] = "no device eth0"
    with pytest.raises(ObjectFailed, match="it is in error: no device eth0"):
        remote("_associate_floating_ip", **ASSOCIATE)
    found = floating(remote)
    assert (found and found.fixed_ip_address) == (before and before.fixed_ip_address)

    remote.engine.failure = "no lock"
    with pytest.raises(NotApplied, match="no lock"):
        remote("_associate_floating_ip", **ASSOCIATE)
    found = floating(remote)
    assert (found and found.fixed_ip_address) == (before and before.fixed_ip_address)


def test_what_it_was_told_of_a_floating_ip_stays(remote: Remote) -> None:
    remote.held(make_network(1), make_floating_ip(1, 3, project_id="p", revision=4))
    remote("_associate_floating_ip", **ASSOCIATE)
    assert floating(remote) == make_floating_ip(1, interface="eth0", project_id="p", revision=4)


def test_disassociating(remote: Remote) -> None:
    remote.held(make_network(1), make_floating_ip(1))
    message = {"address": FLOATING, "interface": "eth0", "instance_uuid": instance_id(1)}
    assert remote("_disassociate_floating_ip", **message) is None
    assert floating(remote) is None
    with pytest.raises(NotFound, match=FLOATING):
        remote("_disassociate_floating_ip", **message)


def test_a_migration_starts_here(remote: Remote) -> None:
    remote.held(make_network(1), make_floating_ip(1), make_floating_ip(2))
    with pytest.raises(NotFound, match=r"198\.51\.100\.9"):
        remote("migrate_instance_start", **{**MIGRATE, "floating_addresses": [FLOATING, "198.51.100.9"]})
    assert floating(remote) is not None, "all of them or none"
    for other in ({"source": "node-3"}, {"floating_addresses": None}, {"dest": "node-1"}):
        assert remote("migrate_instance_start", **{**MIGRATE, **other})
        assert floating(remote) is not None
    assert remote("migrate_instance_start", **MIGRATE) is None
    assert list(remote.engine.view.state.floating_ips) == ["198.51.100.2"]


def test_a_migration_ends_here(remote: Remote) -> None:
    arriving = {**MIGRATE, "source": "node-2", "dest": "node-1"}
    with pytest.raises(NotFound, match=FLOATING):
        remote("migrate_instance_finish", **arriving)
    remote.held(make_network(1), make_floating_ip(1, instance_id=instance_id(1)))
    with pytest.raises(ObjectFailed, match="it is pending"):
        remote("migrate_instance_finish", **arriving)
    remote.held(make_instance(1))
    assert remote("migrate_instance_finish", **arriving) is None
    assert "not node-3" in remote("migrate_instance_finish", **{**arriving, "dest": "node-3"})


@pytest.mark.parametrize(
    "message",
    [
        {"instance_id": 5, "instance": INSTANCE},
        {"instance_id": 5, "instance": {"uuid": instance_id(1)}},
        {"instance_id": instance_id(1)},
    ],
    ids=["an object of nova's", "a plain one", "a UUID"],
)
def test_an_instance_is_set_up_and_torn_down(remote: Remote, message: dict[str, Any]) -> None:
    with pytest.raises(NotFound, match=instance_id(1)):
        remote("setup_networks_on_host", host="node-1", teardown=False, **message)
    remote.held(make_instance(1))
    with pytest.raises(ObjectFailed, match="it is pending: network"):
        remote("setup_networks_on_host", host="node-1", teardown=False, **message)
    remote.held(make_network(1))
    assert remote("setup_networks_on_host", host="node-1", teardown=False, **message) is None
    assert "this is node-1, not node-2" in remote("setup_networks_on_host", host="node-2", teardown=True, **message)
    assert remote.engine.view.state.instances
    assert remote("setup_networks_on_host", host="node-1", teardown=True, **message) is None
    assert not remote.engine.view.state.instances


@pytest.mark.parametrize("key", [7, "7", network_id(1)])
def test_a_network_is_known_by_uuid_and_by_novas_number(remote: Remote, key: Any) -> None:
    with pytest.raises(NotFound, match=str(key)):
        remote("rpc_setup_network_on_host", network_id=key, teardown=False)
    remote.held(make_network(1, nova_id=7), make_network(2), make_instance(1))
    assert remote("rpc_setup_network_on_host", network_id=key, teardown=False) is None
    assert remote("update_dns", network_ids=[key]) is None
    assert "stays" in remote("rpc_setup_network_on_host", network_id=key, teardown=True)
    remote("setup_networks_on_host", instance_id=5, host="node-1", teardown=True, instance=INSTANCE)
    assert remote("rpc_setup_network_on_host", network_id=key, teardown=True) is None
    assert list(remote.engine.view.state.networks) == [network_id(2)]


def test_what_failed_is_tried_again_before_it_is_called_done(remote: Remote) -> None:
    remote.held(make_network(1))
    remote.engine.failure = "no lock"
    remote.engine.resync()
    with pytest.raises(NotApplied, match="no lock"):
        remote("rpc_setup_network_on_host", network_id=network_id(1), teardown=False)
    remote.engine.failure = ""
    assert remote("rpc_setup_network_on_host", network_id=network_id(1), teardown=False) is None


def test_a_lease_is_released(remote: Remote) -> None:
    lease = {"dev": "br1", "address": "10.1.0.2", "vif_address": "FA:16:3E:00:00:01"}
    with pytest.raises(NotFound, match="br1"):
        remote("release_dhcp", **lease)
    remote.held(make_network(1))
    assert remote("release_dhcp", **lease) is None
    assert remote.released == [("br1", "10.1.0.1", "10.1.0.2", "fa:16:3e:00:00:01")]
    remote.release_error = PermissionError("no permission")
    with pytest.raises(ObjectFailed, match="no permission"):
        remote("release_dhcp", **lease)
    for without in (make_network(1, gateway=None), make_network(1, enable_dhcp=False)):
        remote.held(without)
        assert "no DHCP server" in remote("release_dhcp", **lease)
    assert len(remote.released) == 1


def test_a_lease_is_released_by_the_server_of_its_own_network(remote: Remote) -> None:
    remote.held(make_network(1, enable_dhcp=False), make_network(2, bridge="br1"), make_network(3, bridge="br1"))
    lease = {"dev": "br1", "vif_address": "fa:16:3e:00:00:01"}
    for number in (2, 3):
        assert remote("release_dhcp", address=f"10.{number}.0.2", **lease) is None
        assert remote.released[-1][1:3] == (f"10.{number}.0.1", f"10.{number}.0.2")
    remote.held(make_network(4), make_network(5, bridge="br1", cidr=None, gateway=None))
    for elsewhere in ("10.4.0.2", "192.0.2.1"):
        with pytest.raises(NotFound, match=f"address: no network on br1 holds {elsewhere}"):
            remote("release_dhcp", address=elsewhere, **lease)
    assert len(remote.released) == 2


@pytest.mark.parametrize(
    ("method", "message", "field"),
    [
        ("_associate_floating_ip", {**ASSOCIATE, "floating_address": "2001:db8::1"}, "floating_address"),
        ("_associate_floating_ip", {**ASSOCIATE, "fixed_address": None}, "fixed_address"),
        ("_associate_floating_ip", {**ASSOCIATE, "interface": "a b"}, "interface"),
        ("_associate_floating_ip", {**ASSOCIATE, "interface": 5}, "interface"),
        ("_associate_floating_ip", {**ASSOCIATE, "instance_uuid": "one"}, "instance_uuid"),
        ("_associate_floating_ip", {"floating_address": FLOATING}, "fixed_address"),
        ("_disassociate_floating_ip", {"address": 7}, "address"),
        ("_disassociate_floating_ip", {"address": FLOATING, "host": "node-1"}, "host"),
        ("migrate_instance_start", {**MIGRATE, "instance_uuid": None}, "instance_uuid"),
        ("migrate_instance_start", {**MIGRATE, "floating_addresses": FLOATING}, "floating_addresses"),
        ("migrate_instance_finish", {**MIGRATE, "floating_addresses": [FLOATING, "x"]}, "floating_addresses[1]"),
        ("setup_networks_on_host", {"instance_id": 5, "host": "node-1", "teardown": False}, "instance_id"),
        ("setup_networks_on_host", {"instance_id": 5, "host": "node-1", "instance": {"id": 5}}, "instance"),
        ("setup_networks_on_host", {"instance_id": 5, "host": "x", "instance": {"uuid": "x"}}, "instance.uuid"),
        ("setup_networks_on_host", {"instance_id": instance_id(1), "host": "node-1", "teardown": "no"}, "teardown"),
        ("rpc_setup_network_on_host", {"network_id": None}, "network_id"),
        ("rpc_setup_network_on_host", {"network_id": True}, "network_id"),
        ("rpc_setup_network_on_host", {"network_id": "9" * 5000}, "network_id"),
        ("update_dns", {"network_ids": 7}, "network_ids"),
        ("update_dns", {"network_ids": [7, "seven"]}, "network_ids[1]"),
        ("release_dhcp", {"dev": "br1", "address": "10.1.0.2", "vif_address": "x"}, "vif_address"),
        ("release_dhcp", {"dev": "a b", "address": "10.1.0.2", "vif_address": "fa:16:3e:00:00:01"}, "dev"),
    ],
)
def test_a_bad_argument_is_named(remote: Remote, method: str, message: dict[str, Any], field: str) -> None:
    remote.held(make_network(1))
    served = remote.engine.served
    with pytest.raises(BadArgument) as raised:
        remote(method, **message)
    assert raised.value.kwargs == {"field": field}
    assert str(raised.value).startswith(f"{field}: ")
    assert remote.engine.served == served


def test_errors_bear_the_names_that_novas_client_knows() -> None:
    for error, name in ((NotFound("x"), "NotFound"), (bad("f", "x"), "Invalid")):
        made = as_nova(error)
        assert (type(made).__module__, type(made).__name__) == ("nova.exception", name)
        assert str(made) == str(error)
        assert isinstance(made, type(error))
