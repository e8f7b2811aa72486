"""What docs/migration.md has an operator type takes the old agent's chains out, and nothing of anybody else's."""

import re
from pathlib import Path

from tests.functional.agent.cloud import Cloud
from tests.functional.agent.foreign import DOCKER_4, NOVA_COMPUTE
from tests.functional.agent.test_foreign_rules import plain, restore, saved, use
from tests.functional.conftest import ON_BOTH
from tests.lab import Lab, needs

pytestmark = [needs("iptables", "ip6tables", "ipset", "br_netfilter"), ON_BOTH]

PAGE = Path(__file__).resolve().parents[3] / "docs" / "migration.md"

_SHARED = re.compile(r":nova-(filter-top|postrouting-bottom)|.* -A [A-Z]+ -j nova-(filter-top|postrouting-bottom)")
NOVA_NETWORK = "\n".join(
    line for line in NOVA_COMPUTE.replace("nova-compute", "nova-network").split("\n") if not _SHARED.match(line)
)
"""The other program of nova's on the host, which found the chains that they share."""

_NOVAS = re.compile(r"nova-(compute|network)-")


def test_novas_chains_go_and_nobody_elses(lab: Lab, backend: str) -> None:
    found = re.search(r"^To take nova's chains out.*?```\n(.*?)```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found
    host = lab.host()
    for text in (NOVA_COMPUTE, NOVA_NETWORK, DOCKER_4):
        restore(host, text)
    cloud = Cloud(lab, host=host, backend=backend)
    use(cloud)
    before = {key: list(map(plain, lines)) for key, lines in saved(host).items()}

    host.run(["bash", "-c", found[1]])

    after = {key: list(map(plain, lines)) for key, lines in saved(host).items()}
    assert after == {key: [line for line in lines if not _NOVAS.search(line)] for key, lines in before.items()}
    assert cloud.agent.resync()["repaired"] == []
