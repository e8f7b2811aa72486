#!/usr/bin/env python3
"""A small controller: one file describes a cloud of several hosts, and every host's agent is told its part by RPC.

    controller.py --transport-url rabbit://user:password@broker/ --cloud cloud.json COMMAND

    apply                            make every host what the file says
    migrate-start INSTANCE HOST      have HOST ready for an instance, and take its floating IPs off the host it leaves
    migrate-finish INSTANCE HOST     the hypervisor has moved it: floating IPs to HOST, nothing left where it was
    serve                            answer agents that ask for their state ([rpc] sync_on_connect)

The file holds bodies as the agents take them, and for each instance its host:

    {"hosts": ["host1", "host2"], "networks": [...], "security_groups": [...], "provider_rules": [...],
     "instances": [{"host": "host1", "id": ..., ...}], "floating_ips": [{"id": ..., "instance_id": ..., ...}]}

A group's members on other hosts, which an agent cannot know, are filled in here.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import oslo_messaging
from oslo_config import cfg

Body = dict[str, Any]

EXCEPTIONS = ["nova_netagent.rpc.errors"]
"""What agents raise, to be raised here as it is."""


class Cloud:
    """What the file says, and what follows from it for each host."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = json.loads(path.read_text())
        self.hosts: list[str] = self._read["hosts"]

    def instance(self, id_: str) -> Body:
        """One instance."""
        for each in self._read["instances"]:
            if each["id"] == id_:
                return dict(each)
        sys.exit(f"there is no instance {id_} in {self._path}")

    def floating_ips(self, instance: str) -> list[Body]:
        """The floating IPs of an instance."""
        return [each for each in self._read.get("floating_ips", []) if each["instance_id"] == instance]

    def state(self, host: str) -> Body:
        """Everything that a host must enforce."""
        here = [each["id"] for each in self._read["instances"] if each["host"] == host]
        return {
            "networks": self._read["networks"],
            "provider_rules": self._read.get("provider_rules", []),
            "security_groups": [self._group(each, host) for each in self._read["security_groups"]],
            "instances": [self._described(each) for each in self._read["instances"] if each["id"] in here],
            "floating_ips": [each for each in self._read.get("floating_ips", []) if each["instance_id"] in here],
        }

    def described(self, id_: str) -> Body:
        """An instance as an agent takes it."""
        return self._described(self.instance(id_))

    def move(self, id_: str, host: str) -> None:
        """An instance is on another host from now on."""
        for each in self._read["instances"]:
            if each["id"] == id_:
                each["host"] = host
        self._path.write_text(json.dumps(self._read, indent=2))

    def _described(self, instance: Body) -> Body:
        return {name: value for name, value in instance.items() if name != "host"}

    def _group(self, group: Body, host: str) -> Body:
        elsewhere = [each for each in self._read["instances"] if each["host"] != host]
        addresses = {
            address
            for each in elsewhere
            if group["id"] in each["security_groups"]
            for vif in each["vifs"]
            for address in vif["fixed_ips"]
        }
        return {**group, "members": sorted(addresses)}


class Agents:
    """The agents, each under its host's name."""

    def __init__(self, url: str) -> None:
        self.transport = oslo_messaging.get_rpc_transport(cfg.CONF, url=url, allowed_remote_exmods=EXCEPTIONS)
        target = oslo_messaging.Target(exchange="nova", topic="network")
        self._client = oslo_messaging.get_rpc_client(self.transport, target, timeout=60)

    def call(self, host: str, method: str, **arguments: Any) -> Any:
        """Call a method of the agent's own; it answers when the kernel of that host has it."""
        client = self._client.prepare(server=host, namespace="netagent", version="1.0")
        return client.call({}, method, **arguments)

    def nova(self, host: str, method: str, **arguments: Any) -> Any:
        """Call one of the methods that nova has for a host."""
        return self._client.prepare(server=host, version="1.2").call({}, method, **arguments)


def apply(cloud: Cloud, agents: Agents) -> None:
    """Tell every host all that it must enforce."""
    for host in cloud.hosts:
        answer = agents.call(host, "sync", state=cloud.state(host))
        print(f"{host}: {answer['change']}, {answer['counts']}")


def migrate_start(cloud: Cloud, agents: Agents, id_: str, host: str) -> None:
    """First the new host's rules, so that nothing is refused there; then the floating IPs leave the old one."""
    source = cloud.instance(id_)["host"]
    print(f"{host}: {agents.call(host, 'update', kind='instances', body=cloud.described(id_))['status']}")
    agents.nova(source, "migrate_instance_start", **_migration(cloud, id_, source, host))


def migrate_finish(cloud: Cloud, agents: Agents, id_: str, host: str) -> None:
    """The floating IPs come to the new host, the old one forgets the instance, and groups' members are told to all."""
    source = cloud.instance(id_)["host"]
    for each in cloud.floating_ips(id_):
        agents.call(host, "update", kind="floating_ips", body=each)
    agents.nova(host, "migrate_instance_finish", **_migration(cloud, id_, source, host))
    cloud.move(id_, host)
    apply(cloud, agents)


def _migration(cloud: Cloud, id_: str, source: str, host: str) -> Body:
    """A migration as nova tells of it."""
    return {
        "instance_uuid": id_,
        "rxtx_factor": 1.0,
        "project_id": None,
        "source": source,
        "dest": host,
        "floating_addresses": [each["id"] for each in cloud.floating_ips(id_)],
    }


class Answers:
    """What agents ask a controller for."""

    target = oslo_messaging.Target(namespace="netagent", version="1.0")

    def __init__(self, path: Path) -> None:
        self._path = path

    def get_host_state(self, _context: object, host: str) -> Body | None:
        """The whole state of a host; nothing for one that is none of ours."""
        cloud = Cloud(self._path)
        print(f"{host} asked", flush=True)
        return cloud.state(host) if host in cloud.hosts else None


def serve(path: Path, agents: Agents) -> None:
    """Answer to the end."""
    target = oslo_messaging.Target(exchange="nova", topic="netagent-controller", server="controller")
    server = oslo_messaging.get_rpc_server(agents.transport, target, [Answers(path)])
    server.start()
    print("serving", flush=True)
    server.wait()


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transport-url", required=True)
    parser.add_argument("--cloud", type=Path, required=True)
    parser.add_argument("--durable-queues", action="store_true", help="as the agents' [oslo_messaging_rabbit]")
    parser.add_argument("command", choices=["apply", "migrate-start", "migrate-finish", "serve"])
    parser.add_argument("arguments", nargs="*")
    asked = parser.parse_args()
    try:
        cloud = Cloud(asked.cloud)
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"--cloud {asked.cloud}: {error}")
    agents = Agents(asked.transport_url)
    if asked.durable_queues:
        cfg.CONF.set_override("amqp_durable_queues", True, "oslo_messaging_rabbit")
    match asked.command, asked.arguments:
        case "apply", []:
            apply(cloud, agents)
        case "migrate-start", [id_, host]:
            migrate_start(cloud, agents, id_, host)
        case "migrate-finish", [id_, host]:
            migrate_finish(cloud, agents, id_, host)
        case "serve", []:
            serve(asked.cloud, agents)
        case _:
            parser.error("migrations take an instance and a host; nothing else takes arguments")
    agents.transport.cleanup()


if __name__ == "__main__":
    main()
