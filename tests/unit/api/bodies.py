"""Random bodies: any JSON, and good bodies with something spoilt."""

import copy
from typing import Any

from hypothesis import strategies as st

_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ("tcp", "TCP", "icmp", "0", "255", "256", "IPv4", "ingress", "10.0.0.0/8", "10.0.0.1", "::1", "fd00::/64",
         "fe80::1", "fa:16:3e:00:00:01", "01:00:5e:00:00:01", "br0", "a" * 16, "\0", "\ud800",
         "e0000001-0000-4000-8000-000000000001", "E0000001-0000-4000-8000-00000000000A", "1.2.3.4/32", "010.0.0.1",
         "1.2.3.4\n", "\uff11", "")
    )
    | st.sampled_from((0, 1, 22, 67, 68, 255, 256, 1280, 4094, 4095, 65535, 65536, 2**63 - 1, 2**63, -1, 5.0))
)  # fmt: skip
_names = st.sampled_from(
    ("id", "label", "bridge", "cidr", "gateway", "vifs", "rules", "networks", "instances", "fixed_ips", "revision",
     "security_groups", "protocol", "port_range_min", "mtu", "status", "x")
)  # fmt: skip

anything = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
"""Any JSON, with names and values of ours more often than chance has it."""


@st.composite
def mutated(draw: st.DrawFn, body: Any) -> Any:
    """A body with up to three of its parts replaced, dropped, doubled or added."""
    body = copy.deepcopy(body)
    for _ in range(draw(st.integers(0, 3))):
        holder, key = draw(st.sampled_from(_places(body)))
        match draw(st.sampled_from(("replace", "replace", "drop", "add", "double"))):
            case "replace":
                holder[key] = draw(anything)
            case "drop":
                del holder[key]
            case "add" if isinstance(holder, dict):
                holder[draw(_names)] = draw(anything)
            case "double" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
        if not _places(body):
            return body
    return body


def _places(body: Any) -> list[tuple[Any, Any]]:
    """Every place below a body: what holds it, and its key there."""
    keys = list(body) if isinstance(body, dict) else list(range(len(body))) if isinstance(body, list) else []
    return [found for key in keys for found in ((body, key), *_places(body[key]))]
