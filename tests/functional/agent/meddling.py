"""What somebody who meddles does to our rules and sets, by the packet filter in which they are."""

from collections.abc import Callable

from tests.functional.agent.nft import W, handle, nft
from tests.lab import Namespace, iptables
from tests.lab.tables import Family

Meddling = Callable[[Namespace], object]

INST = f"{W}-inst-a0000001"

# --- iptables


def rules(*commands: str, family: Family = 4) -> Meddling:
    def meddle(host: Namespace) -> None:
        for command in commands:
            iptables(host, command, family=family)

    return meddle


def sets(*commands: str) -> Meddling:
    def meddle(host: Namespace) -> None:
        for command in commands:
            host.run(["ipset", *command.split()])

    return meddle


_RULES: dict[str, Meddling] = {
    "a chain is flushed": rules(f"-F {W}-inst-a0000001"),
    "our chains are flushed": rules(*(f"-F {W}-{name}" for name in ("INPUT", "FORWARD", "local", "provider"))),
    "a built-in chain is flushed": rules("-F FORWARD"),
    "a table is flushed": rules("-F"),
    "a table is emptied": rules("-F", "-X"),
    "every table is emptied": rules(*(f"-t {t} -{x}" for t in ("raw", "mangle", "filter", "nat") for x in "FX")),
    "IPv6 is emptied": rules(*(f"-t {t} -{x}" for t in ("raw", "mangle", "filter", "nat") for x in "FX"), family=6),
    "a rule is deleted": rules(f"-D {W}-inst-a0000001 1"),
    "a rule is added at the end": rules(f"-A {W}-inst-a0000001 -j ACCEPT"),
    "a rule is added at the top": rules(f"-I {W}-local -j ACCEPT", f"-I {W}-local -j RETURN"),
    "a rule is doubled": rules(f"-I {W}-sg-fallback -j DROP"),
    "rules are reordered": rules(f"-D {W}-provider 1", f"-A {W}-provider -s 203.0.113.0/24 -j DROP"),
    "a rule is replaced by one of the same size": rules(f"-R {W}-provider 1 -s 203.0.114.0/24 -j DROP"),
    "a verdict is turned": rules(f"-R {W}-sg-fallback 1 -j ACCEPT"),
    "a rule in IPv6 is turned": rules(f"-R {W}-sg-fallback 1 -j ACCEPT", family=6),
    "a jump is turned": rules(f"-R {W}-inst-a0000001 1 -j {W}-provider"),
    "a chain is removed": rules(f"-D nova-filter-top -j {W}-local", f"-F {W}-local", f"-X {W}-local"),
    "a shared chain is removed": rules(
        "-D FORWARD -j nova-filter-top", "-D OUTPUT -j nova-filter-top", "-F nova-filter-top", "-X nova-filter-top"
    ),
    "a chain of our grammar is added": rules(f"-N {W}-inst-deadbeef", f"-A {W}-inst-deadbeef -j ACCEPT"),
    "our jump is deleted": rules(f"-t raw -D PREROUTING -j {W}-PREROUTING"),
    "our jump is doubled": rules(f"-A INPUT -j {W}-INPUT"),
    "our jumps are swapped": rules(f"-D FORWARD -j {W}-FORWARD", f"-I FORWARD -j {W}-FORWARD"),
    "a translation is changed": rules(
        f"-t nat -R {W}-PREROUTING 2 -d 198.51.100.1/32 -j DNAT --to-destination 10.1.0.9"
    ),
}
_SETS: dict[str, Meddling] = {
    "a set is flushed": sets(f"flush {W}-g4-b0000001"),
    "all sets are flushed": sets("flush"),
    "a member is deleted": sets(f"del {W}-g4-b0000001 10.1.0.2"),
    "a member is added": sets(f"add {W}-g4-b0000001 203.0.113.0/24"),
    "a member is added in IPv6": sets(f"add {W}-g6-b0000001 2001:db8:bad::/48"),
    "a member is replaced": sets(f"del {W}-g4-b0000001 10.1.0.2", f"add {W}-g4-b0000001 10.1.0.99"),
    "a member excludes": sets(f"del {W}-g4-b0000001 10.1.0.2", f"add {W}-g4-b0000001 10.1.0.2 nomatch"),
    "a set is swapped for another": sets("create x hash:net", f"swap x {W}-g4-b0000001", "destroy x"),
    "a set of our grammar is added": sets(f"create {W}-g4-deadbeef hash:net"),
}


def no_sets(host: Namespace) -> None:
    """Rules first, as the kernel destroys no set that is used."""
    _RULES["every table is emptied"](host)
    _RULES["IPv6 is emptied"](host)
    host.run(["ipset", "destroy"])


# --- nftables


def of_ip(*lines: str) -> Meddling:
    """Lines of nft about our IPv4 table."""
    return lambda host: nft(host, *(line.replace("OURS", f"ip {W}").replace("W-", f"{W}-") for line in lines))


def turned(host: Namespace) -> None:
    at = handle(host, f"{W}-sg-fallback", "drop")
    nft(host, f"replace rule ip {W} {W}-sg-fallback handle {at} accept")


