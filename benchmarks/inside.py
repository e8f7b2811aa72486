"""What is measured in a process of its own, in a host's namespace: one kernel, one thread, one memory."""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from benchmarks.figures import timed
from benchmarks.scene import Scene
from nova_netagent.backend.iptables.entry import encode
from nova_netagent.backend.iptables.image import Image
from nova_netagent.backend.iptables.libiptc import Handle
from nova_netagent.backend.iptables.tables import KernelTables
from nova_netagent.backend.nft import Batch, Netlink
from nova_netagent.cmd.agent import collect_rarely, return_memory
from nova_netagent.compile import ALL_TABLES
from nova_netagent.events import Put, Replace, fold
from nova_netagent.model import DesiredState
from nova_netagent.netfilter.rule import FAMILIES, RETURN, Family, Rule, TableId
from tests.lab import Namespace
from tests.lab.rules_only import RulesOnly, settings

CHANGED_BY_AN_INSTANCE = [TableId(family, table) for family in FAMILIES for table in ("raw", "filter")]


def run(host: Namespace, name: str, *arguments: Any) -> Any:
    """Run a function of this module in a process of its own in a host."""
    program = f"from benchmarks import inside; inside.answer({name!r}, {json.dumps(arguments)})"
    done = host.run([sys.executable, "-c", program], timeout=300)
    return json.loads(done.stdout.strip().splitlines()[-1])


def answer(name: str, arguments: list[Any]) -> None:
    """Print what a function of this module finds."""
    collect_rarely()
    return_memory()
    print(json.dumps(globals()[name](*arguments)))


def cold(size: int, shared: int) -> tuple[float, float]:
    """A whole state, and what of it the kernel takes to replace the tables."""
    with tempfile.TemporaryDirectory() as folder:
        desired = fold(DesiredState(), Replace(Scene(size, shared).state()), 0.0)
        host = RulesOnly(settings(folder, "iptables"))
        before = _images(ALL_TABLES)
        ours = timed(lambda: host.apply(desired, verify=True))
        after = {table: image for table, image in _images(ALL_TABLES).items() if image.chains != before[table].chains}
        _replace(after, {table: before[table] for table in after})
        return ours, _replace(before, after)


def member(size: int, shared: int, runs: int) -> dict[str, float]:
    """One remote member more, and a read and a commit of the table that would hold it as rules."""
    scene = Scene(size, shared, remote=True)
    found: dict[str, list[float]] = {"ours": [], "read": [], "commit": []}
    with tempfile.TemporaryDirectory() as folder:
        state = fold(DesiredState(), Replace(scene.state()), 0.0)
        host = RulesOnly(settings(folder, "iptables"))
        host.apply(state, verify=True)
        # The first one makes the set.
        for number in range(runs + 2):
            more = tuple(f"192.0.2.{index}" for index in range(1, number + 2))
            state = fold(state, Put(scene.group(1, members=more)), 0.0)
            found["ours"].append(timed(lambda state=state: host.apply(state)))  # type: ignore[misc]
            read, commit = _commit([TableId(4, "filter")])
            found["read"].append(read)
            found["commit"].append(commit)
    return {name: statistics.median(spent[2:]) for name, spent in found.items()}


def nft(size: int, shared: int, runs: int) -> dict[str, tuple[float, float]]:
    """A whole state and one instance more with nftables: processor time, and what of it the kernel's part is."""
    scene = Scene(size, shared)
    with tempfile.TemporaryDirectory() as folder:
        state = fold(DesiredState(), Replace(scene.state()), 0.0)
        host = RulesOnly(settings(folder, "nftables"))
        cold = _beside_its_send(lambda: host.apply(state, verify=True))
        more = []
        for number in range(size + 1, size + runs + 3):
            state = fold(state, Put(scene.group(scene.group_of(number))), 0.0)
            state = fold(state, Put(scene.instance(number)), 0.0)
            more.append(_beside_its_send(lambda state=state: host.apply(state)))  # type: ignore[misc]
    ours, sends = zip(*more[2:], strict=True)
    return {"cold": cold, "more": (statistics.median(ours), statistics.median(sends))}


def _beside_its_send(function: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds of processor time that a call takes, and that the transactions take which it sends."""
    sends: list[float] = []
    transact = Netlink._transact

    def timed_send(self: Netlink, batch: Batch, generation: int | None, *, commit: bool) -> None:
        start = time.process_time()
        transact(self, batch, generation, commit=commit)
        sends.append((time.process_time() - start) * 1000)

    Netlink._transact = timed_send  # type: ignore[method-assign]
    try:
        start = time.process_time()
        function()
        return (time.process_time() - start) * 1000, sum(sends)
    finally:
        Netlink._transact = transact  # type: ignore[method-assign]


def bare_commit(runs: int, tables: Sequence[tuple[Family, str]] | None = None) -> float:
    """Each of these tables, else of those that an instance more changes, read and replaced by bare system calls."""
    asked = CHANGED_BY_AN_INSTANCE if tables is None else [TableId(*each) for each in tables]
    return _median(runs, lambda: sum(_commit(asked)))


def bare_read(runs: int) -> float:
    """All tables, read by bare system calls."""
    kernels = {family: KernelTables(family) for family in FAMILIES}

    def read() -> float:
        start = time.perf_counter()
        for table in ALL_TABLES:
            kernels[table.family].entries(table.name)
        return (time.perf_counter() - start) * 1000

    return _median(runs, read)


def libiptc_commit(runs: int) -> float:
    """A rule more in each of these tables: the least that libiptc can do for it."""
    return _median(runs, lambda: timed(_libiptc))


def _commit(tables: Sequence[TableId]) -> tuple[float, float]:
    """Milliseconds that the kernel takes to give these tables, and to take them again."""
    images = _images(tables)
    with _kernels() as kernels:
        reads = sum(timed(partial(kernels[table.family].entries, table.name)) for table in tables)
    return reads, _replace(images, images)


def _replace(before: Mapping[TableId, Image], after: Mapping[TableId, Image]) -> float:
    """Milliseconds that the kernel takes to put tables in the place of others."""
    with _kernels() as kernels:
        return sum(
            timed(partial(kernels[table.family].replace, table.name, before[table], image))
            for table, image in after.items()
        )


def _images(tables: Iterable[TableId]) -> dict[TableId, Image]:
    """What tables hold now."""
    with _kernels() as kernels:
        return {table: kernels[table.family].read(table.name) for table in tables}


@contextmanager
def _kernels() -> Iterator[Mapping[Family, KernelTables]]:
    kernels: dict[Family, KernelTables] = {family: KernelTables(family) for family in FAMILIES}
    try:
        yield kernels
    finally:
        for kernel in kernels.values():
            kernel.close()


def _libiptc() -> None:
    for table in CHANGED_BY_AN_INSTANCE:
        with Handle(table) as handle:
            handle.append(
                "PREROUTING" if table.name == "raw" else "FORWARD", encode(Rule(RETURN), table.family, lambda _: 0)
            )
            handle.commit()


def _median(runs: int, function: Callable[[], float]) -> float:
    function()
    return statistics.median(function() for _ in range(runs))
