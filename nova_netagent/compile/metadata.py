"""The way to the metadata service: 169.254.169.254:80 leads to metadata_host:metadata_port."""

from nova_netagent.compile.parts import Placed, Scope
from nova_netagent.compile.resolve import METADATA_ADDRESS
from nova_netagent.model import values
from nova_netagent.model.protocols import TCP
from nova_netagent.netfilter.rule import ACCEPT, Dnat, Family, LocalAddress, Ports, Redirect, Rule

METADATA_IP = values.host(METADATA_ADDRESS)
METADATA_PORT = 80
LOOPBACK = ("127.0.0.1", "::1")


def place(scope: Scope, placed: Placed) -> None:
    """Rewrite what is sent to the metadata address, and let it in on this host.

    A service on 127.0.0.1 is reached by REDIRECT, as in nova: a packet that was DNATed to
    127/8 would be a martian.
    """
    host = scope.settings.metadata.metadata_host
    if host is None:
        return
    family: Family = 6 if ":" in host else 4
    loopback = host in LOOPBACK
    port = scope.settings.metadata.metadata_port
    if family == 4:
        target = Redirect(port) if loopback else Dnat(host, port)
        placed.add(
            4,
            "nat",
            scope.chain("PREROUTING"),
            Rule(
                target,
                destination=METADATA_IP,
                protocol=TCP,
                matches=(Ports("tcp", destination=(METADATA_PORT, METADATA_PORT)),),
                origin=("metadata", "", ""),
            ),
        )
    if family in scope.families:
        placed.add(family, "filter", scope.chain("INPUT"), _accept(host, port, loopback))


def _accept(host: str, port: int, loopback: bool) -> Rule:
    to_port = Ports("tcp", destination=(port, port))
    return Rule(
        ACCEPT,
        destination=None if loopback else values.host(host),
        protocol=TCP,
        matches=(to_port, LocalAddress()) if loopback else (to_port,),
        origin=("metadata", "", ""),
    )
