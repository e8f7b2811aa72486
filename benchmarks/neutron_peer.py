"""neutron's own security group agent with its iptables driver, run in neutron's environment.

Real are the agent, the driver, IptablesManager and IpsetManager, unmodified, and the server's
SecurityGroupInfoAPIMixin, which answers from memory (its time is not counted). privsep runs in
this process, without a daemon of its own.
"""

import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

SIZE, SHARED, RULES, RUNS = map(int, sys.argv[1:5])
sys.argv = ["neutron-linuxbridge-agent"]
FOLDER = tempfile.mkdtemp()
for family in ("iptables", "ip6tables"):
    for what in ("", "-save", "-restore"):
        os.symlink(f"/usr/sbin/{family}-legacy{what}", f"{FOLDER}/{family}{what}")
os.environ["PATH"] = f"{FOLDER}:{os.environ['PATH']}"

import eventlet  # noqa: E402

eventlet.monkey_patch()
from neutron import privileged  # noqa: E402
from neutron.common import config as common_config  # noqa: E402
from neutron.conf.agent import common as agent_conf  # noqa: E402
from oslo_config import cfg  # noqa: E402

common_config.register_common_config_options()
agent_conf.register_root_helper(cfg.CONF)
agent_conf.register_agent_state_opts_helper(cfg.CONF)
agent_conf.register_iptables_opts(cfg.CONF)
for context in ("default", "dhcp_release_cmd", "ovs_vsctl_cmd", "namespace_cmd", "conntrack_cmd", "link_cmd"):
    getattr(privileged, context).set_client_mode(False)
from neutron.agent import securitygroups_rpc  # noqa: E402
from neutron.db import securitygroups_rpc_base as server  # noqa: E402

cfg.CONF([], project="neutron")
cfg.CONF.set_override("root_helper", "", "AGENT")
cfg.CONF.set_override("lock_path", FOLDER, "oslo_concurrency")
cfg.CONF.set_override("firewall_driver", "iptables", "SECURITYGROUP")


def device(number):
    """The tap of port N."""
    return f"tap{0xA0000000 + number:08x}-{number % 256:02x}"


def group(number):
    """The id of group N."""
    return f"{number:08x}-aaaa-4bbb-8ccc-dddddddddddd"


def rules(of):
    """Egress as neutron's default group has it, and ingress as this project's benchmark."""
    found = [{"direction": "egress", "ethertype": kind, "security_group_id": of} for kind in ("IPv4", "IPv6")]
    for index in range(RULES):
        found.append(
            {
                "direction": "ingress",
                "ethertype": "IPv4",
                "security_group_id": of,
                "protocol": "tcp" if index % 3 else "udp",
                "port_range_min": 1000 + index,
                "port_range_max": 1000 + index,
                "remote_ip_prefix": f"203.0.{index % 250}.0/24",
            }
        )
    return found


class Server(server.SecurityGroupInfoAPIMixin):
    """The server's answers, from memory."""

    def __init__(self):
        self.ports, self.groups, self.spent = {}, {}, 0.0

    def add(self, number):
        """One port more."""
        own = group((number - 1) // SHARED + 1)
        self.groups.setdefault(own, rules(own))
        self.ports[device(number)] = {
            "device": device(number),
            "id": device(number),
            "network_id": "5f0b3b0a-1111-4222-8333-444455556666",
            "mac_address": f"fa:16:3e:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}",
            "fixed_ips": [f"10.1.{number // 250}.{number % 250 + 2}"],
            "allowed_address_pairs": [],
            "port_security_enabled": True,
            "device_owner": "compute:nova",
            "profile": {},
            "security_groups": [own],
            "security_group_rules": [],
            "security_group_source_groups": [],
            "security_group_remote_address_groups": [],
        }
        return device(number)

    def _select_rules_for_ports(self, context, ports):
        return [
            (port["id"], each) for port in ports.values() for of in port["security_groups"] for each in self.groups[of]
        ]

    def _select_sg_ids_for_ports(self, context, ports):
        return [(of,) for port in ports.values() for of in port["security_groups"]]

    def _select_ips_for_remote_group(self, context, ids):
        return {of: set() for of in ids}

    def _select_ips_for_remote_address_group(self, context, ids):
        return {}

    def _get_sgs_stateful_flag(self, context, ids):
        return dict.fromkeys(ids, True)

    def security_group_info_for_devices(self, context, devices):
        start = time.perf_counter()
        found = {name: copy.deepcopy(self.ports[name]) for name in devices if name in self.ports}
        answer = self.security_group_info_for_ports(context, found)
        answer["sg_member_ips"] = {
            of: {kind: [list(ip) for ip in ips] for kind, ips in kinds.items()}
            for of, kinds in answer["sg_member_ips"].items()
        }
        answer = json.loads(json.dumps(answer))
        self.spent += time.perf_counter() - start
        return answer


class Context:
    """Nobody's."""


rpc = Server()
agent = securitygroups_rpc.SecurityGroupAgentRpc(Context(), rpc, defer_refresh_firewall=True)


def spent(names):
    """Milliseconds that the agent takes for new ports, the server's own time apart."""
    rpc.spent = 0.0
    start = time.perf_counter()
    agent.setup_port_filters(set(names), set())
    return (time.perf_counter() - start - rpc.spent) * 1000


def resident():
    """The resident memory of this process, in MiB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) / 1024


cold = spent([rpc.add(number) for number in range(1, SIZE + 1)])
lines = subprocess.run(["iptables-save", "-t", "filter"], capture_output=True, text=True, check=True).stdout
one_more = [spent([rpc.add(SIZE + number)]) for number in range(1, RUNS + 1)]
found = {"cold": cold, "one_more": statistics.median(one_more), "rules": lines.count("\n-A"), "memory": resident()}
print(json.dumps(found), flush=True)
os._exit(0)
