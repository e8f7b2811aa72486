"""The log of security groups: a line for each packet that the rules of logged groups tell of.

The kernel hands packets out and never waits for us; what there is no room for is lost, and the numbers that
it gives them tell how many. The lines are written by a thread of its own, which only looks at the state that
the engine published.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import IO

from msgspec import Struct

from nova_netagent.backend.netlink import readable
from nova_netagent.backend.nflog import Logged, LogGroup, Overrun
from nova_netagent.compile.group_log import mark
from nova_netagent.compile.security_group import without_remote
from nova_netagent.model import DesiredState, Instance, SecurityGroup, protocols
from nova_netagent.model.objects import ETHERTYPES, SecurityGroupRule, Vif
from nova_netagent.netfilter.headers import head_of
from nova_netagent.netfilter.packet import Packet, matches
from nova_netagent.netfilter.text import end_text
from nova_netagent.settings import SecurityGroupLogSettings

LOG = logging.getLogger(__name__)

_TURN = 0.5
"""Seconds after which it is looked whether to end."""
_COMPLAINTS = 60.0
"""Seconds between two complaints about a file that cannot be written."""


class GroupLog:
    """Writes the log, on a thread of its own, from ``start`` to ``stop``.

    :param state: what is described at the moment.
    :param count: is told what became of how many packets: ``logged``, ``lost`` or ``unwritten``.
    :raises Unavailable: the kernel has no NFLOG, or another program hears the group.
    """

    def __init__(
        self, settings: SecurityGroupLogSettings, state: Callable[[], DesiredState], count: Callable[[str, int], None]
    ) -> None:
        self._count = count
        self._settings = settings
        self._state = state
        self._group = LogGroup(settings.nflog_group)
        self._file = _File(settings.file)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="group log", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._file.begin()
        self._thread.start()

    def stop(self) -> None:
        """Write what was told until now, and end."""
        self._stopping.set()
        self._thread.join(2 * _TURN)
        self._group.close()
        self._file.close()

    def _run(self) -> None:
        known: Known | None = None
        while not self._stopping.is_set():
            if not readable([self._group], _TURN):
                continue
            state = self._state()
            if known is None or known.state is not state:
                known = Known(state, self._settings)
            try:
                self._write(self._group.read(), known)
            except Overrun:
                continue  # how many were lost, the number of the next one tells
            except Exception:
                LOG.exception("a logged packet cannot be told")

    def _write(self, told: Sequence[Logged], known: "Known") -> None:
        lost = sum(each.lost for each in told)
        if lost:
            self._count("lost", lost)
            self._file.write([f"{_stamp(time.time())} LOST {lost} packets were not logged: they came too fast"])
        lines = list(known.lines(told, time.time()))
        if lines:
            self._count("logged" if self._file.write(lines) else "unwritten", len(lines))


class _File:
    """A file that others may move away: the next line begins a new one."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._open: IO[str] | None = None
        self._complained = -_COMPLAINTS

    def begin(self) -> None:
        """Have it there, or complain now and not with the first line."""
        try:
            self._current()
        except OSError as error:
            self._complain(error)

    def write(self, lines: Iterable[str]) -> bool:
        """Append lines. What cannot be written is lost, and complained of now and then; false then."""
        text = "".join(f"{line}\n" for line in lines)
        if not text:
            return True
        try:
            file = self._current()
            file.write(text)
            file.flush()
        except OSError as error:
            self.close()
            self._complain(error)
            return False
        return True

    def _complain(self, error: OSError) -> None:
        if time.monotonic() - self._complained >= _COMPLAINTS:
            self._complained = time.monotonic()
            LOG.warning("[security_group_log] file: the log of security groups cannot be written: %s", error)

    def close(self) -> None:
        """Close it."""
        file, self._open = self._open, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                LOG.warning("the log of security groups may lack its end: %s", error)

    def _current(self) -> IO[str]:
        if self._open is not None:
            try:
                if os.path.samestat(os.stat(self._path), os.fstat(self._open.fileno())):
                    return self._open
            except FileNotFoundError:
                pass
            self.close()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._open = os.fdopen(os.open(self._path, flags, 0o640), "a")
        return self._open


class _Member(Struct, frozen=True):
    instance: Instance
    vif: Vif


class Known:
    """What the packets that are told of belong to, by a state.

    :param device: the name of a link by its number.
    """

    def __init__(
        self, state: DesiredState, settings: SecurityGroupLogSettings, device: Callable[[int], str] | None = None
    ) -> None:
        self.state = state
        self._settings = settings
        self._device = device or _device
        self._groups: Mapping[str, SecurityGroup] = {mark(each.id): each for each in state.of(SecurityGroup)}
        self._instances: Mapping[str, Instance] = {mark(each.id): each for each in state.of(Instance)}
        members = [_Member(instance, vif) for instance in self._instances.values() for vif in instance.vifs]
        self._by_device = {each.vif.devname: each for each in members}
        self._members = members

    def lines(self, told: Iterable[Logged], now: float) -> Iterator[str]:
        """A line for each packet; none for what is not told by us."""
        for each in told:
            line = self._line(each, now)
            if line is not None:
                yield line

    def _line(self, told: Logged, now: float) -> str | None:
        words = told.prefix.split()
        head = head_of(told.packet)
        if len(words) != 3 or words[0] not in ("accept", "drop") or head is None:
            return None
        verdict, direction, whose = words
        packet = head.packet
        member = self._member(told, packet, direction)
        if verdict == "accept":
            group = self._groups.get(whose)
            rule = None if group is None else _rule(group, direction, packet)
            about = [f"group={'?' if group is None else group.id}", f"rule={'?' if rule is None else rule.id}"]
        else:
            instance = self._instances.get(whose)
            groups = () if member is None or instance is None else instance.groups_of(member.vif)
            logged = [each for each in groups if self._settings.logs(each, "drop")]
            about = [f"group={','.join(logged) or '?'}", "rule=none"]
        about.append(f"instance={'?' if member is None else member.instance.id}")
        return " ".join([_stamp(now), verdict.upper(), direction, *about, _five(packet)])

    def _member(self, told: Logged, packet: Packet, direction: str) -> _Member | None:
        """Whose packet it is: by the bridge port, or by the address."""
        link, address = (told.physin, packet.source) if direction == "egress" else (told.physout, packet.destination)
        found = self._by_device.get(self._device(link)) if link else None
        return found or next((each for each in self._members if address in each.vif.fixed_ips), None)


def _rule(group: SecurityGroup, direction: str, packet: Packet) -> SecurityGroupRule | None:
    """The rule by which a group lets a packet through; one that asks for a remote group only where no other does."""
    family = packet.family
    asked = [each for each in group.rules if (each.direction, each.ethertype) == (direction, ETHERTYPES[family])]
    fits = [each for each in asked if matches(without_remote(each, family), packet, {})]
    return next((each for each in fits if each.remote_group_id is None), fits[0] if fits else None)


def _five(packet: Packet) -> str:
    kind = "" if packet.icmp is None else f" type={packet.icmp[0]} code={packet.icmp[1]}"
    source = end_text(packet.source, packet.source_port)
    destination = end_text(packet.destination, packet.destination_port)
    return f"proto={protocols.name(packet.protocol)}{kind} src={source} dst={destination}"


def _stamp(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _device(number: int) -> str:
    try:
        return socket.if_indextoname(number)
    except OSError:
        return ""
