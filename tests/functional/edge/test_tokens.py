"""Keystone over TCP: whose token keystonemiddleware finds valid does what the policy lets them do."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nova_netagent.model import document
from nova_netagent.testing import make_network, network_id
from tests.functional.agent.kernel import eventually
from tests.functional.edge.conftest import Edge, Site
from tests.functional.edge.fake_keystone import PASSWORD, Keystone

pytest.importorskip("keystonemiddleware")

NETWORK = f"/v1/networks/{network_id(1)}"
BODY = document(make_network(1))
KEYSTONE = {"auth_strategy": "keystone"}


@pytest.fixture(scope="module")
def keystone() -> Iterator[Keystone]:
    made = Keystone()
    yield made
    made.close()


@pytest.fixture(scope="module")
def guarded(site: Site, keystone: Keystone) -> Edge:
    return site.serve(KEYSTONE, {"keystone_authtoken": keystone.config(), "DEFAULT": {"debug": True}})


def levels(edge: Edge, token: str) -> list[str]:
    """What a token lets its owner do."""
    asked = {
        "read": ("GET", NETWORK, None),
        "explain": ("POST", "/v1/explain", {}),
        "write": ("PUT", NETWORK, BODY),
        "admin": ("PUT", "/v1/state?dry_run=true", {}),
    }
    return [level for level, request in asked.items() if edge.ask(*request, token=token)[0] not in (401, 403)]


def test_what_roles_may_do(guarded: Edge, keystone: Keystone) -> None:
    may = {
        "admin": levels(guarded, keystone.issue("t-admin", "admin", "member", "reader")),
        "service": levels(guarded, keystone.issue("t-service", "service")),
        "system reader": levels(guarded, keystone.issue("t-reader", "reader", system=True)),
        "a project's": levels(guarded, keystone.issue("t-member", "member", "reader")),
    }
    reading = ["read", "explain"]
    assert may == {
        "admin": [*reading, "write", "admin"],
        "service": [*reading, "write"],
        "system reader": reading,
        "a project's": [],
    }


def test_a_reader_who_writes_is_told_and_nothing_changes(guarded: Edge, keystone: Keystone) -> None:
    reader = keystone.issue("t-reader-2", "reader", system=True)
    before = guarded.request("GET", "/v1/state")
    code, answer = guarded.ask("PUT", NETWORK, {**BODY, "label": "changed"}, token=reader)
    error = answer["error"]
    assert (code, error["code"], error["title"], error["field"]) == (403, 403, "Forbidden", None)
    assert error["message"].endswith("may not write here")
    assert guarded.request("GET", "/v1/state") == before


@pytest.mark.parametrize("target", ["/", "/livez", "/metrics", "/v1/networks", "/nowhere", "/openapi.json"])
def test_nothing_is_told_without_a_token(guarded: Edge, target: str) -> None:
    code, answer = guarded.ask("GET", target)
    assert (code, answer["error"]["code"]) == (401, 401)
    assert answer["error"]["message"] == "X-Auth-Token is missing"
    assert guarded.headers["WWW-Authenticate"] == 'Keystone uri="http://keystone.example.com"'


def test_a_token_that_keystone_does_not_know_is_refused(guarded: Edge, keystone: Keystone) -> None:
    code, answer = guarded.ask("PUT", NETWORK, BODY, token="forged")
    assert (code, answer["error"]["message"]) == (401, "the token is not valid")
    assert "forged" in keystone.asked


def test_who_says_themselves_who_they_are_is_not_believed(guarded: Edge, keystone: Keystone) -> None:
    claims = {"X-Identity-Status": "Confirmed", "X-Roles": "admin", "X-User-Id": "root", "X-Is-Admin-Project": "True"}
    assert guarded.ask("GET", NETWORK, headers=claims)[0] == 401
    member = keystone.issue("t-member-2", "member")
    assert guarded.ask("GET", NETWORK, token=member, headers=claims)[0] == 403


def test_a_token_is_taken_until_it_expires(guarded: Edge, keystone: Keystone) -> None:
    token = keystone.issue("t-short", "admin", seconds=3)
    assert guarded.ask("GET", "/livez", token=token)[0] == 200
    eventually(lambda: guarded.ask("GET", "/livez", token=token)[0] == 401, within=10)
    assert keystone.asked.count("t-short") <= 2, "it is not asked about again while it is valid"


def test_the_socket_needs_no_token(guarded: Edge) -> None:
    assert guarded.request("PUT", NETWORK, BODY)[0] in (200, 201)


def test_no_secret_is_in_the_log_even_at_debug(guarded: Edge, keystone: Keystone) -> None:
    secret = keystone.issue("a-secret-token-of-an-admin", "admin")
    guarded.ask("PUT", NETWORK, BODY, token=secret)
    guarded.ask("PUT", NETWORK, BODY, token="a-secret-token-nobody-knows")
    log = guarded.log.read_text()
    assert ", by user a-user of project a-project" in log
    assert ", by a stranger" in log
    assert "a-secret-token" not in log
    assert PASSWORD not in log
    assert "token-of-the-service" not in log


def test_a_keystone_that_hangs_costs_only_those_who_need_it(site: Site, make_keystone: Callable[[], Keystone]) -> None:
    keystone = make_keystone()
    edge = site.serve(KEYSTONE, {"keystone_authtoken": {**keystone.config(), "http_connect_timeout": 60}})
    known = keystone.issue("t-known", "admin")
    assert edge.ask("GET", "/livez", token=known)[0] == 200
    keystone.answering.clear()
    answers: list[int] = []

    def ask(token: str) -> None:
        answers.append(edge.ask("GET", "/livez", token=token)[0])

    asking = [threading.Thread(target=ask, args=(f"x{n}",)) for n in range(3)]
    for each in asking:
        each.start()
    eventually(lambda: keystone.waiting == 3, within=10)
    assert edge.request("PUT", NETWORK, BODY)[0] == 201
    assert edge.ask("GET", "/livez", token=known)[0] == 200, "who was known is still"
    assert answers == []
    keystone.answering.set()
    for each in asking:
        each.join(20)
    assert answers == [401] * 3


def test_a_keystone_that_is_gone_is_told_and_the_agent_ends_all_the_same(
    site: Site, make_keystone: Callable[[], Keystone]
) -> None:
    keystone = make_keystone()
    config = {**keystone.config(), "http_connect_timeout": 1, "http_request_max_retries": 0}
    edge = site.serve(KEYSTONE, {"keystone_authtoken": config})
    keystone.answering.clear()
    answers = [edge.ask("GET", "/livez", token=keystone.issue("t-admin", "admin"))]
    keystone.close()
    answers.append(edge.ask("GET", "/livez", token="another"))
    for code, answer in answers:
        assert (code, answer["error"]["code"]) == (503, 503)
        assert answer["error"]["message"].startswith("Keystone does not answer")
    assert edge.stop() == "finished"


def test_a_policy_file_changes_what_roles_may_do_at_once(
    site: Site, make_keystone: Callable[[], Keystone], tmp_path: Path
) -> None:
    keystone = make_keystone()
    policy = tmp_path / "policy.yaml"
    policy.write_text('"netagent:write": "role:member"\n')
    config: dict[str, dict[str, Any]] = {
        "keystone_authtoken": keystone.config(),
        "oslo_policy": {"policy_file": policy},
    }
    edge = site.serve(KEYSTONE, config)
    member = keystone.issue("t-member", "member")
    assert levels(edge, member) == ["read", "explain", "write"]
    time.sleep(0.02)  # for another time in the file's inode
    policy.write_text('"netagent:write": "!"\n')
    assert levels(edge, member) == []


def test_keystone_and_mutual_tls_take_both(site: Site, make_keystone: Callable[[], Keystone]) -> None:
    keystone = make_keystone()
    mutual = {name: value for name, value in site.mutual().items() if name != "cert_writers"}
    edge = site.serve({**mutual, **KEYSTONE}, {"keystone_authtoken": keystone.config()})
    admin = keystone.issue("t-admin", "admin")
    with pytest.raises(OSError, match="alert"):
        edge.ask("GET", "/livez", token=admin, tls=site.client())
    assert edge.ask("GET", "/livez", tls=site.client(site.writer))[0] == 401
    assert edge.ask("PUT", NETWORK, BODY, token=admin, tls=site.client(site.reader))[0] == 201
