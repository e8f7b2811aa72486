"""The demonstration: what an operator does, and what the packets then do. Any surprise ends it with 1."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nova_netagent.model import SecurityGroupRule, State, document
from nova_netagent.testing import make_floating_ip, make_group, make_instance, make_network, make_rule, make_vif
from tests.lab import Agent, Forged, Lab, Namespace, Tcp, connect, iptables, isolation, refused, tcp

BOLD, DIM, GREEN, RED, RESET = (
    ("\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[0m") if sys.stdout.isatty() else ("",) * 5
)
CONFIG = {"network": {"fixed_range": "10.0.0.0/8", "public_interface": "eth0", "allow_same_net_traffic": "false"}}
FLOATING = "198.51.100.7"


class SurpriseError(Exception):
    """A packet did not do what was announced."""


def main() -> int:
    """Build the lab, run the demonstration, and take everything away."""
    reason = isolation.enter()
    if reason is not None:
        print(f"tools/demo: {reason}", file=sys.stderr)
        return 1
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, Lab(Path(folder)) as lab:
        try:
            Demonstration(lab).run()
        except SurpriseError as error:
            print(f"{RED}surprise: {error}{RESET}", file=sys.stderr)
            return 1
    print(f"{DIM}{time.perf_counter() - started:.1f} s. Nothing of this machine's own network was touched.{RESET}")
    return 0


class Demonstration:
    """One host, two instances, and the outside."""

    def __init__(self, lab: Lab) -> None:
        self.host = lab.host()
        self.outside = lab.outside
        self.outside.links.add_route("10.1.0.0/24", via="192.0.2.10")
        self.outside.links.add_route("198.51.100.0/24", via="192.0.2.10")
        self.web, self.db = self._guest(lab, 1, "web"), self._guest(lab, 2, "db")
        self.names = {self.outside: "outside", self.web: "web", self.db: "db", self.host: "host"}
        self.agent: Agent
        self.lab = lab

    def run(self) -> None:
        """The whole of it, in order."""
        say(
            f"A compute node {DIM}192.0.2.10{RESET}, its instances {DIM}web 10.1.0.2{RESET} and"
            f" {DIM}db 10.1.0.3{RESET}, and the outside {DIM}192.0.2.1{RESET}"
        )
        took = timed(self._start)
        command("nova-netagent --config-file nova-netagent.conf", f"enforcing after {took:.0f} ms")
        count = self._apply()
        command("netagentctl apply -f cloud.json", count)
        self._try_groups()
        self._explain()
        self._revoke()
        took = timed(self._float)
        command("netagentctl set floating-ip -f floating-ip.json", f"{FLOATING} -> web: {took:.0f} ms")
        self.passes(self.outside, FLOATING, 80, "DNAT to web", server=self.web)
        self.passes(self.web, self.outside, 80, "and back out as itself", seen_as=FLOATING)
        command("netagentctl chains", "db's chain as the kernel has it: packets, and why each rule is there")
        self._show_chain()
        self._survive()

    def _guest(self, lab: Lab, number: int, name: str) -> Namespace:
        vif = make_vif(number)
        return lab.instance(
            self.host,
            name,
            tap=vif.device,
            mac=vif.address,
            addresses=[f"10.1.0.{number + 1}/24", f"fd00:1::{number + 1}/64"],
            gateways=["10.1.0.1", "fd00:1::1"],
        )

    def _start(self) -> None:
        self.agent = self.lab.agent(self.host, CONFIG)

    def _apply(self) -> str:
        self.http = make_rule(1, protocol="tcp", port_range_min=80, port_range_max=80)
        web = make_group(1, self.http, name="web")
        sql = make_rule(2, protocol="tcp", port_range_min=5432, port_range_max=5432, remote_group_id=web.id)
        state = State(
            networks=(make_network(1),),
            security_groups=(web, make_group(2, sql, name="db")),
            instances=(make_instance(1, (1,), hostname="web"), make_instance(2, (2,), hostname="db")),
        )
        took = timed(lambda: self.ctl("apply", "-f", "-", stdin=json.dumps(document(state))))
        return f"a network, two groups, two instances: {took:.0f} ms"

    def _try_groups(self) -> None:
        self.passes(self.outside, self.web, 80, "group web lets tcp 80 in")
        self.is_refused(self.outside, self.web, Tcp(22), Tcp(80), "no rule lets it in")
        self.passes(self.web, self.db, 5432, "group db lets group web in")
        self.is_refused(self.outside, self.db, Tcp(5432), None, "the outside is not in group web")
        liar = Forged(Tcp(5432), source="10.1.0.99")
        self.is_refused(self.web, self.db, liar, Tcp(5432), "web says that it is 10.1.0.99")
        address, port = "169.254.169.254", 80
        self.passes(self.web, address, port, "metadata, answered by the host", server=self.host, server_port=8775)
        self.passes(self.web, self.outside, 80, "SNAT of the fixed range", seen_as="192.0.2.10")

    def _explain(self) -> None:
        question = "--proto tcp --src 192.0.2.1:4000 --dst 10.1.0.3:5432"
        found: Any = json.loads(self.ctl("--format", "json", "explain", *question.split()))
        (change,) = found["proposal"]["changes"]
        command(f"netagentctl explain {question}", f"{found['verdict']}: {found['reason']}")
        say(f"  {DIM}what would let it through: {change['text']}{RESET}")

    def _revoke(self) -> None:
        """A rule goes while a connection is open that it let in."""
        with connect(self.outside, self.web, 80) as open_one:
            if not open_one.alive():
                raise SurpriseError("the connection is not open")
            took = timed(lambda: self._describe_web(()))
            if not open_one.dead():
                raise SurpriseError("the connection goes on without a rule")
        command(
            "netagentctl set security-group -f web.json",
            f"its rule goes, and the open connection with it: {took:.0f} ms",
        )
        self._describe_web((self.http,))

    def _describe_web(self, rules: tuple[SecurityGroupRule, ...]) -> None:
        body = document(make_group(1, *rules, name="web"))
        self.ctl("set", "security-group", "-f", "-", stdin=json.dumps(body))

    def _float(self) -> None:
        body = document(make_floating_ip(7, instance=1))
        self.ctl("set", "floating-ip", "-f", "-", stdin=json.dumps(body))

    def _show_chain(self) -> None:
        chains: Any = json.loads(self.ctl("--format", "json", "chains", "--table", "filter", "--family", "4"))
        (chain,) = [each for each in chains["chains"] if each["chain"].endswith("inst-a0000002")]
        for rule in chain["rules"]:
            origin = rule["origin"] or ["", "", ""]
            why = origin[2] or {"security_groups": "the group's own chain"}.get(origin[0], origin[0])
            text = re.sub(r"nova-netagent-(?=\S+$)", "…", rule["rule"])
            print(f"  {rule['packets']:4}  {text:62}  {DIM}{why}{RESET}")

    def _survive(self) -> None:
        iptables(self.host, "-F")
        command("iptables-legacy -F", "somebody flushes the filter table")
        self.passes(self.outside, self.db, 5432, f"{RED}open!{RESET}")
        lines = []
        took = timed(lambda: lines.extend(json.loads(self.ctl("--format", "json", "resync"))["repaired"]))
        command("netagentctl resync", f"{len(lines)} repairs in {took:.0f} ms {DIM}(by itself every 180 s){RESET}")
        self.is_refused(self.outside, self.db, Tcp(5432), None, "closed again")
        before = self.agent.iptables_save(counters=True)
        took = timed(self._restart)
        command("kill -9; nova-netagent", f"enforcing after {took:.0f} ms, {self._writes()} tables written")
        if self.agent.iptables_save(counters=True).count("\n") != before.count("\n"):
            raise SurpriseError("the rules changed over a restart")
        self.agent.stop()
        self.ctl("cleanup")
        left = [line for line in self.agent.iptables_save().splitlines() if "nova" in line]
        if left:
            raise SurpriseError(f"left after cleanup: {left}")
        command("netagentctl cleanup", "nothing of ours is left: no chain, set, bridge, address or sysctl")

    def _restart(self) -> None:
        self.agent.kill9()
        self.agent.start()

    def _writes(self) -> int:
        _, text = self.agent.request("GET", "/metrics")
        return sum(
            int(float(line.split()[-1]))
            for line in str(text).splitlines()
            if line.startswith("netagent_applies_total{")
        )

    # --- what is tried

    def passes(
        self,
        source: Namespace,
        target: Namespace | str,
        port: int,
        why: str,
        seen_as: str | None = None,
        **options: Any,
    ) -> None:
        """A connection that must be answered."""
        answer = tcp(source, target, port, **options)
        seen = answer.seen_as[0] if answer.seen_as else ""
        wrong = seen_as is not None and seen != seen_as
        self._tell(source, target, port, bool(answer), f"{why}{f', seen as {seen}' if seen_as else ''}")
        if not answer or wrong:
            raise SurpriseError(f"{why}: {answer}")

    def is_refused(
        self, source: Namespace, target: Namespace, probe: Tcp | Forged, control: Tcp | None, why: str
    ) -> None:
        """A packet that must not arrive."""
        refusal = refused(source, target, probe, control=control)
        inner = probe.probe if isinstance(probe, Forged) else probe
        assert isinstance(inner, Tcp)
        self._tell(source, target, inner.port, not refusal, why)
        if not refusal:
            raise SurpriseError(f"{why}: it arrived")

    def _tell(self, source: Namespace, target: Namespace | str, port: int, passed: bool, why: str) -> None:
        to = target if isinstance(target, str) else self.names[target]
        sign = f"{GREEN}passes {RESET}" if passed else f"{RED}refused{RESET}"
        print(f"  {self.names[source]:>7} -> {to + f':{port}':20} {sign}  {DIM}{why}{RESET}")

    def ctl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run netagentctl in the host."""
        program = Path(sys.executable).with_name("netagentctl")
        argv = [str(program), "--config-file", str(self.agent.config_file), *arguments]
        return self.host.run(argv, stdin=stdin).stdout


def timed(function: Callable[[], object]) -> float:
    """Milliseconds that a call takes."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1000


def say(text: str) -> None:
    """A line of the story."""
    print(text)


def command(text: str, result: str) -> None:
    """A command and what came of it."""
    print(f"{BOLD}$ {text}{RESET}\n  {result}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (subprocess.CalledProcessError, AssertionError) as failure:
        print(f"tools/demo: {failure}", file=sys.stderr)
        os._exit(1)
