"""The address of this host itself: what its default route tells, and what it was when there was one."""

import ipaddress
import logging
import socket
from pathlib import Path

from nova_netagent.files import write_whole

LOG = logging.getLogger(__name__)

NOWHERE = "192.0.0.8"
"""The dummy address (RFC 7600): nobody has it, so that a packet to it would take the default route."""


def of_default_route() -> str | None:
    """The source address that the kernel would choose towards the outside; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((NOWHERE, 9))
            return str(probe.getsockname()[0])
        except OSError:
            return None


def remembered(state_path: str) -> str | None:
    """The address that ``remember`` was told last, if that can be read."""
    try:
        return str(ipaddress.IPv4Address(_file(state_path).read_text().strip()))
    except (OSError, ValueError):
        return None


def remember(state_path: str, address: str) -> None:
    """Have it known at a start that finds no default route. A full disk hinders nothing."""
    if remembered(state_path) == address:
        return
    file = _file(state_path)
    try:
        write_whole(file, f"{address}\n")
    except OSError as error:
        LOG.warning("%s: %s: a start without a default route will need [DEFAULT] my_ip", file, error.strerror)


def _file(state_path: str) -> Path:
    return Path(state_path) / "my_ip"
