"""The API on a real unix socket: garbage, crowds, slow and early endings. The process is alive after each."""

import json
import os
import re
import select
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from nova_netagent.model import State, document
from nova_netagent.testing import make_group, make_instance, make_network, make_rule, network_id
from tests.unit.api.served import Served, read_all

Serve = Callable[..., Served]

PUT = f"PUT /v1/networks/{network_id(1)} HTTP/1.1\r\nHost: x\r\n".encode()
BODY = json.dumps(document(make_network(1))).encode()
WHOLE = PUT + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


@pytest.fixture(scope="module")
def agent() -> Iterator[Served]:
    """One agent for all that must not hurt it."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(prefix="netagent-api-") as folder:
        served = Served(Path(folder) / "api.sock", {"max_body_size": 100_000})
        try:
            yield served
        finally:
            served.end()


@pytest.fixture(autouse=True)
def still_alive(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "agent" in request.fixturenames:
        served: Served = request.getfixturevalue("agent")
        assert served.request("GET", "/livez") == (200, {"ok": True})
        assert "ERROR:" not in served.log.read_text()


def status(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.[01] (\d+) ", answer)
    assert found, answer[:200]
    return int(found[1])


def refusal(answer: bytes) -> dict[str, object]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nConnection: close" in head
    found: dict[str, object] = json.loads(body)["error"]
    assert found["code"] == status(answer)
    return found


# --- HEAD


def test_after_a_head_comes_the_next_answer_and_no_body(agent: Served) -> None:
    head, get = (
        b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    for first, second in ((head, get), (head, head + get)):
        with agent.connect() as sock:
            sock.sendall(first + second)
            *heads, body = read_all(sock).split(b"\r\n\r\n")
        assert [status(each) for each in heads] == [200] * (1 + second.count(b"livez"))
        assert all(b"content-length: %d\r\n" % len(body) in each.lower() for each in heads)
        assert json.loads(body) == {"ok": True}


def test_a_head_that_cannot_be_read_is_refused_without_a_body(agent: Served) -> None:
    with agent.connect() as sock:
        sock.sendall(b"HEAD /livez HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n")
        answer = read_all(sock)
    assert status(answer) == 400
    assert answer.endswith(b"\r\n\r\n")
    with agent.connect() as sock:
        sock.sendall(b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\nGARBAGE\r\n\r\n")
        assert read_all(sock).endswith(b"}")


# --- what is no request


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET / HTTP/x.y\r\n\r\n", 400),
        (b"GET / HTTP/1.1 and more\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(150)) + b"\r\n", 431),
        (PUT + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhellos", 400),
        # Python's parser takes what comes after these for the body, the length of the body among it.
        (PUT + b"X : y\r\nContent-Length: 2\r\n\r\n{}", 400),
        (PUT + b"X\r\nContent-Length: 2\r\n\r\n{}", 400),
        (PUT + b": y\r\nContent-Length: 2\r\n\r\n{}", 400),
        (PUT + b"X: y\r\n Content-Length: 3\r\nContent-Length: 2\r\n\r\n{}", 400),
        (PUT + b"Content-Length: +2\r\n\r\n{}", 400),
        (PUT + b"Content-Length: 1_0\r\n\r\n{}", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 8000) for n in range(20)) + b"\r\n", 431),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 414),
        (PUT + b"Content-Length: x\r\n\r\n{}", 400),
        (PUT + b"Content-Length: -1\r\n\r\n{}", 400),
        (PUT + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}", 400),
        (PUT + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_is_refused_in_our_words(agent: Served, data: bytes, code: int) -> None:
    assert refusal(agent.raw(data))["code"] == code


@pytest.mark.parametrize("data", [b"", b"\r\n", b"\r\n\r\n", b"GET", b"GET / HTTP/1.1\r\nHost", b"\0" * 1000])
def test_half_a_request_is_nothing(agent: Served, data: bytes) -> None:
    agent.raw(data)


def test_an_unknown_method_is_refused(agent: Served) -> None:
    assert status(agent.raw(b"BREW / HTTP/1.1\r\nConnection: close\r\n\r\n")) == 400
    assert status(agent.raw(b"get / HTTP/1.1\r\nConnection: close\r\n\r\n")) == 400


def test_paths_of_any_bytes(agent: Served) -> None:
    for target in (b"/%00", b"/%ff%fe", b"/v1/networks/%2e%2e%2f", b"/\xff\xfe", b"/v1/networks/%", b"*"):
        answer = agent.raw(b"GET " + target + b" HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert status(answer) in (400, 404)


# --- bodies


def test_a_body_in_chunks_is_411_and_what_follows_is_not_taken_for_a_request(agent: Served) -> None:
    smuggled = b"DELETE /v1/networks/x HTTP/1.1\r\n\r\n"
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(smuggled), smuggled)
    for encoding in (b"chunked", b"gzip, chunked", b"identity"):
        answer = agent.raw(PUT + b"Transfer-Encoding: " + encoding + b"\r\n\r\n" + chunks)
        assert refusal(answer)["code"] == 411
        assert answer.count(b"HTTP/1.1") == 1


def test_a_put_without_a_length_is_411(agent: Served) -> None:
    assert status(agent.raw(PUT + b"Connection: close\r\n\r\n")) == 411


def test_a_large_body_is_refused_and_its_sender_reads_why(agent: Served) -> None:
    for size in (100_001, 5_000_000, 50_000_000):
        code, answer = agent.request("PUT", f"/v1/networks/{network_id(1)}", b" " * size)
        assert code == 413
        assert answer["error"]["message"] == f"the body has {size} bytes, at most 100000 are taken here"


def test_a_huge_claim_is_refused_at_once(agent: Served) -> None:
    with agent.connect() as sock:
        sock.sendall(PUT + b"Content-Length: 10000000000\r\n\r\n{")  # of which no more will come
        assert sock.recv(12) == b"HTTP/1.1 413"


def test_a_body_that_was_announced_and_is_refused_is_not_asked_for(agent: Served) -> None:
    with agent.connect() as sock:
        sock.sendall(PUT + b"Expect: 100-continue\r\nContent-Length: 10000000\r\n\r\n")
        assert sock.recv(12) == b"HTTP/1.1 413"


def test_a_body_that_was_announced_is_asked_for(agent: Served) -> None:
    with agent.connect() as sock:
        sock.sendall(PUT + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
        sock.sendall(BODY)
        assert status(read_all(sock)) in (200, 201)


def test_a_body_that_ends_early_is_400_and_changes_nothing(agent: Served) -> None:
    agent.request("DELETE", f"/v1/networks/{network_id(1)}")
    assert refusal(agent.raw(WHOLE[:-5]))["message"] == f"the body ended after {len(BODY) - 5} of {len(BODY)} bytes"
    assert agent.request("GET", f"/v1/networks/{network_id(1)}")[0] == 404


def test_a_body_that_does_not_come_is_408(serve: Serve) -> None:
    agent = serve(socket_timeout=0.3)
    with agent.connect() as sock:
        sock.sendall(WHOLE[:-5])
        answer = read_all(sock)
    assert refusal(answer)["message"] == "the body did not come in time"
    assert status(answer) == 408


def test_headers_that_do_not_come_and_silence_end_the_connection(serve: Serve) -> None:
    agent = serve(socket_timeout=0.3, keep_alive=0.3)
    for data in (b"", b"GET", b"GET / HTTP/1.1\r\nHost"):
        with agent.connect(timeout=5) as sock:
            sock.sendall(data)
            assert read_all(sock) == b""
    assert agent.request("GET", "/livez")[0] == 200


def test_a_client_that_leaves_in_the_middle(agent: Served) -> None:
    for size in (1, 30, len(WHOLE) // 2, len(WHOLE) - 1, len(WHOLE)):
        with agent.connect() as sock:
            sock.sendall(WHOLE[:size])


def test_a_get_with_a_body_ends_the_connection(agent: Served) -> None:
    answer = agent.raw(b"GET /livez HTTP/1.1\r\nContent-Length: 30\r\n\r\nGET /readyz HTTP/1.1\r\nX: yyy\r\n\r\n")
    assert (status(answer), answer.count(b"HTTP/1.1")) == (200, 1)


def test_the_type_of_a_body_may_be_left_out(agent: Served) -> None:
    assert status(agent.raw(WHOLE)) in (200, 201)


# --- crowds


def test_many_requests_on_one_connection(agent: Served) -> None:
    with agent.connect() as sock:
        sock.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 50 + b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert read_all(sock).count(b"HTTP/1.1 200 ") == 51


def test_those_who_say_nothing_are_in_nobody_s_way(agent: Served) -> None:
    idle = [agent.connect() for _ in range(300)]
    try:
        for sock in idle[::2]:
            sock.sendall(b"PUT /v1/ne")
        assert agent.request("GET", "/livez")[0] == 200
    finally:
        for sock in idle:
            sock.close()


def test_many_wait_while_one_asks_how_it_goes(serve: Serve) -> None:
    """Callers who wait for the engine cost the others nothing."""
    agent = serve(delay=0.03)
    waiting = [agent.connect() for _ in range(100)]
    try:
        for number, sock in enumerate(waiting):
            body = json.dumps(document(make_network(number))).encode()
            head = f"PUT /v1/networks/{network_id(number)} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
            sock.sendall(head.encode() + body)
        assert agent.request("GET", "/v1/status")[0] == 200
        assert not select.select(waiting[-1:], [], [], 0)[0], "they wait still"
        assert {sock.recv(12) for sock in waiting} == {b"HTTP/1.1 201"}
    finally:
        for sock in waiting:
            sock.close()


def test_out_of_descriptors_it_waits_and_goes_on(serve: Serve) -> None:
    import resource

    agent = serve()
    resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, (40, 40))
    crowd = [agent.connect() for _ in range(60)]
    while "a connection cannot be accepted" not in agent.log.read_text():
        time.sleep(0.01)
        assert agent.alive
    for sock in crowd:
        sock.close()
    assert agent.request("GET", "/livez")[0] == 200


def test_a_large_state_does_not_stop_the_others(serve: Serve) -> None:
    agent = serve()
    groups = tuple(make_group(number, *(make_rule(number * 20 + each) for each in range(20))) for number in range(1000))
    state = json.dumps(document(State(security_groups=groups, instances=tuple(make_instance(n) for n in range(500)))))
    meanwhile = 0
    answers: list[int] = []
    sender = threading.Thread(target=lambda: answers.append(agent.request("PUT", "/v1/state", state.encode())[0]))
    sender.start()
    while sender.is_alive():
        assert agent.request("GET", "/livez")[0] == 200
        meanwhile += 1
    assert answers == [200]
    assert meanwhile > 2, "who has to wait is answered once before, and once after"
    code, exported = agent.request("GET", "/v1/state")
    assert (code, len(exported["security_groups"])) == (200, 1000)


# --- who asks, beginning and end


def test_the_log_tells_who_changed_something(serve: Serve) -> None:
    agent = serve()
    assert status(agent.raw(WHOLE)) == 201
    expected = rf"PUT /v1/networks/{network_id(1)}: 201, \d+\.\d ms, by uid {os.getuid()} \(process {os.getpid()}\)"
    assert re.search(expected, agent.log.read_text())


def test_the_socket_has_its_mode_and_goes_with_the_agent(serve: Serve) -> None:
    agent = serve()
    assert stat.S_IMODE(agent.path.stat().st_mode) == 0o660
    assert agent.stop() == "finished"
    assert not agent.path.exists()
    with pytest.raises(FileNotFoundError):
        agent.connect()


def test_requests_in_flight_are_finished_at_the_end(serve: Serve) -> None:
    agent = serve(delay=0.5)
    with agent.connect() as waiting, agent.connect() as idle, agent.connect() as half:
        waiting.sendall(WHOLE)
        half.sendall(PUT)
        time.sleep(0.2)
        said: list[str] = []
        stopper = threading.Thread(target=lambda: said.append(agent.stop()))
        stopper.start()
        assert status(read_all(waiting)) == 201
        assert read_all(idle) == b""
        half.sendall(b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        assert status(read_all(half)) == 200
        stopper.join()
    assert said == ["finished"]


def test_those_who_never_finish_are_cut_off(serve: Serve) -> None:
    agent = serve()
    with agent.connect() as half:
        half.sendall(PUT)
        time.sleep(0.1)
        assert agent.stop() == "cut off"


def test_a_kept_connection_ends_with_the_agent(serve: Serve) -> None:
    agent = serve()
    with agent.connect() as kept:
        kept.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        assert kept.recv(12) == b"HTTP/1.1 200"
        assert agent.stop() == "finished"
        read_all(kept)


def test_when_the_engine_dies_those_who_wait_are_told(serve: Serve) -> None:
    import signal

    agent = serve(delay=3)
    with agent.connect() as waiting:
        waiting.sendall(WHOLE)
        time.sleep(0.2)
        agent.signal(signal.SIGUSR1)
        waiting.settimeout(2)
        assert waiting.recv(12) == b"HTTP/1.1 503"
    code, answer = agent.request("PUT", f"/v1/networks/{network_id(2)}", document(make_network(2)))
    assert (code, answer["error"]["message"]) == (503, "the engine ended")
    assert agent.request("GET", "/livez")[0] == 200


def test_a_signal_wakes_an_idle_agent(serve: Serve) -> None:
    agent = serve()
    time.sleep(0.5)
    began = time.monotonic()
    agent.stop()
    assert time.monotonic() - began < 30, "it rests for a minute"


def test_a_successor_keeps_its_socket(serve: Serve) -> None:
    """A new agent at the same path is not cut off by the end of the old one."""
    agent = serve()
    agent.path.unlink()
    successor = socket.socket(socket.AF_UNIX)
    successor.bind(str(agent.path))
    agent.stop()
    assert agent.path.exists()
    successor.close()
