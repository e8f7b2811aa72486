"""What oslo.messaging does not tell: whether the server is connected, and since which connection.

It has no public word for it, so this looks inside, and where nothing is found (a driver without
connections, another version of it) the server counts as connected once it has started.
"""

from typing import Any


def connection_of(server: Any) -> object | None:
    """The connection by which a server hears now: another object after every reconnection, None without one.

    One on which the broker does not give it its queues is none: nothing comes by it.
    """
    listener = getattr(server, "listener", None)
    if listener is None:
        return None
    listening = _inside(listener, "_poll_style_listener", "conn")
    kombu = _inside(listening, "connection", "connection")
    if kombu is None:
        return listener  # type: ignore[no-any-return]
    if getattr(listening, "_new_tags", None):  # the queues that it has yet to be given
        return None
    transport = getattr(kombu, "_connection", None)
    return transport if transport is not None and kombu.connected else None


def _inside(thing: Any, *names: str) -> Any:
    for name in names:
        thing = getattr(thing, name, None)
        if thing is None:
            return None
    return thing
