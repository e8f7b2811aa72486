"""What netagentctl render prints is what the agent makes, and the programs that it is for take it."""

import io
import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from nova_netagent import conf
from nova_netagent.backend.nft import Batch, Netlink, attributes
from nova_netagent.backend.nft.expressions import Compare
from nova_netagent.backend.nft.objects import Chain
from nova_netagent.backend.nft.script.rules import words
from nova_netagent.backend.nft.script.tables import UNSPOKEN
from nova_netagent.backend.nftables import keys, members
from nova_netagent.cmd import ctl
from nova_netagent.events import Replace, fold
from nova_netagent.model import DesiredState, State, document
from nova_netagent.netfilter.rule import FAMILIES, IpSet
from nova_netagent.netfilter.text import SET_MARK
from tests.functional.agent.nft import by_name, listed
from tests.functional.backend import nft
from tests.functional.backend.everything import everything
from tests.functional.backend.shapes import CUT, SETS, Shape, shapes
from tests.lab import Namespace, isolation, needs
from tests.lab.rules_only import RulesOnly
from tests.lab.tables import ipsets, iptables_save
from tests.properties import strategies

ON_NFTABLES = needs("nftables", "br_netfilter", "program:nft")
PHYSDEV = "xt match physdev"
CODE = re.compile(r"(icmp(?:v6)? code) \S+")
"""nft(8) has had names for codes, whatever the type, and numbers since."""
CONFIGS = {
    "as nova": "[network]\nfixed_range = 10.0.0.0/8\npublic_interface = eth0\nforce_snat_range = 10.66.0.0/16\n"
    "dmz_cidr = 192.0.2.77/32\nforward_bridge_interface = br1,br2\n[firewall]\n",
    "as neutron": "[network]\nfixed_range = 10.1.0.0/16\nallow_same_net_traffic = false\n"
    "[firewall]\negress_default = deny\niptables_drop_action = REJECT\nwrap_name = _own-name_1\n",
    "logging": "[network]\nfixed_range = 10.0.0.0/8\n[security_group_log]\ngroups = all\n[firewall]\n",
}
Step = tuple[Any, ...]
NewNamespace = Callable[[str], Namespace]


class Host:
    """How an agent is configured, with its rules in a namespace of its own; and what is rendered with that."""

    def __init__(self, folder: Path, config: str, backend: str) -> None:
        self.folder = folder
        self.file = folder / "agent.conf"
        head = f"[DEFAULT]\nmy_ip = 192.0.2.10\nstate_path = {folder}\n"
        self.file.write_text(f"{head}{config}backend = {backend}\n[network]\nmanage_links = false\n")

    def make(self, namespace: Namespace, state: State) -> None:
        """What the agent makes of a state."""

        def make() -> None:
            agent = RulesOnly(conf.load([str(self.file)], []))
            agent.apply(fold(DesiredState(), Replace(state), 0.0))
            agent.close()

        namespace.call(make)

    def rendered(self, state: State, *options: str) -> str:
        """What is printed of it."""
        file, out = self.folder / "state.json", io.StringIO()
        file.write_text(json.dumps(document(state)))
        with redirect_stdout(out), redirect_stderr(io.StringIO()):
            code = ctl.main(["--config-file", str(self.file), "render", "-f", str(file), *options])
        assert code == 0
        return out.getvalue()


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> str:
    return CONFIGS[request.param]


# --- nft


@ON_NFTABLES
def test_nft_takes_everything_and_lists_what_the_agent_made(
    tmp_path: Path, config: str, new_namespace: NewNamespace
) -> None:
    host, state = Host(tmp_path, config, "nftables"), everything()
    made, loaded, tried = map(new_namespace, ("made", "loaded", "tried"))
    host.make(made, state)
    script = host.rendered(state)
    tried.run(["nft", "-c", "-f", "-"], stdin=script)
    assert listed(tried) == ""
    _assert_same(made, loaded, script)
    assert _rules(loaded) == _rules(made)


@ON_NFTABLES
def test_each_family_is_loaded_by_itself(tmp_path: Path, new_namespace: NewNamespace) -> None:
    host, state = Host(tmp_path, CONFIGS["as nova"], "nftables"), everything()
    both, alone = map(new_namespace, ("both", "alone"))
    both.run(["nft", "-f", "-"], stdin=host.rendered(state))
    for family in ("6", "4"):
        alone.run(["nft", "-f", "-"], stdin=host.rendered(state, "--family", family))
    assert by_name(listed(alone)) == by_name(listed(both))


