"""The kernel's own trace: which rules a packet meets, told by the kernel as it meets them.

A rule in a table of our own marks the packets (``meta nftrace set 1``), before anybody else sees
them, and no more of them than its limit lets through. Of a marked packet nf_tables tells each rule
(NFTRACE), and so do the legacy tables, through the logger of their family, for which nfnetlink_log
is put in as long as it takes. The table is owned by our socket: the kernel takes it away when that
is closed, however we end. The logger is noted in a file, and put back by whoever finds that.

Sources: net/netfilter/nf_tables_trace.c, net/ipv4/netfilter/ip_tables.c (``trace_packet``),
net/netfilter/nf_log.c.
"""

import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from msgspec import Struct

from nova_netagent.backend import BackendError, RuleRefused, Unavailable
from nova_netagent.backend.netlink import let_wait, messages, readable
from nova_netagent.backend.nflog import Logged, LogGroup, Overrun
from nova_netagent.backend.nft import expressions
from nova_netagent.backend.nft.attributes import parse, read_long, read_number, read_signed, read_string
from nova_netagent.backend.nft.batch import Batch
from nova_netagent.backend.nft.expressions import Base, Expression, Meta
from nova_netagent.backend.nft.netlink import Netlink, lacks_nf_tables
from nova_netagent.backend.nft.objects import BaseHook, Chain, Family, TableId
from nova_netagent.backend.nft.statements import Field, equals, rule
from nova_netagent.model import values

LOG = logging.getLogger(__name__)

RATE, BURST = 5, 10
"""So many packets a second are watched, and so many at once: the kernel tells some fifty rules of each."""
_GROUP = 0
"""The one to which the legacy tables tell."""
_TRACE_GROUP, _SUBSYSTEM, _TRACE = 9, 10, 17
_SOL_NETLINK, _JOIN, _NETLINK_NETFILTER = 270, 1, 12
_ROOM, _READ = 4 << 20, 1 << 17
_FIRST = -450
"""Before everybody: iptables' raw is at -300, what defragments at -400 (NF_IP_PRI_CONNTRACK_DEFRAG)."""
_PREROUTING, _OUTPUT = 0, 3
_TURN = 0.2
"""Seconds after which it is looked whether to leave off."""
_MOST = 20_000
"""So many rules are enough."""
_LOGGERS = Path("/proc/sys/net/netfilter/nf_log")
_TABLES = {4: Path("/proc/net/ip_tables_names"), 6: Path("/proc/net/ip6_tables_names")}
_LEGACY = "nfnetlink_log"


class Watched(Struct, frozen=True):
    """The packets that are meant."""

    source: str
    destination: str
    protocol: int
    destination_port: int | None = None
    icmp_type: int | None = None

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.source else 4


class Traced(Struct, frozen=True):
    """A rule of nf_tables that a packet met, or the policy at the end of a base chain."""

    number: int
    """Of the packet, as far as the kernel tells packets apart."""
    table: TableId
    chain: str
    handle: int | None
    verdict: tuple[int, str | None]
    header: bytes
    """IP's and what follows it; empty but for the first rule of each base chain."""
    indev: int
    outdev: int


Met = Traced | Logged


def note(state_path: str) -> Path:
    """The file that tells what a trace has to put back."""
    return Path(state_path) / "trace"


def table_of(wrap_name: str) -> TableId:
    """The table that is there while packets are watched."""
    return TableId(Family.INET, f"{wrap_name}-trace")


