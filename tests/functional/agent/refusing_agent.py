"""The daemon on a kernel that refuses some rules: those from 203.0.113.66 ask for what there is not."""

import sys
from unittest import mock

from nova_netagent.backend.iptables import encoder, entry
from nova_netagent.backend.iptables.matches import SetIndex
from nova_netagent.backend.nftables import keys
from nova_netagent.cmd.agent import main
from nova_netagent.netfilter.rule import Family, Rule

REFUSED = "203.0.113.66"
_ENCODE, _TARGET = entry.encode, keys.target


def _is_refused(rule: Rule) -> bool:
    return rule.source is not None and rule.source.startswith(REFUSED)


def _encode(rule: Rule, family: Family, index: SetIndex) -> bytes:
    key = _ENCODE(rule, family, index)
    if not _is_refused(rule):
        return key
    assert b"tcp\0" in key, "the name of a match, which the kernel looks up"
    return key.replace(b"tcp\0", b"no!\0", 1)


def _target(rule: Rule, family: Family, place: keys.Place) -> bytes:
    key = _TARGET(rule, family, place)
    if not _is_refused(rule):
        return key
    assert b"immediate\0" in key, "the name of an expression, which the kernel looks up"
    return key.replace(b"immediate\0", b"no-such-e\0", 1)


if __name__ == "__main__":
    with mock.patch.object(encoder, "encode", _encode), mock.patch.object(keys, "target", _target):
        sys.exit(main())