@ON_NFTABLES
@pytest.mark.parametrize("config", [CONFIGS["as nova"], CONFIGS["as neutron"]], ids=["as nova", "as neutron"])
@settings(
    max_examples=6,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(state=strategies.states())
def test_so_it_is_with_any_state(
    tmp_path_factory: pytest.TempPathFactory, config: str, new_namespace: NewNamespace, state: State
) -> None:
    host = Host(tmp_path_factory.mktemp("state"), config, "nftables")
    made, loaded = new_namespace("made"), new_namespace("loaded")
    host.make(made, state)
    _assert_same(made, loaded, host.rendered(state))


def _assert_same(made: Namespace, loaded: Namespace, script: str) -> None:
    """The script says what is listed of what was made, and loads what can be loaded of that."""
    loaded.run(["nft", "-f", "-"], stdin=script)
    text = listed(made)
    assert by_name(listed(loaded)) == by_name(_without(text, PHYSDEV))
    assert _without(script, UNSPOKEN) == _without(script, PHYSDEV)
    said, seen = (by_name(CODE.sub(r"\1", each)) for each in (script.replace(UNSPOKEN, ""), text))
    assert said == seen


def _without(text: str, part: str) -> str:
    """The lines without this."""
    return "".join(f"{line}\n" for line in text.splitlines() if part not in line)


# --- a rule


@pytest.fixture(scope="module")
def netlink() -> Iterator[Netlink]:
    isolation.require()
    made = Netlink()
    nft.empty(made)
    for family in FAMILIES:
        batch, table = Batch(), nft.table(family)
        batch.add_table(table)
        for name in ("other", "o" * 28, "probe"):
            batch.add_chain(table, Chain(name))
        batch.add_set(table, members.set_of(IpSet(SETS[family], family, frozenset())))
        batch.add_set(table, members.set_of(IpSet(CUT[family], family, frozenset(), type="hash:ip,port,ip")))
        made.commit(batch)
    yield made
    nft.empty(made)
    made.close()


@ON_NFTABLES
@pytest.mark.parametrize("shape", [pytest.param(shape, id=name) for name, shape in shapes() if "not-state" not in name])
def test_the_words_of_a_rule_make_the_same_rule(netlink: Netlink, shape: Shape) -> None:
    id_, rule = shape
    sent, table = keys.key(rule, id_.family, lambda name: name), nft.table(id_.family)
    told = words(sent, table.family)
    assert told.loads == (PHYSDEV not in told.text)
    if told.loads:
        chain = f"{table.family.name.lower()} {table.name} probe"
        script = f"flush chain {chain}\nadd rule {chain} {told.text}\n"
        subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True, capture_output=True)
        (again,) = netlink.rules(table, "probe")
        assert _steps(again.expressions) == _steps(sent)


def _rules(namespace: Namespace) -> Mapping[str, Sequence[Sequence[Step]]]:
    """By table and chain, what nft(8) can say of the rules that the kernel has."""

    def read() -> dict[str, list[list[Step]]]:
        netlink, found = Netlink(), dict[str, list[list[Step]]]()
        for table in netlink.tables():
            for rule in netlink.rules(table):
                if b"physdev" not in rule.expressions:
                    found.setdefault(f"{table} {rule.chain}", []).append(_steps(rule.expressions))
        netlink.close()
        return found

    return namespace.call(read)


def _steps(listed: bytes) -> list[Step]:
    """What a rule does with a packet, step by step, however nft(8) puts it.

    It compares neighbouring bytes of a header at once, has ports of translations in another register, counts a
    packet before it looks for its translation, and turns over the bytes of a protocol, which is one.
    """
    steps: list[Step] = []
    expressions = [attributes.parse(each) for each in attributes.parse_list(listed)]
    for expression in expressions:
        name, known = attributes.read_string(expression[1]), attributes.parse(expression.get(2, b""))
        last = steps[-1] if steps else None
        match name:
            case "cmp" if _is_load(last) and attributes.read_number(known[2]) == Compare.EQUAL:
                _, base, offset, *_ = steps.pop()
                value = attributes.parse(known[3])[1]
                steps += [("byte", base, offset + at, byte) for at, byte in enumerate(value)]
            case "payload":
                steps.append(("load", *(attributes.read_number(known[kind]) for kind in (2, 3, 4, 1))))
            case "counter":
                pass
            case "byteorder" if attributes.read_number(known[4]) == 1:
                pass
            case "immediate" if 2 not in attributes.parse(known[2]):
                steps.append((name, known[2]))
            case "nat":
                steps.append((name, known[1], known[2], 5 in known))
            case _:
                steps.append((name, *((kind, value) for kind, value in sorted(known.items()) if any(value))))
    return steps


def _is_load(step: Step | None) -> bool:
    return step is not None and step[0] == "load"


# --- iptables


@needs("iptables", "ip6tables", "ipset", "br_netfilter", "program:iptables-legacy-restore")
def test_iptables_takes_each_family_as_it_is(tmp_path: Path, config: str, new_namespace: NewNamespace) -> None:
    host, state = Host(tmp_path, config, "iptables"), everything()
    made, loaded = map(new_namespace, ("made", "loaded"))
    host.make(made, state)
    for family, program in zip(FAMILIES, ("iptables-legacy-restore", "ip6tables-legacy-restore"), strict=True):
        text = host.rendered(state, "--family", str(family))
        sets = [line.removeprefix(SET_MARK) for line in text.splitlines() if line.startswith(SET_MARK)]
        loaded.run(["ipset", "restore"], stdin="".join(f"{line}\n" for line in sets))
        loaded.run([program, "-w", "--test"], stdin=text)
        assert iptables_save(loaded, family=family).count("\n-A ") == 0
        loaded.run([program, "-w", "--noflush"], stdin=text)
        assert _sorted(iptables_save(loaded, family=family)) == _sorted(iptables_save(made, family=family))
    assert ipsets(loaded) == ipsets(made)


def _sorted(text: str) -> list[str]:
    """The tables by name, each with its chains by name and its rules in order by chain."""
    tables = sorted(text.split("COMMIT\n"))
    return [line for table in tables for line in sorted(table.splitlines(), key=lambda line: line.split(" ")[:2])]
