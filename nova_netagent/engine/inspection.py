"""Questions to the engine that change nothing: what it would do, what it has done, what becomes of a packet."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

from nova_netagent.backend import Unavailable, trace
from nova_netagent.backend.trace import Watch
from nova_netagent.compile import Compiled, Compiler
from nova_netagent.events import Event, Replace, fold, kept
from nova_netagent.explain.answer import explain
from nova_netagent.explain.case import World
from nova_netagent.explain.live import LiveRules
from nova_netagent.explain.owners import with_owners
from nova_netagent.explain.question import Question
from nova_netagent.explain.report import Explanation, Trace
from nova_netagent.explain.traced import told
from nova_netagent.host import Host
from nova_netagent.model import DesiredState, Key
from nova_netagent.netfilter.foreign import Surroundings
from nova_netagent.reconcile import Reconciler
from nova_netagent.revocation import Revocation
from nova_netagent.settings import Settings
from nova_netagent.status import State


class Inspection(NamedTuple):
    """What the engine knows at one moment. For the engine's thread, as what it reads is the engine's."""

    settings: Settings
    state: DesiredState
    compiled: Compiled
    host: Host
    reconciler: Reconciler
    revocation: Revocation
    compiler: Callable[[], Compiler]
    """Makes a compiler for this kernel that remembers nothing."""
    left_out: Mapping[Key, str]
    """The objects of which nothing is compiled, and why."""
    troubles: Mapping[Key, tuple[State, str]]
    clock: Callable[[], float]

    def plan(self, event: Event | None = None) -> list[str]:
        """What the agent would change in the kernel now, or after an event. Changes nothing.

        :raises LateRevision: the event is late.
        :raises BackendError: the kernel cannot be read.
        """
        state = self.state if event is None else fold(self.state, event, self.clock())
        return self.reconciler.plan(self.compiler().compile(state, self.left_out))

    def kept(self, event: Replace) -> Mapping[Key, str]:
        """The objects of a whole state that are newer here, and would stay as they are, each with why."""
        return kept(self.state, event, self.clock())

    def explain(self, question: Question) -> Explanation:
        """What becomes of a packet, by the rules that the kernel has now.

        :raises Invalid: the question names a link that is not here.
        :raises BackendError: the kernel cannot be read.
        """
        compiler = self.compiler()  # one for all attempts: it remembers

        def changed(events: Iterable[Event]) -> tuple[DesiredState, Compiled]:
            state = self.state
            for each in events:
                state = fold(state, each, self.clock())
            return state, compiler.compile(state, self.left_out)

        world = World(self.state, self.compiled, self.host, changed, self.troubles, self.revocation.cut_by)
        return explain(question, world)

    def watcher(self, question: Question) -> Callable[[float, Callable[[], bool]], Watch]:
        """What watches the real packets of a question for some seconds: in a thread of its own, as it takes so long.

        :raises Unavailable: this kernel cannot mark packets.
        """
        if not self.host.can_trace:
            raise Unavailable("packets are marked for the kernel's trace by nf_tables, which this kernel does not have")
        note = trace.note(self.settings.state_path)
        return partial(trace.watch, self.settings.firewall.wrap_name, note, question.watched)

    def traced(self, watch: Watch, seconds: int) -> Trace:
        """What became of the packets that were watched.

        :raises BackendError: the kernel cannot be read.
        """
        host, owner = self.host, self.compiled.scope.owner
        links = host.links.read().links
        # Whose a rule is and what it says is asked here, not whether it would apply to some packet elsewhere.
        around = Surroundings(lambda address: False, lambda address: None)
        live = LiveRules(host.rules, self.compiled.ruleset, owner, around, host.others())
        return told(watch, seconds, self.state, live, owner, {each.index: name for name, each in links.items()})

    def live_chains(self, table: str | None = None, family: int | None = None) -> list[dict[str, object]]:
        """Our chains as the kernel has them now, with counters and with what each rule is there for.

        :param table: one table's; by default every table's.
        :param family: 4 or 6; by default both.
        """
        return [
            with_owners(self.state, chain)
            for each in self.compiled.ruleset.tables.values()
            if table in (None, each.id.name) and family in (None, each.id.family)
            for chain in self.reconciler.rules.live_chains(each)
        ]
