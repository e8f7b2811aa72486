"""What a caller is told when its call is not done.

oslo.messaging carries an exception as the names of its module and class, its message and its
``kwargs``. A caller that allows this module (``allowed_remote_exmods``) catches these classes;
any other gets a RemoteError whose ``exc_type`` is the name of the class.
"""

from nova_netagent.api.agent import Unanswered
from nova_netagent.api.errors import ObjectFailed
from nova_netagent.api.wire import BadRequest
from nova_netagent.backend import BackendError
from nova_netagent.engine import NotApplied as EngineNotApplied
from nova_netagent.events import LateRevision
from nova_netagent.store import StoreError


class RpcError(Exception):
    """A call was not done."""

    RESULT = "failed"
    """How it is counted."""

    def __init__(self, message: str = "", **kwargs: object) -> None:
        super().__init__(message)
        self.kwargs = kwargs


class BadArgument(RpcError):
    """An argument cannot be meant; nothing changed. ``kwargs["field"]`` names it, and so does the message."""

    RESULT = "refused"


class NotFound(RpcError):
    """The agent holds no such object; nothing changed."""

    RESULT = "refused"


class Late(RpcError):
    """The revision is behind what is known: the call changes nothing."""

    RESULT = "refused"


class NotApplied(RpcError):
    """The kernel or the disk does not have it; a change that is on disk is retried."""


class Failed(RpcError):
    """The agent failed to answer; its log has the reason."""


def bad(field: str, reason: str) -> BadArgument:
    """An argument's refusal."""
    return BadArgument(f"{field}: {reason}", field=field)


def as_rpc(error: Exception) -> RpcError:
    """What an error is to a caller; one that nobody expected tells nothing of the agent's inside."""
    match error:
        case RpcError():
            return error
        case BadRequest():
            return BadArgument(str(error), field=error.field)
        case LateRevision():
            return Late(str(error))
        case EngineNotApplied() | StoreError() | BackendError() | ObjectFailed() | Unanswered():
            return NotApplied(str(error))
        case _:
            return Failed("the agent failed to answer; its log has the reason")


def as_nova(error: RpcError) -> RpcError:
    """The same under the name by which nova's client raises it: a class of ``nova.exception``."""
    name = {BadArgument: "Invalid", NotFound: "NotFound"}.get(type(error), "NovaException")
    made = type(name, (type(error),), {"__module__": "nova.exception"})
    return made(str(error), **error.kwargs)  # type: ignore[no-any-return]
