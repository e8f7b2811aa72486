"""dnsmasq's lease file, and the message by which a lease is given back."""

from nova_netagent.services import release
from nova_netagent.services.leases import Lease, leases, without

FILE = """\
1795411200 fa:16:3e:00:00:01 10.1.0.2 vm1 01:fa:16:3e:00:00:01
1795411200 fa:16:3e:00:00:02 10.1.0.3 * *
0 fa:16:3e:00:00:03 10.1.0.4 * ff:00:00:00:01:00:01
duid 00:01:00:01:32:95:38:00:c2:48:c7:8b:83:ee
1795332568 1040187393 fd00:1::2 vm1 00:01:00:01:32:95:39:0b:fa:16:3e:00:00:01
1795332568 T7 fd00:1::3 * 00:01:00:01:32:95:39:0b:fa:16:3e:00:00:02
"""


def test_leases_of_both_families_are_found() -> None:
    assert list(leases(FILE)) == [
        Lease("10.1.0.2", "fa:16:3e:00:00:01"),
        Lease("10.1.0.3", "fa:16:3e:00:00:02"),
        Lease("10.1.0.4", "fa:16:3e:00:00:03"),
        Lease("fd00:1::2", None),
        Lease("fd00:1::3", None),
    ]


def test_what_is_no_lease_is_skipped() -> None:
    assert list(leases("")) == []
    assert list(leases("duid 00:01\nnonsense\n1 2 3\n\n1795411200 06-aa:bb 10.1.0.2 * *\n1795411200 fa:16")) == []


def test_stale_leases_are_cut_out_and_nothing_else() -> None:
    assert without(FILE, lambda lease: False) == FILE
    kept = without(FILE, lambda lease: lease.address in ("10.1.0.3", "fd00:1::2"))
    assert kept.splitlines() == [
        line for line in FILE.splitlines() if "10.1.0.3" not in line and "fd00:1::2" not in line
    ]


def test_the_message_that_gives_a_lease_back() -> None:
    """Byte for byte as dhcp_release(1) sends it, but for the transaction id."""
    data = release.message("10.1.0.1", "10.1.0.2", "fa:16:3e:00:00:01")
    assert data[:4] == bytes([1, 1, 6, 0])
    assert data[12:16] == bytes([10, 1, 0, 2])
    assert data[16:28] == bytes(12)
    assert data[28:34] == bytes.fromhex("fa163e000001")
    assert data[34:236] == bytes(202)
    assert data[236:] == bytes.fromhex("63825363") + bytes([53, 1, 7, 54, 4, 10, 1, 0, 1, 255])
