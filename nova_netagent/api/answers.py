"""What the API answers, beside the objects themselves. OpenAPI describes these very classes."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Literal, get_args

from msgspec import Struct, json

from nova_netagent.engine import Answer
from nova_netagent.history import Attempt
from nova_netagent.model import KINDS, Key
from nova_netagent.status import State, View

STATES: tuple[str, ...] = get_args(State)
MOST_TROUBLES = 100
"""How many objects that are not done a status names."""

Counts = Mapping[str, int]


class Problem(Struct, frozen=True):
    """Why a request was not done."""

    code: int
    """The HTTP status."""
    title: str
    message: str
    field: str | None = None
    """The field of the body or the query parameter at fault; null where it is none of them."""


class Error(Struct, frozen=True):
    """What every refused or failed request is answered with."""

    error: Problem


class Link(Struct, frozen=True):
    """Where something else is."""

    rel: str
    href: str


class Version(Struct, frozen=True):
    """One version of the API."""

    id: str
    status: str
    links: tuple[Link, ...]


class VersionAnswer(Struct, frozen=True):
    """One version, as OpenStack's services answer it at its own path."""

    version: Version


class Versions(Struct, frozen=True):
    """Which program answers, and which versions of the API it speaks."""

    name: str
    version: str
    versions: tuple[Version, ...]


class Health(Struct, frozen=True):
    """The agent is well; if it is not, the answer is an Error with the reason."""

    ok: bool = True


class Plan(Struct, frozen=True):
    """What would change in the kernel, a line each; empty when it agrees."""

    plan: Sequence[str]


class Kept(Struct, frozen=True):
    """An object that is newer here than the state that was sent: it stays as it is."""

    kind: str
    id: str
    message: str


class StatePlan(Struct, frozen=True):
    """What a whole state would change in the kernel, a line each."""

    plan: Sequence[str]
    kept: Sequence[Kept]
    """The objects that would stay as they are, though the state says otherwise."""


class Repairs(Struct, frozen=True):
    """What a resync found changed by somebody else and put right, a line each."""

    repaired: Sequence[str]


class StateChanged(Struct, frozen=True):
    """What became of a whole state that was sent."""

    change: Literal["updated", "unchanged"]
    counts: Counts
    """How many objects are in each state."""
    kinds: Mapping[str, Counts]
    """The same for each kind."""
    kept: Sequence[Kept]
    """The objects that stayed as they are, though the state says otherwise."""


class LiveRule(Struct, frozen=True):
    """A rule as the kernel has it."""

    packets: int | None
    """That it matched so far; null where it is not counted alone."""
    bytes: int | None
    rule: str
    origin: tuple[str, str, str] | None = None
    """What it is there for: a kind, an object's id and a part of it; null where it is not ours."""
    owner: str | None = None
    """The same in words."""
    target: str | None = None
    """The chain that it jumps or goes to."""
    together: int | None = None
    """The packets that it matched or another rule that stands in a set or map of the kernel with it."""


class LiveChain(Struct, frozen=True):
    """A chain as the kernel has it: one of ours, or one that ours are entered from."""

    table: str
    family: Literal[4, 6]
    chain: str
    rules: Sequence[LiveRule]
    policy: str | None = None
    """A built-in chain's, which is the operator's."""


class LiveChains(Struct, frozen=True):
    """The chains of the host that have to do with us."""

    chains: Sequence[LiveChain]


class Plans(Struct, frozen=True):
    """The last attempts to make the kernel agree, the newest first."""

    plans: Sequence[Attempt]


class Trouble(Struct, frozen=True):
    """An object that is not done, and why."""

    kind: str
    id: str
    state: State
    revision: int
    message: str


class Broker(Struct, frozen=True):
    """How RPC does."""

    connected: bool
    changed_at: str
    """Since when it is so."""
    synced_at: str | None
    """When a controller last described the whole state."""
    failure: str
    """What is wrong; empty when nothing is."""


class Report(Struct, frozen=True):
    """How the agent does, at a glance."""

    enforcing: bool
    """The kernel has the stored state, as far as it can be had."""
    live: bool
    ready: bool
    failure: str
    """Why it is not enforcing; empty when it is."""
    warnings: Sequence[str]
    """What this kernel cannot do, and what that means."""
    host: str
    version: str
    backend: str | None
    see_with: str | None
    """The command that shows our rules."""
    started_at: str
    uptime_seconds: float
    applied_at: str | None
    """When the kernel was last made to agree."""
    verified_at: str | None
    """When all of it was last read back from the kernel."""
    counts: Counts
    """How many objects are in each state."""
    kinds: Mapping[str, Counts]
    """The same for each kind."""
    troubles: Sequence[Trouble]
    """The first of the objects that are not done."""
    troubles_total: int
    rpc: Broker | None = None
    """Null where RPC is off. What the kernel has does not depend on it."""


def refusal(code: int, message: str, field: str | None = None) -> Error:
    """The answer to a request that is not done; characters that JSON cannot carry are written out."""
    title = HTTPStatus(code).phrase if code in HTTPStatus._value2member_map_ else "Error"
    safe = message.encode("utf-8", "backslashreplace").decode()
    where = None if field is None else field.encode("utf-8", "backslashreplace").decode()
    return Error(Problem(code, title, safe, where))


def refusal_body(code: int, message: str, field: str | None = None) -> bytes:
    """The same as JSON."""
    return json.encode(refusal(code, message, field))


def state_changed(answer: Answer) -> StateChanged:
    """What became of a whole state."""
    kinds = {kind: {each: answer.counts.get(kind, {}).get(each, 0) for each in STATES} for kind in KINDS}
    change: Literal["updated", "unchanged"] = "unchanged" if answer.change == "unchanged" else "updated"
    return StateChanged(change, totals(kinds), kinds, told(answer.kept))


def told(kept: Mapping[Key, str]) -> Sequence[Kept]:
    """What stays as it is, in order of kind and id."""
    return [Kept(*key, why) for key, why in sorted(kept.items())]


def troubles(view: View) -> list[Trouble]:
    """The objects that are not done, in order of kind and id."""
    found = []
    for kind, id_ in sorted(view.unapplied | view.troubles.keys()):
        status = view.status((kind, id_))
        if status is not None and status.state != "done":
            found.append(Trouble(kind, id_, status.state, status.revision, status.message))
    return found


def counts_by_kind(view: View, not_done: Sequence[Trouble]) -> dict[str, dict[str, int]]:
    """How many objects of each kind are in each state, every kind and state named."""
    found = {kind: dict.fromkeys(STATES, 0) for kind in KINDS}
    for kind, states in found.items():
        states["done"] = len(view.state.entries(kind))
    for each in not_done:
        found[each.kind]["done"] -= 1
        found[each.kind][each.state] += 1
    return found


def totals(kinds: Mapping[str, Counts]) -> dict[str, int]:
    """How many objects of all kinds are in each state."""
    return {state: sum(counts.get(state, 0) for counts in kinds.values()) for state in STATES}
