"""Other programs' rules: kept byte for byte, with their counters and in their order."""

import re

import pytest

from nova_netagent.backend.iptables import IptablesBackend
from nova_netagent.backend.iptables.commit import edit_by_libiptc, replace_table
from nova_netagent.backend.iptables.entry import decode, encode
from nova_netagent.backend.iptables.tables import KernelTables
from nova_netagent.netfilter.rule import ACCEPT, DROP, Comment, Family, Jump, Opaque, Ports, Rule, TableId
from nova_netagent.plan.tables import AddChain, Delete, Edit, Insert, RemoveChain, TablePlan
from tests.functional.backend.legacy import FILTER, encoded, iptables, new_backend, put, restore, run, save

FILTER_4 = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:LIBVIRT_FWI - [0:0]
:abcdefghijklmnopqrstuvwxyz01 - [0:0]
:empty - [0:0]
[1:60] -A INPUT -i virbr0 -p udp -m udp --dport 67 -j ACCEPT
[2:120] -A INPUT -m limit --limit 5/min --limit-burst 7 -j LOG --log-prefix "drop: " --log-level 7 --log-uid
[3:180] -A INPUT -m recent --update --seconds 60 --hitcount 4 --name ssh --mask 255.255.255.255 --rsource -j DROP
[4:240] -A INPUT -m state --state NEW -j NFLOG --nflog-prefix "new flow" --nflog-group 5
[5:300] -A INPUT -m hashlimit --hashlimit-above 10/sec --hashlimit-mode srcip --hashlimit-name h -j DROP
[6:360] -A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN ! --dport 80 -j ACCEPT
[7:420] -A INPUT -p tcp -m multiport --dports 80,443,8000:8080 -j ACCEPT
[8:480] -A INPUT -s 10.0.0.0/255.0.255.0 -f -j DROP
[9:540] -A INPUT -m comment --comment "nova-netagent-local" -j ACCEPT
[10:600] -A INPUT -m comment --comment "nova-netagent-local" -j ACCEPT
[11:660] -A INPUT
[12:720] -A INPUT -j QUEUE
[13:780] -A INPUT -j REJECT --reject-with icmp-net-unreachable
[14:840] -A INPUT -m set --match-set foreign src,dst -j ACCEPT
[15:900] -A INPUT -m set ! --match-set foreign src -j SET --add-set foreign dst
[16:960] -A FORWARD -j DOCKER-USER
[17:1020] -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
[18:1080] -A FORWARD -o docker0 -j DOCKER
[19:1140] -A FORWARD -d 192.168.122.0/24 -o virbr0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
[20:1200] -A FORWARD -m pkttype --pkt-type multicast -j abcdefghijklmnopqrstuvwxyz01
[21:1260] -A FORWARD -m statistic --mode nth --every 3 --packet 0 -g LIBVIRT_FWI
[22:1320] -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
[23:1380] -A DOCKER-USER -m iprange --src-range 10.0.0.1-10.0.0.9 -j RETURN
[24:1440] -A OUTPUT -m owner --uid-owner 0 -j RETURN
[25:1500] -A abcdefghijklmnopqrstuvwxyz01 -m string --string "x" --algo bm --to 65535 -j DROP
COMMIT
"""

NAT_4 = """\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
[1:60] -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
[2:60] -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
[3:60] -A POSTROUTING -s 192.168.122.0/24 -p tcp -j MASQUERADE --to-ports 1024-65535 --random-fully
[4:60] -A POSTROUTING -s 10.0.0.0/8 -j SNAT --to-source 192.0.2.1-192.0.2.9 --persistent
[5:60] -A DOCKER ! -i docker0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80-90
[6:60] -A DOCKER -p tcp -j REDIRECT --to-ports 1-9 --random
[7:60] -A DOCKER -d 192.0.2.0/24 -j NETMAP --to 198.51.100.0/24
COMMIT
"""

MANGLE_4 = """\
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
[1:60] -A PREROUTING -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff
[2:60] -A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
[3:60] -A POSTROUTING -j DSCP --set-dscp 0x2e
[4:60] -A POSTROUTING -m mark ! --mark 0x1 -j TTL --ttl-inc 1
COMMIT
"""

RAW_4 = """\
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
[1:60] -A PREROUTING -m rpfilter --invert -j DROP
[2:60] -A PREROUTING -j CT --notrack
[3:60] -A PREROUTING -j CT --zone 5
COMMIT
"""

FILTER_6 = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:LIBVIRT_INP - [0:0]
[1:60] -A INPUT -j LIBVIRT_INP
[2:60] -A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 134 -m hl --hl-eq 255 -j ACCEPT
[3:60] -A INPUT -m rt --rt-type 0 -j DROP
[4:60] -A INPUT -m frag --fragmore -j DROP
[5:60] -A INPUT -j REJECT --reject-with icmp6-adm-prohibited
[6:60] -A LIBVIRT_INP -i virbr0 -p udp -m udp --dport 547 -j ACCEPT
[7:60] -A LIBVIRT_INP -m limit --limit 1/hour -j LOG
COMMIT
"""

