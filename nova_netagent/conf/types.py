"""What an option can be set to: parsers that say what is wrong with a value."""

import math
import os
import re
from collections.abc import Callable
from typing import Any

from oslo_config import types

from nova_netagent.model import values


class _Checked(types.ConfigType):
    """An option type made of a parser that raises ValueError, as oslo.config wants one."""

    def __init__(self, parse: Callable[[str], Any], name: str) -> None:
        super().__init__(type_name=name)
        self._parse = parse

    def __call__(self, value: Any) -> Any:
        return self._parse(value) if isinstance(value, str) else value

    def __repr__(self) -> str:
        return str(self.type_name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Checked) and other.type_name == self.type_name

    __hash__ = None  # type: ignore[assignment]

    def _formatter(self, value: Any) -> str:
        return str(value)


class Seconds(types.Float):
    """A number that is one: float(3) reads nan and inf as well, and no limit keeps nan out."""

    def __call__(self, value: Any) -> float | None:
        """The number.

        :raises ValueError: it is none, or beyond a limit.
        """
        number = super().__call__(value)
        if number is not None and not math.isfinite(number):
            raise ValueError(f"{value} is not a number of seconds")
        return number


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("it may not be empty")
    return text


def _socket_path(text: str) -> str:
    if len(os.fsencode(_filled(text))) > _LONGEST_SOCKET_PATH:
        raise ValueError(f"the path of a unix socket has at most {_LONGEST_SOCKET_PATH} bytes")
    return text


_LONGEST_SOCKET_PATH = 107
"""unix(7)"""
_LOOPBACK = (values.prefix("127.0.0.0/8"), values.prefix("::1"))


def _address(text: str) -> str:
    """One that something can listen on: what is on this host only is good for services that are there, too."""
    canonical = values.ip(text)
    return canonical if any(each.contains(values.prefix(canonical)) for each in _LOOPBACK) else values.host_ip(text)


def _ipv4_address(text: str) -> str:
    return _address(values.ipv4(text))


def _ipv4_cidr(text: str) -> str:
    if ":" in text:
        raise ValueError(f"{text!r} is not an IPv4 CIDR")
    return values.cidr(text)


_TABLES_OF_IPTABLES = ("filter", "nat", "mangle", "raw", "security", "broute")
"""iptables-nft and ebtables-nft keep them under these names: with either backend a table of frames would be ebtables',
and go with what is in it; with nftables a chain ``filter-INPUT`` would be two."""


def _wrap_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,14}", text):
        raise ValueError(f"{text!r} is not a wrap name: 1 to 14 letters, digits, _ and -")
    if text in _TABLES_OF_IPTABLES:
        raise ValueError(
            f"{text!r} is not a wrap name: in nf_tables it would be the table of iptables or ebtables of that name;"
            f" anything but {', '.join(_TABLES_OF_IPTABLES)}"
        )
    if text.endswith("-float"):
        raise ValueError(
            f"{text!r} is not a wrap name: its snat would be the float-snat of {text.removesuffix('-float')!r}"
        )
    return text


def _log_rate(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 10_000 or 10_000 % int(text):
        raise ValueError("1 to 10000, and 10000 a multiple of it")
    return int(text)


def _logged_group(text: str) -> str:
    if text == "all":
        return text
    try:
        return values.uuid(text)
    except ValueError:
        raise ValueError(f"{text!r} is not the id of a security group, nor all") from None


_NO_CHAINS = ("ACCEPT", "RETURN", "QUEUE")
"""Verdicts: iptables makes no chain of such a name."""


def _drop_action(text: str) -> str:
    if text in _NO_CHAINS or not re.fullmatch(r"[A-Za-z0-9_.-]{1,28}", text):
        raise ValueError(f"{text!r} is not DROP, REJECT or the name of a chain")
    return text


def _interface_or_all(text: str) -> str:
    if text == "all":
        return text
    try:
        return values.interface(text)
    except ValueError as error:
        raise ValueError(f"{error}; or all") from None


def _regex(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"it is not a regular expression: {error}") from None
    return text


def _octal(text: str) -> int:
    if not re.fullmatch(r"0?o?[0-7]{3,4}", text):
        raise ValueError(f"{text!r} is not a file mode like 0660")
    return int(text.replace("o", ""), 8)


def _mark(text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = 0
    if not 0 < value < 2**32:
        raise ValueError(f"{text!r} is not a mark: one or more bits of 32, like 0x10000000")
    return value


IPV4_CIDR = _Checked(_ipv4_cidr, "IPv4 CIDR")
INTERFACE = _Checked(values.interface, "interface")
INTERFACE_OR_ALL = _Checked(_interface_or_all, "interface")
IP = _Checked(_address, "IP address")
IPV4 = _Checked(_ipv4_address, "IPv4 address")
FILLED = _Checked(_filled, "string value")
DOMAIN = _Checked(values.domain, "domain")
WRAP_NAME = _Checked(_wrap_name, "wrap name")
DROP_ACTION = _Checked(_drop_action, "target")
MARK = _Checked(_mark, "mark")
REGEX = _Checked(_regex, "regular expression")
SOCKET_PATH = _Checked(_socket_path, "string value")
FILE_MODE = _Checked(_octal, "file mode")
LOGGED_GROUP = _Checked(_logged_group, "id")
LOG_RATE = _Checked(_log_rate, "rate")