class Tracer:
    """Watches packets, from its making until it is closed.

    :param note: the file that tells, should nobody live to close this, what is to be put back.
    :raises Unavailable: the kernel has no nf_tables, or does not let us.
    """

    def __init__(self, wrap_name: str, watched: Watched, note: Path) -> None:
        self._table = table_of(wrap_name)
        self._note = note
        self._family = watched.family
        self.blind = ""
        """Why the rules of the legacy tables are not seen; empty where they are, or where there are none."""
        self.lost = False
        """Whether something was told that we had no room for."""
        self._legacy: LogGroup | None = None
        self._netlink = Netlink()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        try:
            self._socket.bind((0, 0))
            let_wait(self._socket, _ROOM)
            self._socket.setsockopt(_SOL_NETLINK, _JOIN, _TRACE_GROUP)
            self._hear_legacy()
            self._mark(watched)
        except OSError as error:
            self.close()
            raise Unavailable(f"the kernel's trace: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Tracer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take everything away that was put in."""
        with suppress(BackendError):
            _remove(self._netlink, self._table)
        self._netlink.close()
        self._socket.close()
        if self._legacy is not None:
            self._legacy.close()
        put_back(self._note)

    def events(self, seconds: float) -> Iterator[Met]:
        """What marked packets meet, as it is told, for so long."""
        end = time.monotonic() + seconds
        heard: list[socket.socket | LogGroup] = [self._socket]
        if self._legacy is not None:
            heard.append(self._legacy)
        while (left := end - time.monotonic()) > 0:
            for each in readable(heard, left):
                yield from self._read() if each is self._socket else self._read_legacy()

    def bases(self) -> dict[tuple[Family, str, str], tuple[int, int]]:
        """The base chains that there are now. :raises Unavailable: the kernel does not list them."""
        return {
            (table.family, table.name, chain.name): (chain.hook, chain.priority)
            for table, chain in self._netlink.hooked()
            if chain.hook is not None
        }

    def _read(self) -> Iterator[Met]:
        try:
            data = self._socket.recv(_READ)
        except OSError:
            self.lost = True
            return
        for kind, _, _, content in messages(data):
            if kind == _SUBSYSTEM << 8 | _TRACE:
                found = _traced(content)
                if found.table != self._table:
                    yield found

    def _read_legacy(self) -> Iterator[Met]:
        assert self._legacy is not None
        try:
            yield from (each for each in self._legacy.read() if each.prefix.startswith("TRACE: "))
        except Overrun:
            self.lost = True

    def _hear_legacy(self) -> None:
        if not _has_legacy_tables(self._family):
            return
        try:
            self._legacy = LogGroup(_GROUP, _ROOM)
            logger = _LOGGERS / str(values.SOCKET_FAMILY[self._family].value)
            before = logger.read_text().strip()
            if before != _LEGACY:
                self._note.write_text(f"{logger.name} {before}\n")
                logger.write_text(_LEGACY)
        except (Unavailable, OSError) as error:
            self.blind = f"rules of the legacy tables are not seen: {error}"
            LOG.warning("%s", self.blind)

    def _mark(self, watched: Watched) -> None:
        marking = expressions.encode((*_tests(watched), expressions.limit(RATE, BURST), *_MARK))
        for owned in (True, False):
            batch = Batch()
            batch.add_table(self._table, owned=owned)
            for name, hook in (("prerouting", _PREROUTING), ("output", _OUTPUT)):
                batch.add_chain(self._table, Chain(name, BaseHook(hook, _FIRST)))
                batch.add_encoded_rule(self._table, name, marking, what=lambda: "the rule that marks what is traced")
            try:
                self._netlink.commit(batch)
            except RuleRefused:
                if not owned:
                    raise
                # A kernel before 5.12 has no owners: what is left is swept by whoever finds it.
            else:
                return


class Watch(Struct, frozen=True):
    """What was told while packets were watched."""

    events: Sequence[Met]
    bases: Mapping[tuple[Family, str, str], tuple[int, int]]
    """Hook and priority of each base chain of nf_tables, by family, table and name."""
    blind: str
    """As ``Tracer`` has it."""
    lost: bool


def watch(
    wrap_name: str, note: Path, watched: Watched, seconds: float, ended: Callable[[], bool] = lambda: False
) -> Watch:
    """Watch packets for a while.

    :param ended: whether to leave off before that.
    :raises Unavailable: as ``Tracer``, or packets are being watched already.
    """
    with tracing(wrap_name, watched, note) as tracer:
        events: list[Met] = []
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not ended() and len(events) < _MOST:
            events += tracer.events(min(_TURN, left))
        bases = tracer.bases()
    return Watch(events, bases, tracer.blind, tracer.lost)


_TRACING: set[str] = set()
"""The names of the agents of this process that watch packets now."""


@contextmanager
def tracing(wrap_name: str, watched: Watched, note: Path) -> Iterator[Tracer]:
    """Watch packets, which is done once at a time.

    :raises Unavailable: it is being done, or as ``Tracer``.
    """
    if wrap_name in _TRACING:
        raise Unavailable("packets are being traced already")
    _TRACING.add(wrap_name)
    try:
        with Tracer(wrap_name, watched, note) as tracer:
            yield tracer
    finally:
        _TRACING.discard(wrap_name)


def sweep(wrap_name: str, note: Path, *, has_nf_tables: bool) -> bool:
    """Take away what is left of a trace that nobody lived to end; whether there was anything.

    :raises Unavailable: the kernel does not let us.
    """
    if wrap_name in _TRACING:
        return False
    found = put_back(note)
    if has_nf_tables:
        netlink = Netlink()
        try:
            found |= _remove(netlink, table_of(wrap_name))
        except Unavailable as error:
            if not lacks_nf_tables(error):
                raise
        finally:
            netlink.close()
    return found


def put_back(note: Path) -> bool:
    """Put the logger back that a trace replaced; whether one was."""
    try:
        family, _, before = note.read_text().strip().partition(" ")
    except FileNotFoundError:
        return False
    except OSError as error:
        LOG.warning("what a trace may have left is not known: %s", error)
        return False
    try:
        if family in {str(each.value) for each in values.SOCKET_FAMILY.values()}:
            (_LOGGERS / family).write_text(before)
        note.unlink(missing_ok=True)
    except OSError as error:
        LOG.warning("the logger of the address family %s cannot be put back to %s: %s", family, before, error)
        return False
    return True


def _has_legacy_tables(family: int) -> bool:
    try:
        return bool(_TABLES[family].read_text().split())
    except PermissionError:
        return True  # only root may read that; who is not has to take it that there are some
    except OSError:
        return False


def _remove(netlink: Netlink, table: TableId) -> bool:
    if netlink.table_flags(table) is None:
        return False
    batch = Batch()
    batch.delete_table(table)
    netlink.commit(batch)
    return True


_MARK = (
    expressions.load(b"\1"),
    expressions.set_meta(Meta.NFTRACE),
)
_OFFSETS = {4: (12, 16), 6: (8, 24)}
_FAMILY, _PROTOCOL = Field("", 1, key=Meta.NFPROTO), Field("", 1, key=Meta.L4PROTO)
_PORT, _ICMP_TYPE = Field("", 2, base=Base.TRANSPORT, offset=2), Field("", 1, base=Base.TRANSPORT)


def _tests(watched: Watched) -> Sequence[Expression]:
    family = watched.family
    asked = [(_FAMILY, bytes((values.SOCKET_FAMILY[family],)))]
    for offset, address in zip(_OFFSETS[family], (watched.source, watched.destination), strict=True):
        packed = values.packed(address)
        asked.append((Field("", len(packed), base=Base.NETWORK, offset=offset), packed))
    asked.append((_PROTOCOL, bytes((watched.protocol,))))
    if watched.destination_port is not None:
        asked.append((_PORT, watched.destination_port.to_bytes(2, "big")))
    if watched.icmp_type is not None:
        asked.append((_ICMP_TYPE, bytes((watched.icmp_type,))))
    return rule(*(equals(field, value, "") for field, value in asked)).expressions


def _traced(content: bytes) -> Traced:
    known = parse(content[4:])
    verdict = parse(known.get(5, b""))
    code, chain = (read_signed(verdict[1]) if 1 in verdict else -1), read_string(verdict[2]) if 2 in verdict else None
    if 16 in known:
        code = read_number(known[16])
    header = known.get(8, b"")
    return Traced(
        number=read_number(known[6]),
        table=TableId(Family(content[0]), read_string(known[1])),
        chain=read_string(known[2]),
        handle=read_long(known[3]) if 3 in known else None,
        verdict=(code, chain),
        header=header + known.get(9, b"") if header else b"",
        indev=read_number(known[10]) if 10 in known else 0,
        outdev=read_number(known[12]) if 12 in known else 0,
    )