RULES = [
    (4, "filter", FILTER_4),
    (4, "nat", NAT_4),
    (4, "mangle", MANGLE_4),
    (4, "raw", RAW_4),
    (6, "filter", FILTER_6),
]


@pytest.fixture(params=RULES, ids=lambda param: f"{param[1]}-{param[0]}")
def foreign(empty_tables: None, request: pytest.FixtureRequest) -> TableId:
    """A table full of other programs' rules."""
    family: Family
    family, name, lines = request.param
    run("ipset", "create", "foreign", "hash:ip,port")
    restore(family, lines, "-c")
    return TableId(family, name)


def hook(table: TableId) -> str:
    return "OUTPUT" if table.name == "raw" else "INPUT"


def test_foreign_rules_and_counters_survive_our_commits(either_backend: IptablesBackend, foreign: TableId) -> None:
    backend = either_backend
    before = save(foreign, "-c")
    bytes_before = as_bytes(foreign)
    assert sum("-A" in line for line in before) >= 3
    target, drop = encoded(backend, foreign, [Rule(Jump("ours")), Rule(DROP)])
    with backend.locked():
        backend.read(foreign, fresh=True)
        backend.apply(TablePlan(foreign, (AddChain("ours"), Insert("ours", 0, drop), Insert(hook(foreign), 0, target))))
        assert set(before) < set(save(foreign, "-c"))
        backend.apply(TablePlan(foreign, (Insert(hook(foreign), 1, drop), Delete(hook(foreign), 0, target))))
        backend.apply(TablePlan(foreign, (Delete(hook(foreign), 0, drop), RemoveChain("ours"))))
    assert save(foreign, "-c") == before
    assert as_bytes(foreign) == bytes_before


def test_both_ways_to_commit_leave_the_same_bytes(empty_tables: None, foreign: TableId) -> None:
    left: list[tuple[bytes, ...]] = []
    for commit in (replace_table, edit_by_libiptc):
        backend = new_backend(commit=commit)
        keys = encoded(backend, foreign, [Rule(Jump("ours-b")), Rule(Jump("zz-ours")), Rule(DROP), Rule(ACCEPT)])
        to_b, to_z, drop, accept = keys
        made = (AddChain("zz-ours"), AddChain("ours-b"), AddChain("ours-a"), Insert("zz-ours", 0, drop))
        linked = (Insert("ours-b", 0, to_z), Insert("ours-b", 1, accept), Insert("ours-a", 0, to_b))
        backend.apply(read(backend, foreign, *made, *linked, Insert(hook(foreign), 0, to_b)))
        predicted = kernels_bytes(foreign)
        backend.apply(read(backend, foreign, Insert(hook(foreign), 1, drop), Delete("ours-b", 1, accept)))
        left.append((predicted, kernels_bytes(foreign)))
        backend.apply(
            read(
                backend,
                foreign,
                Delete(hook(foreign), 1, drop),
                Delete(hook(foreign), 0, to_b),
                *map(RemoveChain, ("ours-a", "ours-b", "zz-ours")),
            )
        )
        left[-1] += (kernels_bytes(foreign),)
        backend.close()
    assert left[0] == left[1]


def read(backend: IptablesBackend, table: TableId, *edits: Edit[bytes]) -> TablePlan[bytes]:
    backend.read(table, fresh=False)
    return TablePlan(table, edits)


def kernels_bytes(table: TableId) -> bytes:
    """The table as the kernel gives it, counters included."""
    reader = KernelTables(table.family)
    try:
        return bytes(reader.read(table.name).blob)
    finally:
        reader.close()


def as_bytes(table: TableId) -> dict[str, tuple[bytes, ...]]:
    reader = KernelTables(table.family)
    try:
        return dict(reader.read(table.name).chains)
    finally:
        reader.close()


