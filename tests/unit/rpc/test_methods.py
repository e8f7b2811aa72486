"""The ``netagent`` namespace where it differs from the HTTP API; tests/functional/rpc has it over a broker."""

from typing import Any

import pytest

from nova_netagent.api.agent import Unanswered
from nova_netagent.api.errors import ObjectFailed
from nova_netagent.api.wire import BadRequest
from nova_netagent.backend import Unavailable
from nova_netagent.engine import NotApplied
from nova_netagent.events import LateRevision
from nova_netagent.model import document
from nova_netagent.rpc import errors
from nova_netagent.rpc.methods import judged, known_kind
from nova_netagent.store import StoreError
from nova_netagent.testing import make_network, network_id
from tests.unit.rpc.conftest import Remote


@pytest.mark.parametrize("written", ["security_groups", "security-groups", "security-group", "Security_Group"])
def test_a_kind_may_be_written_as_one_likes(written: str) -> None:
    assert known_kind(written) == "security_groups"


@pytest.mark.parametrize("value", [None, 5, [], "", "network s", "cats"])
def test_what_is_no_kind_is_refused(value: Any) -> None:
    with pytest.raises(errors.BadArgument, match="kind: "):
        known_kind(value)


@pytest.mark.parametrize("value", [{"label": "\ud800"}, {"mtu": float("nan")}])
def test_what_json_of_the_api_would_refuse_is_refused_here(value: Any) -> None:
    with pytest.raises(BadRequest) as refused:
        judged(value, "body")
    assert refused.value.field == "body"


def test_a_method_without_arguments_takes_none(remote: Remote) -> None:
    with pytest.raises(errors.BadArgument, match="force: is not an argument here; there are none"):
        remote("resync", force=True)


def test_no_more_than_a_little_of_a_long_argument_is_repeated(remote: Remote) -> None:
    with pytest.raises(errors.BadArgument) as refused:
        remote("resync", **{"x" * 5000: 1})
    assert len(str(refused.value)) < 200
    with pytest.raises(errors.NotFound) as missing:
        remote("rpc_setup_network_on_host", network_id=int("9" * 4000))
    assert len(str(missing.value)) < 200


def test_what_cannot_be_had_is_raised(remote: Remote) -> None:
    body: Any = document(make_network(1))
    remote.engine.refused[("networks", network_id(1))] = "no bridge"
    with pytest.raises(ObjectFailed, match="no bridge"):
        remote("update", kind="networks", body=body)
    remote.engine.failure = "no lock"
    with pytest.raises(NotApplied, match="no lock"):
        remote("update", kind="networks", body=body)
    with pytest.raises(NotApplied, match="no lock"):
        remote("resync")


def test_a_deletion_leaves_a_tombstone(remote: Remote) -> None:
    body: Any = document(make_network(1))
    assert remote("delete", kind="networks", id=network_id(1), revision=5) == {"deleted": False}
    with pytest.raises(LateRevision):
        remote("update", kind="networks", body={**body, "revision": 5})


def test_what_comes_without_a_revision_is_answered_with_the_stored_one(remote: Remote) -> None:
    body: Any = document(make_network(1))
    remote("update", kind="networks", body={**body, "revision": 5})
    assert remote("update", kind="networks", body=body) == remote("get", kind="networks", id=network_id(1))
    assert remote("update", kind="networks", body={**body, "revision": 5})["status"]["revision"] == 5


@pytest.mark.parametrize(
    ("error", "told", "result"),
    [
        (BadRequest("cidr", "is none"), errors.BadArgument, "refused"),
        (LateRevision("late"), errors.Late, "refused"),
        (errors.NotFound("none"), errors.NotFound, "refused"),
        (NotApplied("no lock"), errors.NotApplied, "failed"),
        (StoreError("disk full"), errors.NotApplied, "failed"),
        (Unavailable("no memory"), errors.NotApplied, "failed"),
        (ObjectFailed("no device"), errors.NotApplied, "failed"),
        (Unanswered("the engine ended"), errors.NotApplied, "failed"),
    ],
)
def test_what_a_caller_is_told(error: Exception, told: type[errors.RpcError], result: str) -> None:
    found = errors.as_rpc(error)
    assert type(found) is told
    assert str(found) == str(error)
    assert result == found.RESULT


def test_a_caller_is_told_nothing_of_what_nobody_expected() -> None:
    found = errors.as_rpc(ZeroDivisionError("at /home/secret"))
    assert type(found) is errors.Failed
    assert "secret" not in str(found)