def taken_out(host: Namespace) -> None:
    nft(host, f"delete rule ip {W} {INST} handle {handle(host, INST, '-net-')}")


def doubled(host: Namespace) -> None:
    nft(host, f"add rule ip {W} {INST} counter jump {W}-provider")


def lookup_taken_out(host: Namespace) -> None:
    nft(host, f"delete rule ip {W} {W}-local handle {handle(host, f'{W}-local', 'vmap')}")


_NFTABLES: dict[str, Meddling] = {
    "the ruleset is flushed": of_ip("flush ruleset"),
    "our table is deleted": of_ip("delete table OURS"),
    "our table is emptied": of_ip("flush table OURS"),
    "our table sleeps": of_ip("add table OURS { flags dormant; }"),
    "IPv6's is deleted": lambda host: nft(host, f"delete table ip6 {W}"),
    "a chain is flushed": of_ip("flush chain OURS W-INPUT"),
    "the root is flushed": of_ip("flush chain OURS W-local"),
    "a base chain is flushed": of_ip("flush chain OURS filter-FORWARD"),
    "a base chain is deleted": of_ip("flush chain OURS raw-PREROUTING", "delete chain OURS raw-PREROUTING"),
    "a base chain drops": of_ip("chain OURS filter-OUTPUT { policy drop; }"),
    "a verdict is turned": turned,
    "a rule is taken out": taken_out,
    "a rule is doubled": doubled,
    "a rule is added at the end": lambda host: nft(host, f"add rule ip {W} {INST} accept"),
    "a rule is added at the top": of_ip("insert rule OURS W-local accept"),
    "a rule comes first in an instance's": lambda host: nft(host, f"insert rule ip {W} {INST} accept"),
    "a rule comes first in a base chain": of_ip("insert rule OURS filter-FORWARD accept"),
    "a rule comes before the way to instances": of_ip("insert rule OURS nova-filter-top accept"),
    "a lookup is taken out": lookup_taken_out,
    "an address leads nowhere": of_ip('delete element OURS W-local-hosts { 10.1.0.2 . "br1" }'),
    "an address leads to another": of_ip(
        'delete element OURS W-local-hosts { 10.1.0.2 . "br1" }',
        'add element OURS W-local-hosts { 10.1.0.2 . "br1" : jump W-inst-a0000002 }',
    ),
    "an address that is nobody's": of_ip('add element OURS W-local-hosts { 10.1.0.99 . "br1" : accept }'),
    "every address leads nowhere": of_ip("flush map OURS W-local-hosts"),
    "a map too many": of_ip(
        "add map OURS W-local-nets-24 { type ipv4_addr . ifname : verdict; }",
        'add element OURS W-local-nets-24 { 10.1.0.0 . "br1" : accept }',
    ),
    "a floating IP leads to another": of_ip(
        "delete element OURS W-PREROUTING-floating { 198.51.100.1 }",
        "add element OURS W-PREROUTING-floating { 198.51.100.1 : 10.1.0.3 }",
    ),
    "a floating IP leads nowhere": of_ip("flush map OURS W-n-OUTPUT-floating"),
    "a fixed IP shows as another": of_ip(
        "add element OURS W-float-snat-fixed-itself { 10.1.0.3 . 10.1.0.3 : 1.2.3.4 }"
    ),
    "the translations are flushed": of_ip("flush chain OURS W-float-snat"),
    "a member is added": of_ip("add element OURS W-g4-b0000001 { 203.0.113.0/24 }"),
    "a member is removed": of_ip("delete element OURS W-g4-b0000001 { 10.1.0.2 }"),
    "a set is flushed": of_ip("flush set OURS W-g4-b0000001"),
    "a chain of our grammar": of_ip("add chain OURS W-inst-deadbeef", "add rule OURS W-inst-deadbeef accept"),
    "a chain of another table's": of_ip("add chain OURS W-out-deadbeef"),
    "chains of an older agent's names": of_ip(
        "add chain OURS W-mangle-ports",
        "add rule OURS W-mangle-ports jump W-inst-a0000001",
        "add chain OURS W-raw-to-deadbeef",
        "add rule OURS W-raw-to-deadbeef jump W-mangle-ports",
    ),
    "an older agent's chain of floating IPs": of_ip(
        "add map OURS W-nat-OUTPUT-floating { type ipv4_addr : ipv4_addr; }",
        "add element OURS W-nat-OUTPUT-floating { 198.51.100.1 : 10.1.0.2 }",
        "add chain OURS W-nat-OUTPUT",
        "add rule OURS W-nat-OUTPUT dnat to ip daddr map @W-nat-OUTPUT-floating",
    ),
    "an older agent's map without its chain": of_ip(
        "add map OURS W-nat-OUTPUT-floating { type ipv4_addr : ipv4_addr; }"
    ),
    "a set of our grammar": of_ip("add set OURS W-g4-deadbeef { type ipv4_addr; flags interval; }"),
}

DRIFT: dict[str, dict[str, Meddling]] = {
    "iptables": {**_RULES, **_SETS, "the sets are destroyed": no_sets},
    "nftables": _NFTABLES,
}
