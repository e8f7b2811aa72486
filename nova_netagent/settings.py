"""What the operator configured, as one frozen value. ``conf.py`` makes it from oslo.config."""

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct


class NetworkSettings(Struct, frozen=True):
    """``[network]``: SNAT, links, DHCP."""

    fixed_range: tuple[str, ...] = ()
    routing_source_ip: str | None = None
    public_interface: str | None = None
    force_snat_range: tuple[str, ...] = ()
    dmz_cidr: tuple[str, ...] = ()
    forward_bridge_interface: tuple[str, ...] = ("all",)
    flat_interface: str | None = None
    vlan_interface: str | None = None
    allow_same_net_traffic: bool = True
    send_arp_for_ha: bool = True
    send_arp_for_ha_count: int = 3
    share_dhcp_address: bool = False
    dhcp_domain: str = "novalocal"
    dhcp_lease_time: int = 86400
    dnsmasq_config_file: str | None = None
    dns_server: tuple[str, ...] = ()
    network_device_mtu: int | None = None
    manage_links: bool = True


class MetadataSettings(Struct, frozen=True):
    """``[metadata]``: where 169.254.169.254:80 leads."""

    metadata_host: str | None = None
    metadata_port: int = 8775


class FirewallSettings(Struct, frozen=True):
    """``[firewall]``: the backend and how it programs."""

    backend: Literal["auto", "iptables", "nftables"] = "auto"
    wrap_name: str = "nova-netagent"
    iptables_drop_action: str = "DROP"
    egress_default: Literal["allow", "deny"] = "allow"
    egress_mark: int = 0x10000000
    iptables_top_regex: str = ""
    iptables_bottom_regex: str = ""
    lock_timeout: float = 10.0
    resync_interval: float = 180.0
    coalesce_interval: float = 0.0


class SecurityGroupLogSettings(Struct, frozen=True):
    """``[security_group_log]``: what groups let in or out, and what none does."""

    groups: tuple[str, ...] = ()
    verdicts: Literal["accept", "drop", "all"] = "all"
    rate: int = 100
    nflog_group: int = 6400
    file: str = "/var/log/nova-netagent/security-groups.log"

    def logs(self, group_id: str, verdict: Literal["accept", "drop"]) -> bool:
        """Whether what becomes so of a packet of a group's members is logged."""
        return self.verdicts in (verdict, "all") and (group_id in self.groups or "all" in self.groups)


class ApiSettings(Struct, frozen=True):
    """``[api]``: where the HTTP API listens and whom it lets in."""

    socket: str = "/run/nova-netagent/api.sock"
    socket_mode: int = 0o660
    socket_group: str | None = None
    bind_host: str | None = None
    bind_port: int | None = None
    auth_strategy: Literal["noauth", "keystone"] = "noauth"
    cert_file: str | None = None
    key_file: str | None = None
    ca_file: str | None = None
    cert_writers: tuple[str, ...] = ()
    max_body_size: int = 1 << 20
    max_state_size: int = 64 << 20


class RpcSettings(Struct, frozen=True):
    """``[rpc]``: RabbitMQ through oslo.messaging."""

    enabled: bool = False
    topic: str = "network"
    exchange: str = "nova"
    sync_on_connect: bool = False
    sync_topic: str = "netagent-controller"


class Settings(Struct, frozen=True):
    """Everything configured. Defaults are those of a host where nothing is."""

    host: str = "localhost"
    state_path: str = "/var/lib/nova-netagent"
    my_ip: str | None = None
    use_ipv6: bool = True
    network: NetworkSettings = NetworkSettings()
    metadata: MetadataSettings = MetadataSettings()
    firewall: FirewallSettings = FirewallSettings()
    security_group_log: SecurityGroupLogSettings = SecurityGroupLogSettings()
    api: ApiSettings = ApiSettings()
    rpc: RpcSettings = RpcSettings()


def differences(kept: Struct, wanted: Struct, group: str = "") -> Iterator[str]:
    """The options by which two settings differ, as ``[group] option``."""
    for name in kept.__struct_fields__:
        old, new = getattr(kept, name), getattr(wanted, name)
        if isinstance(old, Struct):
            yield from differences(old, new, f"[{name}] ")
        elif old != new:
            yield f"{group}{name}"
