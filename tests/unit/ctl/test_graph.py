"""graph: what is drawn of few and of many, and that it is a drawing."""

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from nova_netagent.compile import Compiler
from nova_netagent.ctl.graph.dot import dot
from nova_netagent.ctl.graph.layout import Placed, lay_out
from nova_netagent.ctl.graph.picture import MOST_ALIKE, Picture, picture
from nova_netagent.ctl.graph.svg import svg
from nova_netagent.events import Replace, fold
from nova_netagent.model import DesiredState, State
from nova_netagent.netfilter.packet import chains_of
from nova_netagent.netfilter.rule import Jump
from nova_netagent.netfilter.text import rule_text
from nova_netagent.settings import FirewallSettings, NetworkSettings, Settings
from nova_netagent.testing import (
    group_id,
    instance_id,
    make_floating_ip,
    make_group,
    make_instance,
    make_network,
    make_rule,
)
from tests.unit.ctl.test_ctl import Ctl, agent, ctl, served

__all__ = ["agent", "ctl", "served"]


def live(count: int) -> list[dict[str, Any]]:
    """The chains of a host with so many instances, as the API gives them."""
    state = State(
        networks=(make_network(1, cidr="10.1.0.0/16"),),
        instances=tuple(make_instance(n, (1,)) for n in range(1, count + 1)),
        security_groups=(make_group(1, make_rule(1, protocol="tcp", port_range_min=80, port_range_max=80)),),
        floating_ips=(make_floating_ip(1),),
    )
    settings = Settings(host="h", network=NetworkSettings(), firewall=FirewallSettings())
    ruleset = Compiler(settings).compile(fold(DesiredState(), Replace(state), 0.0)).ruleset
    return [
        {
            "family": id_.family,
            "table": id_.name,
            "chain": name,
            "policy": "ACCEPT" if name.isupper() else None,
            "rules": [
                {
                    "packets": number,
                    "bytes": 0,
                    "rule": rule_text(rule, id_.family),
                    "origin": rule.origin,
                    "owner": " ".join(rule.origin) if rule.origin else None,
                    "target": rule.target.chain if isinstance(rule.target, Jump) else None,
                }
                for number, rule in enumerate(rules)
            ],
        }
        for id_, table in ruleset.tables.items()
        for name, rules in {**chains_of(table), **{each.name: each.explained for each in table.chains.values()}}.items()
    ]


@pytest.fixture(scope="module", params=[5, 500])
def drawn(request: pytest.FixtureRequest) -> Picture:
    return picture("all", live(request.param))


def overlap(one: Placed, other: Placed) -> bool:
    across = one.x < other.x + other.width and other.x < one.x + one.width
    return across and one.y < other.y + other.height and other.y < one.y + one.height


def test_no_two_boxes_overlap(drawn: Picture) -> None:
    found = lay_out(drawn)
    assert not [(a.box.key, b.box.key) for a, b in combinations(found.boxes.values(), 2) if overlap(a, b)]
    assert all(each.x + each.width <= found.width for each in found.boxes.values())
    assert all(each.y + each.height <= found.height for each in found.boxes.values())


def test_every_edge_leads_to_a_box(drawn: Picture) -> None:
    keys = {box.key for box in drawn.boxes}
    assert len(keys) == len(drawn.boxes)
    assert all(row.target in keys for box in drawn.boxes for row in box.rows if row.target is not None)


def test_many_of_a_kind_are_one(drawn: Picture) -> None:
    assert len(drawn.boxes) < 100
    many = [box for box in drawn.boxes if box.key[2].endswith("inst-…")]
    assert [box.title for box in many] in ([], ["nova-netagent-inst-…  (500 chains)"] * 2)
    assert max(len(box.rows) for box in drawn.boxes) < 20


def test_whole_folds_nothing() -> None:
    found = picture("all", live(MOST_ALIKE + 3), whole=True)
    assert sum("-inst-" in box.title for box in found.boxes) == 2 * (MOST_ALIKE + 3)
    assert not any(row.text.startswith("…") for box in found.boxes for row in box.rows)


