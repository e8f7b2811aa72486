"""Mutual TLS: whom the authority has signed is let in, who may write is named, and nobody is in another's way."""

import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest

from nova_netagent.model import document
from nova_netagent.testing import make_group, make_network, make_rule, network_id
from tests.functional.agent.kernel import eventually
from tests.functional.edge.conftest import Edge, Site, read_all

NETWORK = f"/v1/networks/{network_id(1)}"
BODY = document(make_network(1))


def refused(edge: Edge, context: ssl.SSLContext) -> str:
    """What a client is told whom the handshake refuses; in TLS 1.3 it learns of it from its first answer."""
    with pytest.raises((ssl.SSLError, ConnectionError)) as raised:
        edge.ask("GET", "/livez", tls=context)
    return str(raised.value)


def test_who_is_named_may_write_and_the_others_may_read(edge: Edge, site: Site) -> None:
    reader, writer = site.client(site.reader), site.client(site.writer)
    assert edge.ask("PUT", NETWORK, BODY, tls=writer)[0] == 201
    assert edge.ask("GET", NETWORK, tls=reader)[1]["label"] == BODY["label"]
    for method, target, level in (
        ("PUT", NETWORK, "write"),
        ("DELETE", NETWORK, "write"),
        ("POST", "/v1/resync", "write"),
        ("PUT", "/v1/state", "admin"),
    ):
        code, answer = edge.ask(method, target, BODY, tls=reader)
        said = f"certificate reader, reader.example.com may not {level} here"
        assert (code, answer["error"]["title"], answer["error"]["message"]) == (403, "Forbidden", said)
    assert edge.ask("GET", NETWORK, tls=reader)[0] == 200
    assert edge.ask("PUT", "/v1/state", {}, tls=writer)[0] == 200
    assert f"PUT {NETWORK}: 403" in edge.log.read_text()
    assert ", by certificate controller, controller.example.com" in edge.log.read_text()


def test_who_has_no_certificate_of_ours_is_refused(edge: Edge, site: Site) -> None:
    expired = site.authority.sign("late", days=-1)
    for pair in (None, site.stranger.sign("controller"), expired):
        context = site.client(pair)
        assert "alert" in refused(edge, context)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert "alert" in refused(edge, context)
    reasons = ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "CERTIFICATE_VERIFY_FAILED")
    eventually(lambda: all(f"): {reason}" in edge.log.read_text() for reason in reasons), within=10)
    assert edge.ask("GET", "/livez", tls=site.client(site.reader))[0] == 200


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_versions_of_tls_are_refused(edge: Edge, site: Site) -> None:
    context = site.client(site.reader)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    refused(edge, context)


def test_a_client_sees_that_it_is_not_the_agent(site: Site) -> None:
    other = site.stranger.sign("agent")
    edge = site.serve({**site.mutual(), "cert_file": other.cert, "key_file": other.key})
    with pytest.raises(ssl.SSLCertVerificationError):
        edge.ask("GET", "/livez", tls=site.client(site.reader))


@pytest.mark.parametrize("data", [b"GET /livez HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 4000, b"\0" * 100])
def test_what_is_no_tls_is_not_served(edge: Edge, site: Site, data: bytes) -> None:
    with edge.dial() as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert b"HTTP" not in read_all(sock)
    assert edge.ask("GET", "/livez", tls=site.client(site.reader))[0] == 200


def test_who_stalls_in_the_handshake_is_in_nobody_s_way_and_is_given_up(site: Site) -> None:
    edge = site.serve(site.mutual(), handshake_timeout=3)
    stalling = [edge.dial() for _ in range(100)]
    for number, sock in enumerate(stalling):
        sock.sendall(b"\x16\x03\x01\x02\x00\x01"[: number % 7])
    assert edge.ask("GET", "/livez", tls=site.client(site.reader))[0] == 200
    assert edge.request("GET", "/livez")[0] == 200
    for sock in stalling:
        read_all(sock)
        sock.close()


def test_a_full_house_keeps_nobody_from_the_socket_and_empties(site: Site) -> None:
    edge = site.serve(site.mutual(), handshake_timeout=3, connections=8)
    crowd = [edge.dial() for _ in range(30)]
    assert edge.request("PUT", NETWORK, BODY)[0] == 201
    for sock in crowd[8:]:
        sock.close()
    assert edge.ask("GET", NETWORK, tls=site.client(site.reader))[0] == 200
    for sock in crowd[:8]:
        sock.close()


def test_a_request_that_comes_in_drops_ends(site: Site) -> None:
    """Each piece comes in time, and the whole does not."""
    edge = site.serve(site.mutual(), request_timeout=1, keep_alive=1)
    with site.client(site.writer).wrap_socket(edge.dial(0.2), server_hostname="127.0.0.1") as sock:
        sock.sendall(f"PUT {NETWORK} HTTP/1.1\r\nContent-Length: 100000\r\n\r\n".encode())
        for _ in range(100):
            try:
                assert sock.recv(12) in (b"", b"HTTP/1.1 400")
                break
            except TimeoutError:
                sock.sendall(b" ")
            except OSError:
                break
        else:
            pytest.fail("it is read for ever")


def test_large_bodies_and_answers_pass_and_too_large_ones_are_told(site: Site) -> None:
    edge = site.serve(site.mutual(), max_body_size=100_000)
    writer = site.client(site.writer)
    groups = [document(make_group(number, *map(make_rule, range(number * 9, number * 9 + 9)))) for number in range(500)]
    assert edge.ask("PUT", "/v1/state", {"security_groups": groups}, tls=writer)[0] == 200
    assert len(edge.ask("GET", "/v1/state", tls=writer)[1]["security_groups"]) == 500
    code, answer = edge.ask("PUT", NETWORK, "x" * 5_000_000, tls=writer)
    assert (code, answer["error"]["code"]) == (413, 413)


def test_those_who_leave_are_forgotten(edge: Edge, site: Site) -> None:
    def descriptors() -> int:
        return len(list(Path(f"/proc/{edge.process.pid}/fd").iterdir()))

    edge.ask("GET", "/livez", tls=site.client(site.reader))
    before = descriptors()
    for _ in range(30):
        with suppress(OSError), edge.dial() as sock:
            sock.sendall(b"\x16\x03\x01")
        refused(edge, site.client())
        with site.client(site.reader).wrap_socket(edge.dial(), server_hostname="127.0.0.1") as tls:
            tls.sendall(b"PUT /v1/netw")
    eventually(lambda: descriptors() <= before, within=10)


def test_requests_in_flight_are_finished_at_the_end_and_idle_connections_end(site: Site) -> None:
    edge = site.serve(site.mutual(), delay=0.5)
    context = site.client(site.writer)
    with (
        context.wrap_socket(edge.dial(), server_hostname="127.0.0.1") as idle,
        context.wrap_socket(edge.dial(), server_hostname="127.0.0.1") as waiting,
        edge.dial() as stalling,
    ):
        waiting.sendall(f"DELETE {NETWORK} HTTP/1.1\r\n\r\n".encode())
        eventually(lambda: len(list_of_established(edge.port)) >= 3, within=10)
        assert edge.stop() == "finished"
        assert waiting.recv(12) == b"HTTP/1.1 404"
        assert idle.recv(1) == b""
        assert read_all(stalling) == b""


def list_of_established(port: int) -> list[str]:
    """The server's ends of connections to a port, from the kernel's table."""
    local = f":{port:04X} "
    return [line for line in Path("/proc/net/tcp").read_text().splitlines() if local in line[:21] and " 01 " in line]
