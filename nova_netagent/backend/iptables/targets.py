"""Targets as bytes: the last part of an entry.

Sources: linux/netfilter/nf_nat.h, xt_MARK.h, xt_CHECKSUM.h, linux/netfilter_ipv4/ipt_REJECT.h,
linux/netfilter_ipv6/ip6t_REJECT.h and the extensions of iptables 1.8, whose revisions are used.
"""

import socket
from functools import lru_cache
from struct import Struct, error

from nova_netagent.backend.iptables.layout import (
    EXTENSION,
    JUMP_MARK,
    STANDARD_TARGET,
    decoded_name,
    encoded_name,
    extension,
    standard_target,
)
from nova_netagent.model import values
from nova_netagent.netfilter.owner import MAX_CHAIN_NAME
from nova_netagent.netfilter.rule import (
    ChecksumFill,
    Dnat,
    Family,
    Jump,
    Log,
    Opaque,
    Redirect,
    Reject,
    SetMark,
    Snat,
    Target,
    Verdict,
    Zone,
)

VERDICTS = {"DROP": -1, "ACCEPT": -2, "QUEUE": -4, "RETURN": -5}
"""The verdicts that libiptc knows by name, and the numbers that the kernel has for them."""

FALL_THROUGH = standard_target(b"")
"""A rule without a target: it only counts."""

_MULTI_RANGE = Struct("=II4s4s2s2s")
_RANGE = Struct("=I16s16s2s2s")
_RANGE_2 = Struct("=I16s16s2s2s2s2x")
_MARK = Struct("=II")
_CT = Struct("=HHII16s32s4xQ")
_CT_REVISION = 2
_NUMBER = Struct("=I")
_PREFIX_SIZE = 64
_NFLOG = Struct(f"=IHHHH{_PREFIX_SIZE}s")
_FILL = b"\x01"

_MAP_ADDRESS, _MAP_PORT = 0x01, 0x02
_PORT_UNREACHABLE = {4: 3, 6: 4}
_ADDRESS_SIZE = {4: 4, 6: 16}


@lru_cache(4096)
def encode_target(target: Target, family: Family) -> bytes:
    """A target's bytes; a verdict and a jump carry their name, as libiptc takes them.

    :raises ValueError: for a chain name or an address that cannot be.
    """
    match target:
        case Verdict(name):
            return standard_target(name.encode())
        case Jump(chain):
            return encode_jump(chain)
        case Dnat(address, port):
            return _encode_dnat(_packed(address, family), port)
        case Snat(address):
            return _encode_snat(_packed(address, family), family)
        case Redirect(port):
            return _encode_redirect(port, family)
        case SetMark(value, mask):
            return extension(b"MARK", 2, _MARK.pack(value, mask))
        case Zone(number):
            return extension(b"CT", _CT_REVISION, _CT.pack(0, number, 0, 0, b"", b"", 0))
        case Log(group, prefix):
            return extension(b"NFLOG", 0, _NFLOG.pack(0, group, 0, 0, 0, _prefix(prefix)))
        case ChecksumFill():
            return extension(b"CHECKSUM", 0, _FILL)
        case Reject():
            return extension(b"REJECT", 0, _NUMBER.pack(_PORT_UNREACHABLE[family]))
        case Opaque(name, revision, data):
            return extension(encoded_name(name), revision, data)


@lru_cache(4096)
def encode_jump(chain: str) -> bytes:
    """A jump's bytes. :raises ValueError: for a chain name that cannot be."""
    raw = encoded_name(chain)
    if not 1 <= len(raw) <= MAX_CHAIN_NAME or b"\0" in raw:
        raise ValueError(f"{chain!r} is not a chain name: 1 to {MAX_CHAIN_NAME} characters")
    return jump(raw)


def jump(chain: bytes) -> bytes:
    """A jump to a chain by its name."""
    return STANDARD_TARGET.pack(STANDARD_TARGET.size, chain, 0, JUMP_MARK)


def jump_chain(target: bytes) -> str | None:
    """The chain that a target jumps to, if it is a jump."""
    if len(target) == len(FALL_THROUGH) and target.endswith(JUMP_END):
        return decoded_name(target[2 : EXTENSION.size - 1])
    return None


JUMP_END = jump(b"")[EXTENSION.size :]
"""How the bytes of every jump end (and those of hardly anything else)."""


def _prefix(text: str) -> bytes:
    raw = encoded_name(text)
    if len(raw) >= _PREFIX_SIZE or b"\0" in raw:
        raise ValueError(f"a prefix has at most {_PREFIX_SIZE - 1} bytes, none of them zero: {text!r}")
    return raw


def _packed(address: str, family: Family) -> bytes:
    try:
        return socket.inet_pton(values.SOCKET_FAMILY[family], address)
    except OSError:
        raise ValueError(f"{address!r} is not an IPv{family} address") from None


def _port(number: int | None) -> bytes:
    return (number or 0).to_bytes(2, "big")


def _encode_dnat(address: bytes, port: int | None) -> bytes:
    flags = _MAP_ADDRESS | (0 if port is None else _MAP_PORT)
    return extension(b"DNAT", 2, _RANGE_2.pack(flags, address, address, _port(port), _port(port), b""))


def _encode_snat(address: bytes, family: Family) -> bytes:
    if family == 4:
        return extension(b"SNAT", 0, _MULTI_RANGE.pack(1, _MAP_ADDRESS, address, address, b"", b""))
    return extension(b"SNAT", 1, _RANGE.pack(_MAP_ADDRESS, address, address, b"", b""))


def _encode_redirect(port: int, family: Family) -> bytes:
    if family == 4:
        return extension(b"REDIRECT", 0, _MULTI_RANGE.pack(1, _MAP_PORT, b"", b"", _port(port), _port(port)))
    return extension(b"REDIRECT", 0, _RANGE.pack(_MAP_PORT, b"", b"", _port(port), _port(port)))


@lru_cache(4096)
def decode_target(whole: bytes, family: Family, goto: bool) -> Target:
    """A target from its bytes; ``Opaque`` for what our values cannot say."""
    chain = jump_chain(whole)
    if chain is not None:
        return Jump(chain, goto)
    _size, raw_name, revision = EXTENSION.unpack_from(whole)
    name, data = decoded_name(raw_name), whole[EXTENSION.size :]
    try:
        target = _decode(name, data, family)
        if target is not None and encode_target(target, family) == whole:
            return target
    except (ValueError, error):
        pass
    return Opaque(name, revision, data)


def _decode(name: str, data: bytes, family: Family) -> Target | None:
    match name:
        case "ACCEPT" | "DROP" | "RETURN":
            return Verdict(name)
        case "DNAT":
            flags, address, _last, port, *_rest = _RANGE_2.unpack_from(data)
            return Dnat(_address(address, family), int.from_bytes(port, "big") if flags & _MAP_PORT else None)
        case "SNAT":
            return Snat(_address(data[8:] if family == 4 else data[4:], family))
        case "REDIRECT":
            port = data[16:18] if family == 4 else data[36:38]
            return Redirect(int.from_bytes(port, "big"))
        case "MARK":
            return SetMark(*_MARK.unpack_from(data))
        case "CT":
            return Zone(_CT.unpack_from(data)[1])
        case "CHECKSUM":
            return ChecksumFill()
        case "NFLOG":
            _size, group, _threshold, _flags, _pad, prefix = _NFLOG.unpack_from(data)
            return Log(group, decoded_name(prefix))
        case "REJECT":
            return Reject()
    return None


def _address(data: bytes, family: Family) -> str:
    return values.unpacked(data[: _ADDRESS_SIZE[family]])