def test_one_instance_of_many() -> None:
    found = picture("one", live(500), about={("instances", instance_id(7))})
    titles = {box.title for box in found.boxes if box.key[0] == 4}
    assert {"nova-netagent-inst-a0000007", "nova-netagent-sgi-b0000001", "nova-netagent-net-e0000001"} <= titles
    senders = [row.text for box in found.boxes if box.key[:2] == (4, "raw") for row in box.rows]
    assert sum("tap7" in text for text in senders) == 2
    assert not [title for title in titles if "-inst-" in title and not title.endswith("a0000007")]
    assert len(titles) < 25


def test_one_floating_ip() -> None:
    found = picture("one", live(20), about={("floating_ips", "198.51.100.1")})
    rows = [row.text for box in found.boxes for row in box.rows if box.key[:2] == (4, "nat")]
    assert any("--to-destination" in text for text in rows)
    assert {box.key[1] for box in found.boxes} == {"nat"}


def test_the_way_of_a_packet_is_marked() -> None:
    chains = live(3)
    met = [((4, "filter", "FORWARD"), 1), ((4, "filter", "nova-filter-top"), 1)]
    found = picture("way", chains, met=met)
    assert [(box.title, box.met) for box in found.boxes] == [("FORWARD", True), ("nova-filter-top", True)]
    assert [row.met for row in found.boxes[0].rows] == [True, False, False]
    assert svg(found).count('class="e m"') == 1


def test_svg_is_xml_and_says_what_is_drawn(drawn: Picture) -> None:
    root = ElementTree.fromstring(svg(drawn))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = {"".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"IPv4 filter", "nova-netagent-local", "-j nova-filter-top"} <= texts


def test_names_that_are_markup_stay_names() -> None:
    chains = live(1)
    chains[0]["rules"] = [{"packets": 0, "bytes": 0, "rule": '-m comment "<&>"', "origin": None}]
    found = picture('<&"> \\', chains)
    assert ElementTree.fromstring(svg(found)) is not None
    assert "&lt;&amp;&gt;" in dot(found)
    assert dot(found).startswith('digraph "<&\\"> \\\\" {')


def edges(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if " -> " in line:
            start, _, end = line.strip().rstrip(";").partition(" -> ")
            yield start.split(":")[0], end.split(":")[0]


def test_dot_has_every_box_and_edge(drawn: Picture) -> None:
    text = dot(drawn)
    nodes = {line.split()[0] for line in text.splitlines() if "[label=<" in line}
    assert len(nodes) == len(drawn.boxes)
    assert {each for edge in edges(text) for each in edge} <= nodes
    assert len(list(edges(text))) == sum(row.target is not None for box in drawn.boxes for row in box.rows)
    assert text.count("{") == text.count("}")


# --- as an operator runs it


def test_graph_writes_what_the_file_is_called(ctl: Ctl, tmp_path: Path) -> None:
    assert ctl("graph", "-o", str(tmp_path / "all.svg")).said == (0, "", "")
    assert (tmp_path / "all.svg").read_text().startswith("<svg ")
    assert ctl("graph", "-o", str(tmp_path / "all.dot")).said == (0, "", "")
    assert (tmp_path / "all.dot").read_text().startswith('digraph "node-1: all chains"')
    assert ctl("graph", "--dot").out == (tmp_path / "all.dot").read_text()
    assert ctl("graph", "-o", str(tmp_path / "no" / "such.svg")).code == 1


@pytest.mark.parametrize("named", [instance_id(1), "vm1", "tap1", "10.1.0.2", "198.51.100.1", "group1", group_id(1)])
def test_an_object_is_found_by_any_of_its_names(ctl: Ctl, named: str) -> None:
    assert ctl("graph", named).code == 0
    assert f"chains of {named}" in ctl.out


def test_what_nothing_is_called(ctl: Ctl) -> None:
    assert ctl("graph", "10.9.9.9").said == (3, "", "netagentctl: nothing here has the id, name or address 10.9.9.9\n")


def test_explain_draws_the_way(ctl: Ctl, tmp_path: Path) -> None:
    asked = ("--proto", "tcp", "--src", "203.0.113.9", "--dst", "10.1.0.2:22", "--graph", str(tmp_path / "way.svg"))
    assert ctl("--format", "json", "explain", *asked).code == 0
    assert json.loads(ctl.out)["verdict"] == "DROP"
    text = (tmp_path / "way.svg").read_text()
    assert "-p tcp -j DROP" in text
    assert "#fde68a" in text
