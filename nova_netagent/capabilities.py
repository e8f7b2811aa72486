"""What this process may do (capabilities(7)), held against what the agent needs and what for."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

LOG = logging.getLogger(__name__)

STATUS = Path("/proc/self/status")


class Need(NamedTuple):
    """A capability's number in linux/capability.h, and what cannot be done without."""

    number: int
    purpose: str


REQUIRED: Mapping[str, Need] = {
    "CAP_NET_ADMIN": Need(12, "to edit rules, sets, links, addresses and sysctls of the network"),
    "CAP_NET_RAW": Need(13, "to open the raw socket through which legacy tables are edited, and to announce addresses"),
}
WANTED: Mapping[str, Need] = {
    "CAP_NET_BIND_SERVICE": Need(10, "to serve DHCP and DNS to instances"),
}


class Missing(Exception):
    """The agent cannot work without these."""


def effective(status: Path = STATUS) -> int:
    """The effective set of this process, as a mask."""
    fields = (line.split(":") for line in status.read_text().splitlines())
    return next(int(value, 16) for name, value in fields if name == "CapEff")


def lacking(needs: Mapping[str, Need], mask: int) -> list[str]:
    """What is not in a mask, and what it is for; a line each."""
    return [
        f"{name} is missing: it is needed {need.purpose}" for name, need in needs.items() if not mask >> need.number & 1
    ]


def require(status: Path = STATUS) -> None:
    """Warn of what is wanted and not there.

    :raises Missing: something is not there without which there is no agent.
    """
    mask = effective(status)
    for line in lacking(WANTED, mask):
        LOG.warning("%s", line)
    refused = lacking(REQUIRED, mask)
    if refused:
        raise Missing("; ".join(refused))
