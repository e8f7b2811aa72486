"""render: a state as text for iptables-restore or nft, without an agent or a kernel."""

import json
from pathlib import Path

import pytest

from nova_netagent.model import State, document
from nova_netagent.testing import group_id, make_group, make_instance, make_network, make_rule
from tests.unit.ctl.test_ctl import STATE, Ctl

HEAD = "# iptables-legacy-restore and ip6tables-legacy-restore take a family each (--family)"
MEMBERS = State(
    networks=(make_network(1),),
    instances=(make_instance(1, groups=(1,)),),
    security_groups=(make_group(1, *(make_rule(n, ethertype=f"IPv{n}", remote_group_id=group_id(1)) for n in (4, 6))),),
)


@pytest.fixture
def state(tmp_path: Path) -> str:
    """A file with a small state."""
    return _written(tmp_path, STATE)


def _written(folder: Path, state: State) -> str:
    file = folder / "state.json"
    file.write_text(json.dumps(document(state)))
    return str(file)


def _configured(folder: Path, text: str) -> Ctl:
    file = folder / "agent.conf"
    file.write_text(text)
    return Ctl("--config-file", str(file))


def test_it_prints_rules_and_complains_beside_them(state: str) -> None:
    ctl = Ctl()("render", "-f", state)
    assert ctl.code == 0
    assert "*filter\n" in ctl.out
    assert "-A FORWARD -j nova-filter-top\n" in ctl.out
    assert "--dport 22 " in ctl.out
    assert ctl.err.count("\n") == 1
    assert ctl.err.startswith("netagentctl: instances a0000002-0000-4000-8000-000000000002: pending: ")


def test_it_takes_the_configuration(tmp_path: Path) -> None:
    state = _written(tmp_path, State(networks=(make_network(1),), instances=(make_instance(1),)))
    for backend, chain in (("iptables", ":other-inst-a0000001 "), ("nftables", "\tchain other-inst-a0000001 {")):
        ctl = _configured(
            tmp_path, f"[DEFAULT]\nuse_ipv6 = false\n[firewall]\nwrap_name = other\nbackend = {backend}\n"
        )("render", "-f", state)
        assert chain in ctl.out
        assert "\n# ip6tables" not in ctl.out
        assert "\ntable ip6 " not in ctl.out
        as_json = json.loads(ctl("render", "-f", state, "--format", "json").out)
        assert "\n".join(as_json["rules"]) + "\n" == ctl("render", "-f", state).out


def test_it_refuses_what_the_api_refuses(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    group = document(make_group(1, make_rule(1)))
    assert isinstance(group, dict)
    group["rules"][0]["protocol"] = "foo"
    file.write_text(json.dumps({"security_groups": [group]}))
    ctl = Ctl()("render", "-f", str(file))
    assert (ctl.code, ctl.out) == (1, "")
    assert ctl.err.startswith(f"netagentctl: {file}: security_groups[0].rules[0].protocol: 'foo' is not a protocol")
    missing = tmp_path / "missing"
    said = (2, "", f"netagentctl: --file {missing}: No such file or directory\n")
    for words in (["render"], ["apply"], ["set", "networks"]):
        assert Ctl()(*words, "-f", str(missing)).said == said


def test_it_is_for_the_packet_filter_that_is_configured_or_asked_for(tmp_path: Path, state: str) -> None:
    heads = {
        "iptables": HEAD,
        "auto": f"{HEAD}; [firewall] backend = auto: a host that decides for nftables has --backend nftables",
        "nftables": "# nft -f takes this where these tables are not yet",
    }
    for configured, head in heads.items():
        ctl = _configured(tmp_path, f"[firewall]\nbackend = {configured}\n")
        assert ctl("render", "-f", state).out.splitlines()[0] == head
        for asked in ("iptables", "nftables"):
            assert ctl("render", "-f", state, "--backend", asked).out.splitlines()[0] == heads[asked]


def test_one_family_is_all_that_its_program_takes(tmp_path: Path) -> None:
    state = _written(tmp_path, MEMBERS)
    both = Ctl()("render", "-f", state).out
    found = {family: Ctl()("render", "-f", state, "--family", family).out for family in ("4", "6")}
    for family, program in (("4", "iptables"), ("6", "ip6tables")):
        head, heading, *lines = found[family].splitlines()
        assert heading == f"# {program}"
        sets = [line for line in lines if line.startswith("# ipset ")]
        assert lines[: len(sets)] == sets
        assert f"# ipset create nova-netagent-g{family}-b0000001 hash:net family inet{'6' * (family == '6')}" in sets
        assert lines.count("COMMIT") == 4
        assert not [line for line in lines if line[0] not in "#*:-C"]
        assert "\n".join([heading, *lines]) in both
    assert both.splitlines() == [head, *found["4"].splitlines()[1:], *found["6"].splitlines()[1:]]


def test_a_script_has_the_tables_of_the_families_that_are_asked_for(tmp_path: Path) -> None:
    ctl, state = _configured(tmp_path, "[firewall]\nbackend = nftables\n"), _written(tmp_path, MEMBERS)
    tables = {"4": "table ip nova-netagent {", "6": "table ip6 nova-netagent {"}
    assert [line for line in ctl("render", "-f", state).out.splitlines() if line in tables.values()] == [
        *tables.values()
    ]
    for family, table in tables.items():
        lines = ctl("render", "-f", state, "--family", family).out.splitlines()
        assert [line for line in lines if line.startswith("table ")] == [table]
        assert f"\tset nova-netagent-g{family}-b0000001 {{" in lines


def test_a_script_says_what_nft_cannot(tmp_path: Path) -> None:
    lines = Ctl()("render", "-f", _written(tmp_path, MEMBERS), "--backend", "nftables").out.splitlines()
    unspoken = [line for line in lines if "physdev" in line]
    assert unspoken
    assert {line[: line.index(":")] for line in unspoken} == {"\t\t# not for nft -f"}
    assert lines[1] == (f"# incomplete for nft -f: rules that only netlink can say stand as comments ({len(unspoken)})")


def test_a_chain_of_the_operators_is_asked_for(tmp_path: Path, state: str) -> None:
    ctl = _configured(tmp_path, "[firewall]\niptables_drop_action = LOGDROP\n")
    for backend, where in (("iptables", ""), ("nftables", "in each of these tables, which are there then, ")):
        lines = ctl("render", "-f", state, "--backend", backend).out.splitlines()
        assert lines[1] == f"# the chain LOGDROP is yours ([firewall] iptables_drop_action): make it {where}first"
