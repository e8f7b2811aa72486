"""The daemon on a kernel that refuses some rules: those from 203.0.113.66 ask for a match that there is not."""

import sys

from nova_netagent.backend.iptables import encoder
from nova_netagent.cmd.agent import main

REFUSED = "203.0.113.66"
_PLAIN = encoder.encode


def _encode(rule, family, index):  # type: ignore[no-untyped-def]
    key = _PLAIN(rule, family, index)
    if rule.source is None or not rule.source.startswith(REFUSED):
        return key
    assert b"tcp\0" in key, "the name of a match, which the kernel looks up"
    return key.replace(b"tcp\0", b"no!\0", 1)


if __name__ == "__main__":
    encoder.encode = _encode
    sys.exit(main())
