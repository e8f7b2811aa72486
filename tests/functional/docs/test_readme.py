"""What the README shows of nf_tables is what a host with two instances has."""

import re
from pathlib import Path

from nova_netagent.testing import make_floating_ip, make_group, make_rule
from tests.functional.agent.cloud import Cloud
from tests.lab import Lab, needs

pytestmark = needs("nftables", "br_netfilter", "bridge", "program:nft")

README = Path(__file__).resolve().parents[3] / "README.md"
_SHARED = re.compile(r"chain nova-netagent-[-a-z]*[a-z]{3}")
"""Not of an object, which has its id in its name, and not built in."""
_BLOCK = re.compile(r"^\t?((?:map|set|chain) \S+) {\n(.*?)^\t?}$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> dict[str, list[str]]:
    """The lines of each map, set and chain, with ids and counters as short as the README has them."""
    return {name: [_short(line) for line in body.splitlines()] for name, body in _BLOCK.findall(text)}


def _short(line: str) -> str:
    line = re.sub(r"counter (packets \d+ bytes \d+ )?", "", line)
    line = re.sub(r"\b([a-f0-9]{8})-[-a-f0-9]{27}\b", r"\1-...", line)
    line = line.replace("elements = {", "")
    return " ".join(line.split()).rstrip(", }").strip()


def test_the_readme_shows_what_nft_lists(lab: Lab) -> None:
    cloud = Cloud(lab, backend="nftables")
    cloud.network(1)
    web = [make_rule(n, protocol="tcp", port_range_min=port, port_range_max=port) for n, port in ((1, 80), (2, 443))]
    ssh = make_rule(3, protocol="tcp", port_range_min=22, port_range_max=22, remote_ip_prefix="192.0.2.0/24")
    cloud.put(make_group(1, *web, ssh, make_rule(4, remote_group_id=make_group(1).id)))
    for number in (1, 2):
        cloud.instance(number, (1,))
    cloud.put(make_floating_ip(1))
    listed = blocks(cloud.host.run(["nft", "list", "table", "ip", "nova-netagent"]).stdout)
    shown = blocks(README.read_text())
    assert len(shown) > 5
    for name, lines in listed.items():
        if _SHARED.fullmatch(name):
            assert [line for line in lines if line.startswith("comment ")], name
    for name, lines in shown.items():
        assert [line for line in lines if line not in listed.get(name, [])] == [], name
