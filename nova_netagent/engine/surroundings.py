"""What of the host is not as the configuration has it, and is nobody's object: it is warned of."""

from collections.abc import Iterable, Iterator, Sequence

from nova_netagent.backend import BackendError
from nova_netagent.compile import Compiler
from nova_netagent.compile.parts import DROP_TARGETS
from nova_netagent.host import Host
from nova_netagent.model import FloatingIP
from nova_netagent.netfilter.rule import FAMILIES, Family, TableId
from nova_netagent.settings import Settings

_STANDS_IN = (
    "[DEFAULT] my_ip is not set, and this host has no IPv4 default route to take it from: until it has, it is {}, as at"
    " the last start"
)


class Surroundings:
    """What the host lacks, and what is in the way, as it was seen last. Engine thread only.

    :param compiler: for this kernel's tables.
    :param awaits_my_ip: ``my_ip`` is not set, and no default route tells it.
    :ivar drop_action: the chain that ends what is refused, or DROP as long as it is not there.
    """

    def __init__(self, settings: Settings, host: Host, compiler: Compiler, *, awaits_my_ip: bool = False) -> None:
        self._host = host
        self._families: Sequence[Family] = compiler.families
        self.drop_action = settings.firewall.iptables_drop_action
        self.reconfigure(settings, compiler, awaits_my_ip=awaits_my_ip)
        self._chainless = self._missing = self._unbound = self._unseen = ""
        self._in_the_way: Sequence[str] = ()

    def reconfigure(self, settings: Settings, compiler: Compiler, *, awaits_my_ip: bool = False) -> None:
        """Tell what is lacking by these settings from now on."""
        lacking = _lacking(settings, compiler, judges_frames=self._host.frames is not None)
        stands_in = (_STANDS_IN.format(settings.my_ip),) if awaits_my_ip and settings.my_ip is not None else ()
        self._settings, self._lacking = settings, (*self._host.warnings, *lacking, *stands_in)

    def warnings(self, *left: str) -> tuple[str, ...]:
        """All that is to be known of it, and of what is left of ours in the other packet filter."""
        seen = (*self._lacking, self._chainless, *left, self._missing, self._unbound, *self._in_the_way, self._unseen)
        return tuple(filter(None, seen))

    def look_around(self) -> None:
        """See whether the public interface is there, which may come and go."""
        public = self._settings.network.public_interface
        try:
            there = public is None or public in self._host.links.read().links
        except BackendError:
            return  # it is told of elsewhere
        missing = f"[network] public_interface = {public}: there is no such interface, and nothing is SNATed meanwhile"
        self._missing = "" if there else missing

    def look_for_unbound(self, floating_ips: Iterable[FloatingIP]) -> bool:
        """See whether floating IPs are bound nowhere; whether that is new, or over."""
        before = self._unbound
        nowhere = self._settings.network.public_interface is None and any(
            each.interface is None for each in floating_ips
        )
        told = "[network] public_interface is not set: floating IPs that name no interface are bound nowhere"
        self._unbound = told if nowhere else ""
        return before != self._unbound

    def look_who_is_in_the_way(self) -> None:
        """See whether rules of others are in the way; while nobody can see it, what was seen last stands."""
        try:
            self._in_the_way, self._unseen = self._host.in_the_way(), ""
        except BackendError as error:
            self._unseen = str(error)

    def look_for_drop_chain(self) -> None:
        """See whether the chain that ends what is refused is there: without it no rule of ours would be taken.

        It is the operator's, and may come after us, and go with the rest of a table that is flushed.

        :raises BackendError: the kernel cannot be read.
        """
        action, rules = self._settings.firewall.iptables_drop_action, self._host.rules
        if action in DROP_TARGETS:
            return
        tables = [TableId(family, "filter") for family in self._families]
        with rules.locked():
            without = " and ".join(str(table) for table in tables if action not in rules.read(table, fresh=True))
        self.drop_action = "DROP" if without else action
        self._chainless = without and (
            f"[firewall] iptables_drop_action = {action}: there is no such chain in {without},"
            " and DROP takes its place until it comes"
        )


def _lacking(settings: Settings, compiler: Compiler, *, judges_frames: bool) -> Iterator[str]:
    """What does not change while the settings do not."""
    if settings.use_ipv6 and len(compiler.families) < len(FAMILIES):
        yield f"this kernel lacks tables of IPv6: instances' IPv6 is {'refused' if judges_frames else 'not filtered'}"
    if not compiler.has_nat:
        yield "this kernel lacks the nat table of IPv4: no floating IPs, no SNAT, no metadata service"
    host = settings.metadata.metadata_host
    if host is None:
        yield (
            "[metadata] metadata_host is not set, and this host has no IPv4 default route to take [DEFAULT] my_ip from:"
            " no metadata service"
        )
    elif ":" in host:
        yield (
            f"[metadata] metadata_host = {host}: 169.254.169.254 cannot lead to an IPv6 address:"
            " no metadata service there"
        )
