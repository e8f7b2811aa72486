"""What of the desired state can be done: references looked up, claims settled, problems named.

What refers to something that is not there is pending, what contradicts something older
is in error, and both fail closed for the part concerned only. Nothing here knows rules.
"""

from nova_netagent.compile.resolve.floating_ips import METADATA_ADDRESS
from nova_netagent.compile.resolve.groups import who_names
from nova_netagent.compile.resolve.resolved import Direction, Group, Judge, Port, Problem, Resolved, Side
from nova_netagent.compile.resolve.resolving import resolve

__all__ = [
    "METADATA_ADDRESS",
    "Direction",
    "Group",
    "Judge",
    "Port",
    "Problem",
    "Resolved",
    "Side",
    "resolve",
    "who_names",
]
