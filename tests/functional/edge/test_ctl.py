"""netagentctl over TCP."""

import pytest

from nova_netagent.model import document
from nova_netagent.testing import make_network, network_id
from tests.functional.edge.conftest import Edge, Site
from tests.functional.edge.fake_keystone import Keystone
from tests.unit.ctl.test_ctl import Ctl


def test_it_shows_its_certificate_and_is_told_what_it_may_not(edge: Edge, site: Site) -> None:
    url = ("--url", f"https://127.0.0.1:{edge.port}", "--cacert", str(site.authority.cert))
    writer = Ctl(*url, "--cert", str(site.writer.cert), "--key", str(site.writer.key))
    reader = Ctl(*url, "--cert", str(site.reader.cert), "--key", str(site.reader.key))
    assert writer("set", "networks", "-f", "-", given=document(make_network(1))).code == 0
    assert network_id(1) in reader("--format", "json", "list", "networks").out
    assert reader("delete", "networks", network_id(1)).code == 1
    assert "certificate reader, reader.example.com may not write here" in reader.err
    assert Ctl(*url)("status").code == 4
    assert Ctl(*url[:2])("status").code == 4
    assert "certificate verify failed" in Ctl(*url[:2])("status").err.lower()


def test_it_brings_a_token(site: Site) -> None:
    pytest.importorskip("keystonemiddleware")
    keystone = Keystone()
    edge = site.serve({"auth_strategy": "keystone"}, {"keystone_authtoken": keystone.config()})
    ctl = Ctl("--url", f"http://127.0.0.1:{edge.port}")
    token = keystone.issue("t-admin", "admin")
    assert ctl("list", "networks", env={"OS_TOKEN": token}).code == 0
    assert ctl("list", "networks").code == 1
    assert "X-Auth-Token is missing" in ctl.err
    keystone.close()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--url", "https://127.0.0.1"], 2, "like https://HOST:PORT"),
        (["--url", "ftp://127.0.0.1:1"], 2, "like https://HOST:PORT"),
        (["--url", "https://[::1:1"], 2, "like https://HOST:PORT"),
        (["--url", "https://127.0.0.1:x"], 2, "like https://HOST:PORT"),
        (["--url", "https://127.0.0.1:1", "--cacert", "/nowhere"], 2, "--cacert /nowhere: No such file"),
        (["--url", "https://127.0.0.1:1", "--cert", "/nowhere"], 2, "--cert /nowhere: No such file"),
        (["--url", "http://127.0.0.1:1"], 4, "nobody listens at http://127.0.0.1:1"),
    ],
)
def test_what_cannot_be_meant_or_reached_is_told_in_one_line(options: list[str], code: int, said: str) -> None:
    ctl = Ctl(*options)("status")
    assert (ctl.code, len(ctl.err.splitlines())) == (code, 1)
    assert said in ctl.err
