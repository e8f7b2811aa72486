"""The transport of oslo.messaging, as the configuration names it; nothing is connected yet."""

from typing import Any

import oslo_messaging

from nova_netagent.conf import ConfigError, NoSuchOption, refuse_wrong_messaging


def open_transport(opts: Any) -> Any:
    """Load the driver of ``transport_url``, and judge oslo.messaging's own options.

    :raises ConfigError: the URL, the driver or an option cannot be used. No text of the URL is told: it has a password.
    """
    try:
        transport = oslo_messaging.get_rpc_transport(opts)
    except ImportError as error:
        raise ConfigError(f"[DEFAULT] transport_url: its driver cannot be had: {error}") from error
    except NoSuchOption as error:
        of_driver = error.group is not None and error.group.name.startswith("oslo_messaging_")
        reason = error if of_driver else "what follows a $ is no option; a $ itself is written $$"
        raise ConfigError(f"[DEFAULT] transport_url: {reason}") from error
    except (oslo_messaging.DriverLoadFailure, oslo_messaging.InvalidTransportURL, ValueError) as error:
        raise ConfigError(f"[DEFAULT] transport_url: {type(error).__name__}: it cannot be used") from error
    refuse_wrong_messaging(opts)
    return transport
