"""check-config, cleanup: what needs no running agent. The agent's own modules are imported when asked for."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nova_netagent.ctl.outcome import FAILED, OK, USAGE, Failure
from nova_netagent.ctl.place import socket_path
from nova_netagent.ctl.screen import complain
from nova_netagent.ctl.session import Session

if TYPE_CHECKING:
    from nova_netagent.settings import ApiSettings


def check_config(session: Session) -> int:
    """``check-config``: as the agent does at its start, but for what can only be found by doing it."""
    from nova_netagent import conf, local
    from nova_netagent.api.sockets import ListenFailed, is_taken

    opts = conf.new_options()
    try:
        settings = local.load(session.config_files, session.args.config_dir, opts)
        is_taken(Path(settings.api.socket))
        if settings.rpc.enabled:
            _check_transport(opts)
        if settings.api.bind_host is not None:
            _check_tcp(settings.api, opts)
    except (conf.ConfigError, ListenFailed) as error:
        raise Failure(USAGE, str(error)) from None
    files = session.config_files + list(session.args.config_dir)
    if session.screen.json:
        import json

        session.screen.line(json.dumps({"ok": True, "files": files}))
    else:
        session.screen.line(f"{', '.join(files) or 'no configuration file, the defaults'}: ok")
    return OK


def _check_tcp(api: "ApiSettings", opts: Any) -> None:
    from nova_netagent.api.agent import at_once
    from nova_netagent.api.tcp import gate
    from nova_netagent.api.tls import server_context

    server_context(api)
    gate(api, opts, at_once)


def _check_transport(opts: Any) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # eventlet's, that it is deprecated
        from nova_netagent.rpc.transport import open_transport
    open_transport(opts)


def cleanup(session: Session) -> int:
    """``cleanup``: everything of ours out of the kernel, without asking."""
    from nova_netagent.backend import BackendError
    from nova_netagent.store import StoreError

    settings = session.settings(needs_my_ip=False)
    from nova_netagent import capabilities
    from nova_netagent import cleanup as removal
    from nova_netagent.api.sockets import somebody_listens

    lacking = capabilities.lacking(capabilities.REQUIRED, capabilities.effective())
    if lacking:
        raise Failure(FAILED, f"be root: {'; '.join(lacking)}")
    path = socket_path(session.args.socket or settings.api.socket, ())
    if somebody_listens(path):
        complain(f"an agent is running ({path}) and will put everything back")
    left = ""
    try:
        lines: Sequence[str] = removal.run(settings)
    except removal.Unfinished as error:
        lines, left = error.done, str(error)
    except (BackendError, StoreError, OSError) as error:
        raise Failure(FAILED, str(error)) from None
    if session.screen.json:
        import json

        session.screen.line(json.dumps({"removed": lines}))
    elif lines or not left:
        session.screen.line("\n".join(lines) or "there was nothing of ours")
    if left:
        raise Failure(FAILED, left)
    return OK
