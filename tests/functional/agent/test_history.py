"""The ring of the last plans, on a real host."""

from nova_netagent.testing import make_instance
from tests.functional.agent.site import Site
from tests.lab import iptables, needs

pytestmark = needs("iptables", "ip6tables", "ipset", "br_netfilter", "bridge")


def test_what_was_done_and_why(site: Site) -> None:
    site.describe(make_instance(1))
    if site.backend == "iptables":
        iptables(site.host, "-F nova-netagent-sg-fallback")
    else:
        site.host.run(["nft", "flush", "chain", "ip", "nova-netagent", "nova-netagent-sg-fallback"])
    site.agent.resync()
    repaired, described = site.agent.request("GET", "/v1/plans")[1]["plans"][:2]
    assert (repaired["why"], repaired["result"], repaired["edits"]) == ("resync", "done", 1)
    assert repaired["plan"] == ["IPv4 filter: + nova-netagent-sg-fallback[1] -j DROP"]
    assert described["why"] == "change"
    assert described["edits"] > 40 == len(described["plan"])
    site.agent.resync()
    assert site.agent.request("GET", "/v1/plans")[1]["plans"][0] == repaired
