"""What iptables-restore is given to do the same."""

from benchmarks import peers

BEFORE = """\
*filter
:INPUT ACCEPT [5:300]
:ours-local - [0:0]
:ours-inst-1 - [0:0]
:ours-group - [0:0]
-A INPUT -j ours-local
-A ours-local -d 10.1.0.3/32 -j ours-inst-1
-A ours-inst-1 -j ours-group
-A ours-group -p tcp -m tcp --dport 1 -j ACCEPT
-A ours-group -p tcp -m tcp --dport 2 -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
COMMIT
"""
AFTER = """\
*filter
:INPUT ACCEPT [9:700]
:ours-local - [0:0]
:ours-inst-1 - [0:0]
:ours-inst-2 - [0:0]
:ours-group - [0:0]
-A INPUT -j ours-local
-A ours-local -d 10.1.0.3/32 -j ours-inst-1
-A ours-local -d 10.1.0.4/32 -j ours-inst-2
-A ours-inst-1 -j ours-group
-A ours-inst-2 -j ours-group
-A ours-group -p tcp -m tcp --dport 1 -j ACCEPT
-A ours-group -p tcp -m tcp --dport 2 -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
COMMIT
"""


def of_ipv4(text: str) -> peers.Saved:
    return {4: text, 6: ""}


def test_added_are_chains_before_the_rules_that_lead_there() -> None:
    assert peers.added(of_ipv4(BEFORE), of_ipv4(AFTER)) == {
        4: "*filter\n"
        ":ours-inst-2 - [0:0]\n"
        "-A ours-local -d 10.1.0.4/32 -j ours-inst-2\n"
        "-A ours-inst-2 -j ours-group\n"
        "COMMIT\n",
        6: "",
    }


def test_nothing_is_added_where_only_counters_differ() -> None:
    assert peers.added(of_ipv4(BEFORE), of_ipv4(BEFORE.replace("[5:300]", "[6:400]"))) == of_ipv4("")


def test_what_is_gone_is_left_before_it_is_emptied_and_deleted() -> None:
    assert peers.changed(of_ipv4(AFTER), of_ipv4(BEFORE)) == of_ipv4(
        "*filter\n"
        "-D ours-local -d 10.1.0.4/32 -j ours-inst-2\n"
        "-F ours-inst-2\n"
        "-X ours-inst-2\n"
        "COMMIT\n"
    )  # fmt: skip


def test_what_comes_comes_before_what_goes() -> None:
    other = AFTER.replace("10.1.0.4/32", "10.1.0.5/32")
    assert peers.changed(of_ipv4(AFTER), of_ipv4(other)) == of_ipv4(
        "*filter\n"
        "-A ours-local -d 10.1.0.5/32 -j ours-inst-2\n"
        "-D ours-local -d 10.1.0.4/32 -j ours-inst-2\n"
        "COMMIT\n"
    )  # fmt: skip


def test_rules_are_replaced_in_their_places() -> None:
    other = BEFORE.replace("--dport 2 ", "--dport 3 ")
    assert peers.replaced(of_ipv4(BEFORE), of_ipv4(other)) == of_ipv4(
        "*filter\n-R ours-group 2 -p tcp -m tcp --dport 3 -j ACCEPT\nCOMMIT\n"
    )


def test_tables_differ_by_what_is_ours_and_not_by_counters() -> None:
    assert peers.differing(of_ipv4(BEFORE), of_ipv4(AFTER)) == [(4, "filter")]
    assert peers.differing(of_ipv4(BEFORE), of_ipv4(BEFORE.replace("[5:300]", "[6:400]"))) == []


def test_rules_are_counted() -> None:
    assert peers.rules(of_ipv4(AFTER)) == peers.filter_rules(of_ipv4(AFTER)) == 7