def test_a_foreign_rule_decoded_and_encoded_has_the_same_bytes(backend: IptablesBackend, foreign: TableId) -> None:
    keys = [key for keys in backend.read(foreign, fresh=True).values() for key in keys]
    for key in keys:
        rule = decode(key, foreign.family, lambda index: f"set-{index}")
        assert encode(rule, foreign.family, lambda name: int(name.removeprefix("set-"))) == key
    assert any(isinstance(decode(key, foreign.family, lambda _: None).target, Opaque) for key in keys)


def test_counters_and_policies_are_those_of_iptables_save(backend: IptablesBackend, foreign: TableId) -> None:
    counted = backend.counters(foreign)
    ours = [f"[{count.packets}:{count.octets}]" for chain in counted.values() for count, _ in chain.rules]
    theirs = [line.split()[0] for line in save(foreign, "-c") if line.startswith("[")]
    assert sorted(ours) == sorted(theirs)
    policies = re.findall(r":(\S+) (ACCEPT|DROP) ", run(f"{_command(foreign)}-save", "-t", foreign.name))
    assert {name: chain.policy for name, chain in counted.items() if chain.policy} == dict(policies)


def _command(table: TableId) -> str:
    return "iptables-legacy" if table.family == 4 else "ip6tables-legacy"


FOREIGN = (
    "-s 10.0.0.0/8 -p tcp -m tcp --dport 22 -j ACCEPT",
    "-f -j DROP",
    "-m limit --limit 5/min -j LOG",
)


def test_a_foreign_rule_is_described_as_iptables_save_does(backend: IptablesBackend) -> None:
    for rule in FOREIGN:
        iptables(FILTER, f"-A INPUT {rule}")
    assert [backend.describe(FILTER, key) for key in backend.read(FILTER, fresh=True)["INPUT"]] == list(FOREIGN)


def test_rules_of_others_that_come_and_go_are_not_remembered(backend: IptablesBackend) -> None:
    for number in range(1, 6):
        rule = f"-s 192.0.2.{number}/32 -m statistic --mode nth --every 3 --packet 0 -j DROP"
        restore(4, f"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT {rule}\nCOMMIT\n")
        (key,) = backend.read(FILTER, fresh=True)["INPUT"]
        assert backend.describe(FILTER, key) == rule
    assert list(backend._spellings[FILTER]) == [key]


def test_where_nobody_can_say_more_a_foreign_rule_is_described_as_far_as_we_know(
    backend: IptablesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rule in FOREIGN:
        iptables(FILTER, f"-A INPUT {rule}")
    keys = backend.read(FILTER, fresh=True)["INPUT"]
    monkeypatch.setenv("PATH", "/nonexistent")
    described = [backend.describe(FILTER, key) for key in keys]
    assert described[0] == FOREIGN[0]
    assert "ip header" in described[1]
    assert "-m limit" in described[2]
    assert "-j LOG" in described[2]


def test_a_chain_that_changed_meanwhile_is_not_taken_for_what_was_read(backend: IptablesBackend) -> None:
    for rule in FOREIGN:
        iptables(FILTER, f"-A INPUT {rule}")
    keys = backend.read(FILTER, fresh=True)["INPUT"]
    iptables(FILTER, "-D INPUT 1")
    assert "-m limit --limit" not in backend.describe(FILTER, keys[2])


def test_a_target_without_options_is_not_a_jump(backend: IptablesBackend) -> None:
    iptables(FILTER, "-A INPUT -j REJECT --reject-with icmp-net-unreachable")
    (key,) = backend.read(FILTER, fresh=True)["INPUT"]
    assert backend.jumps_to(key) is None


def test_untouched_rules_keep_their_counters_beside_ours_in_one_chain(backend: IptablesBackend) -> None:
    ours = [
        Rule(ACCEPT, protocol=6, matches=(Ports("tcp", destination=(port, port)), Comment("c"))) for port in (1, 2, 3)
    ]
    keys = put(backend, FILTER, "probe", ours)
    lines = run("iptables-legacy-save", "-c", "-t", "filter")
    for number in range(3):
        lines = lines.replace("[0:0] -A", f"[{number + 5}:{number + 500}] -A", 1)
    restore(4, lines, "-c")
    with backend.locked():
        backend.read(FILTER, fresh=True)
        (new,) = encoded(backend, FILTER, [Rule(DROP)])
        backend.apply(TablePlan(FILTER, (Delete("probe", 1, keys[1]), Insert("probe", 0, new))))
    counted = backend.counters(FILTER)["probe"].rules
    assert [(count.packets, count.octets) for count, _ in counted] == [(0, 0), (5, 500), (7, 502)]
