"""What a call comes to: requests for the engine, and the answer once it has served them."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nova_netagent.engine import Change, Look
from nova_netagent.model import values
from nova_netagent.rpc.errors import bad

Request = Change | Look[Any]


@dataclass(frozen=True)
class Asked:
    """Requests, and what is made of their results.

    :ivar requests: given to the engine together, in this order.
    :ivar answer: of their results, in order, makes what is answered, or what is asked next.
    :ivar undo: given to the engine if it comes to an error; nobody waits for them.
    """

    requests: tuple[Request, ...] = ()
    answer: "Callable[..., Asked | object]" = lambda *_: None
    undo: tuple[Request, ...] = ()


Method = Callable[..., Asked]


def call(method: Method, arguments: Mapping[str, Any]) -> Asked:
    """Call a method with arguments as they came.

    :raises BadArgument: one is missing, or is none of the method's.
    """
    known = inspect.signature(method).parameters
    for name in arguments:
        if name not in known:
            these = f"these are: {', '.join(known)}" if known else "there are none"
            raise bad(name[: values.SHOWN], f"is not an argument here; {these}")
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise bad(name, "is required")
    return method(**arguments)
