"""What nft(8) shows beside the chains that are there for everybody; an object's own say it in their rules."""

from collections.abc import Mapping

_COMMENTS: Mapping[str, str] = {
    "local": "to which instance: bridged frames by port, routed packets by address",
    "ports": "to which vif, by its bridge port",
    "provider": "what the provider says of every instance",
    "discovery": "neighbour discovery and DHCPv6 that every instance hears",
    "sg-fallback": "what no group lets in",
    "m-ports": "which vif sends, by its bridge port: those whose groups judge what they send",
    "m-sg-fallback": "what no group lets out",
    "m-cut": "connections that were cut",
    "services": "DHCP, neighbour discovery and metadata, for which no group is asked",
    "egress-ok": "it may leave: marked as judged",
    "egress-done": "the mark is taken off again",
    "senders": "which vif sends: from an address of its own, by its bridge port and with its MAC",
    "r-ports": "which vif sends, by its bridge port: what no address proves",
    "r-discovery": "what a vif without IPv6 may say all the same",
    "no-server": "no vif serves DHCP or says that it is a router",
    "unspecified": "what may be said by who has no address yet",
    "zones": "frames of networks that are not routed here",
    "snat": "as whom packets leave, after everybody's exemptions",
    "float-snat": "as which floating IP they leave",
}
"""By the chain's name in nf_tables, without the wrap name."""


def comment_of(physical: str, wrap_name: str) -> str | None:
    """The comment of a chain, if it is one of these."""
    head = f"{wrap_name}-"
    return _COMMENTS.get(physical.removeprefix(head)) if physical.startswith(head) else None
