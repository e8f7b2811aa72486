"""The daemon on a kernel that refuses some rules: those from 203.0.113.66 ask for what there is not."""

import sys

from nova_netagent.backend.iptables import encoder
from nova_netagent.backend.nftables import keys
from nova_netagent.cmd.agent import main

REFUSED = "203.0.113.66"
_ENCODE, _TARGET = encoder.encode, keys.target


def _is_refused(rule):  # type: ignore[no-untyped-def]
    return rule.source is not None and rule.source.startswith(REFUSED)


def _encode(rule, family, index):  # type: ignore[no-untyped-def]
    key = _ENCODE(rule, family, index)
    if not _is_refused(rule):
        return key
    assert b"tcp\0" in key, "the name of a match, which the kernel looks up"
    return key.replace(b"tcp\0", b"no!\0", 1)


def _target(rule, family, place):  # type: ignore[no-untyped-def]
    key = _TARGET(rule, family, place)
    if not _is_refused(rule):
        return key
    assert b"immediate\0" in key, "the name of an expression, which the kernel looks up"
    return key.replace(b"immediate\0", b"no-such-e\0", 1)


if __name__ == "__main__":
    encoder.encode, keys.target = _encode, _target
    sys.exit(main())
