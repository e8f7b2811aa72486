"""What is told of the packets of groups that are logged (``[security_group_log]``), and how it is told apart.

A group that is logged leads what it allows to a chain that tells first, so that its rules stay as
they are; what no group of a vif lets through is told just before it is refused. Both are limited.
"""

from typing import Literal

from nova_netagent.compile.resolve import Direction, Port
from nova_netagent.netfilter.owner import digest
from nova_netagent.netfilter.rule import Limit, Log, Rule
from nova_netagent.settings import SecurityGroupLogSettings

Logged = Literal["accept", "drop"]

_DIGITS = 16


def mark(id_: str) -> str:
    """An id in a prefix, in which there is no room for every id."""
    return digest(id_)[:_DIGITS]


def prefix(verdict: Logged, direction: Direction, id_: str) -> str:
    """By which a packet is told apart: of what is accepted the group, of what is dropped the instance."""
    return f"{verdict} {direction} {mark(id_)}"


def rule(settings: SecurityGroupLogSettings, verdict: Logged, direction: Direction, id_: str) -> Rule:
    """The rule that tells."""
    limit = Limit(settings.rate, settings.rate)
    return Rule(Log(settings.nflog_group, prefix(verdict, direction, id_)), matches=(limit,))


def is_refusal_logged(settings: SecurityGroupLogSettings, port: Port) -> bool:
    """Whether what none of a vif's groups lets through is told."""
    return bool(settings.groups) and any(settings.logs(group.id, "drop") for group in port.groups)
