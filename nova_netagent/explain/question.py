"""What is asked: a packet, as far as whoever asks knows it."""

import re
from typing import Annotated, Literal

from msgspec import Meta

from nova_netagent.backend.trace import Watched
from nova_netagent.model import protocols, values
from nova_netagent.model.objects import Body, Interface, Invalid, Mac, Protocol
from nova_netagent.netfilter.packet import Packet
from nova_netagent.netfilter.text import end_text

_BRACKETED = re.compile(r"\[([^\]]*)\](?::([0-9]+))?\Z")
_WITH_PORT = re.compile(r"([^:]*):([0-9]+)\Z")
_ECHO_REQUEST = {protocols.ICMP: 8, protocols.ICMPV6: 128}
_OPENING = {protocols.ICMP: frozenset({8, 13, 15, 17}), protocols.ICMPV6: frozenset({128, 139})}
"""The messages that open a flow (nf_conntrack_proto_icmp.c, nf_conntrack_proto_icmpv6.c)."""
_UNTRACKED_ICMPV6 = frozenset({130, 131, 132, 133, 134, 135, 136, 143})

End = Annotated[str, Meta(description="An address, with a port as 192.0.2.1:80 or [2001:db8::1]:80")]
TypeOrCode = Annotated[int, Meta(ge=0, le=255)]
TrackingState = Literal["NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED"]


class Question(Body, frozen=True, kw_only=True):
    """What becomes of this packet?"""

    proto: Protocol
    src: End
    dst: End
    in_dev: Interface | None = None
    """The link by which it comes: a bridge port or another; by default told from its source."""
    out_dev: Interface | None = None
    """The bridge port by which it leaves, for what goes to many; by default the host's own copy is meant."""
    state: TrackingState | None = None
    """How connection tracking sees it; by default as the first packet of its kind."""
    icmp_type: TypeOrCode | None = None
    icmp_code: TypeOrCode | None = None
    mac: Mac | None = None
    """The MAC that it is sent from; by default that of its sender."""
    routed: bool = False
    """Its frame is addressed to the host, although its destination is on the same bridge."""

    def __post_init__(self) -> None:
        self._set("proto", _one_protocol)
        self._set("in_dev", values.interface)
        self._set("out_dev", values.interface)
        self._set("mac", values.mac)
        for field in ("src", "dst"):
            self._set(field, lambda text: end_text(*parse_end(text)))
        source, destination = self.source, self.destination
        if (":" in source[0]) != (":" in destination[0]):
            raise Invalid("dst", f"{destination[0]} is not of the family of {source[0]}")
        if self.family == 6 and self.number in protocols.IPV6_EXTENSIONS:
            raise Invalid("proto", f"{self.proto} is an extension header of IPv6: name the protocol behind it")
        if self.number not in protocols.WITH_PORTS:
            for field, (_, port) in (("src", source), ("dst", destination)):
                if port is not None:
                    raise Invalid(field, f"protocol {self.proto} has no ports")
        if self.number not in protocols.WITH_TYPES:
            for field in ("icmp_type", "icmp_code"):
                if getattr(self, field) is not None:
                    raise Invalid(field, f"protocol {self.proto} has none")

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.source[0] else 4

    @property
    def number(self) -> int:
        """The protocol's number; ``icmp`` is ICMPv6 between IPv6 addresses."""
        return protocols.number(self.proto, self.family) or 0

    @property
    def source(self) -> tuple[str, int | None]:
        """Address and port."""
        return parse_end(self.src)

    @property
    def destination(self) -> tuple[str, int | None]:
        """Address and port."""
        return parse_end(self.dst)

    @property
    def packet(self) -> Packet:
        """The packet as it is sent."""
        icmp = self._icmp
        state = self.state or self._first_state(icmp)
        return Packet(
            source=self.source[0],
            destination=self.destination[0],
            protocol=self.number,
            source_port=self.source[1],
            destination_port=self.destination[1],
            icmp=icmp,
            mac_source=self.mac,
            states=frozenset({state}),
            opens=state in ("NEW", "INVALID"),
        )

    @property
    def watched(self) -> Watched:
        """The real packets that are meant: of any source port and state, as who asks rarely knows these."""
        icmp = self._icmp
        return Watched(
            self.source[0], self.destination[0], self.number, self.destination[1], None if icmp is None else icmp[0]
        )

    @property
    def _icmp(self) -> tuple[int, int] | None:
        if self.number not in protocols.WITH_TYPES:
            return None
        kind = _ECHO_REQUEST[self.number] if self.icmp_type is None else self.icmp_type
        return kind, self.icmp_code or 0

    def _first_state(self, icmp: tuple[int, int] | None) -> TrackingState:
        """What connection tracking makes of the first packet of its kind."""
        if self.number == protocols.UDPLITE:
            return "INVALID"  # it takes the checksum for UDP's
        if self.family == 6 and self.number == protocols.IPV6_NONXT:
            return "INVALID"  # it asks for what comes next (ipv6_skip_exthdr)
        if icmp is None or icmp[0] in _OPENING[self.number]:
            return "NEW"
        return "UNTRACKED" if self.number == protocols.ICMPV6 and icmp[0] in _UNTRACKED_ICMPV6 else "INVALID"


def _one_protocol(given: str | int) -> str | int:
    """A protocol, unless it is one of the names by which rules mean all of them."""
    protocol = protocols.parse(given)
    if protocol in ("any", "ip"):
        raise ValueError(f"{protocol} is every protocol to a rule, and a packet is of one")
    return protocol


def parse_end(text: str) -> tuple[str, int | None]:
    """Address and port of ``192.0.2.1``, ``192.0.2.1:80``, ``2001:db8::1`` or ``[2001:db8::1]:80``.

    :raises ValueError: it is none of them.
    """
    found = _BRACKETED.match(text) or _WITH_PORT.match(text)
    address, port = (text, None) if found is None else (found[1], found[2])
    if port is not None and (len(port) > 9 or int(port) > 65535):
        raise ValueError(f"{port[: values.SHOWN]} is not a port: 0 to 65535")
    try:
        return values.ip(address), None if port is None else int(port)
    except ValueError:
        raise ValueError(f"{values.shown(text)} is not an address, nor ADDRESS:PORT (IPv6: [ADDRESS]:PORT)") from None
