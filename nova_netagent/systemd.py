"""Tell the service manager how we are: sd_notify(3), in the few lines that it takes."""

import os
import socket


def notify(*states: str) -> None:
    """Send states such as ``READY=1`` or ``STATUS=…``; nothing without a service manager."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(0.5)  # a manager that does not listen is not waited for
        try:
            sender.connect(address)
            sender.send("\n".join(states).encode())
        except OSError:
            return


def watchdog_seconds() -> float | None:
    """How often the service manager wants a sign of life, in seconds; ``None`` if it does not."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    watched = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(microseconds) / 1e6 if microseconds.isdigit() and watched else None
