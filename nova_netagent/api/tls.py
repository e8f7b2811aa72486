"""TLS of the API over TCP: the agent's certificate, and the authority whose clients are let in."""

import ssl

from nova_netagent.conf import ConfigError
from nova_netagent.settings import ApiSettings


def server_context(api: ApiSettings) -> ssl.SSLContext | None:
    """What connections are spoken over; ``None`` where TLS is off.

    :raises ConfigError: a file cannot be used; the message names its option.
    """
    if api.cert_file is None or api.key_file is None:
        return None
    for option in ("cert_file", "key_file", "ca_file"):
        _refuse_unreadable(option, getattr(api, option))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # it costs the client nothing and the server a handshake
    # What is cut off is seen by its length; who only has nothing more to ask gets the answer.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    try:
        context.load_cert_chain(api.cert_file, api.key_file, password=_no_password)
    except (OSError, ValueError) as error:
        where = f"[api] cert_file = {api.cert_file}, key_file = {api.key_file}"
        raise ConfigError(f"{where}: no certificate and its key: {_reason(error)}") from error
    if api.ca_file is not None:
        try:
            context.load_verify_locations(api.ca_file)
        except (OSError, ValueError) as error:
            raise ConfigError(f"[api] ca_file = {api.ca_file}: no certificates: {_reason(error)}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _refuse_unreadable(option: str, path: str | None) -> None:
    """OpenSSL's own errors do not say which file it was."""
    if path is None:
        return
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        raise ConfigError(f"[api] {option} = {path}: {error.strerror}") from error


def _no_password() -> str:
    """OpenSSL would ask for one on the terminal."""
    raise ValueError("the key is encrypted")


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)
