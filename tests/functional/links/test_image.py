"""What is known of links when notices are lost, and when the kernel does not list them."""

import errno
import socket
from collections.abc import Callable, Iterator

import pytest

from nova_netagent.backend.links import image, listing
from nova_netagent.backend.links.holdings import MoveFailed
from nova_netagent.backend.links.holdings import read as read_holdings
from nova_netagent.backend.links.image import LinkImage
from nova_netagent.backend.links.listing import Listing
from tests.lab import Lab, Namespace

ADDRESS = ("br1", "10.9.9.9/24")


@pytest.fixture
def host(lab: Lab) -> Namespace:
    host = lab.host()
    host.links.add_bridge("br1")
    return host


@pytest.fixture
def live(host: Namespace, monkeypatch: pytest.MonkeyPatch) -> Iterator[LinkImage]:
    """With room for a dozen notices."""
    monkeypatch.setattr(image, "_BUFFER", 4096)
    found = host.call(LinkImage)
    yield found
    found.close()


def lose_notices(host: Namespace) -> None:
    for number in range(40):
        host.links.set("br1", mtu=1400 + number % 2)


def test_what_waits_when_notices_are_lost_is_from_before(host: Namespace, live: LinkImage) -> None:
    host.links.add_address("br1", ADDRESS[1])
    lose_notices(host)
    host.links.delete_address("br1", ADDRESS[1])
    assert ADDRESS not in host.call(live.read).addresses
    host.links.add_bridge("br2")
    host.links.set("br1", mtu=1234)
    found = host.call(live.read)
    assert ADDRESS not in found.addresses
    assert {*found.links} >= {"br1", "br2"}
    assert found.links["br1"].mtu == 1234


def failing(times: int, then: Callable[..., Listing], found: Listing | None = None) -> Callable[..., Listing]:
    """A listing that so many times fails, or finds something else."""
    left = [times]

    def listed(kind: int, body: bytes, strict: bool) -> Listing:
        left[0] -= 1
        if left[0] >= 0:
            if found is None:
                raise OSError(errno.EMFILE, "no descriptor is left")
            return found
        return then(kind, body, strict)

    return listed


def test_what_is_known_stays_until_all_is_listed(
    host: Namespace, live: LinkImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = host.call(live.read)
    lose_notices(host)
    monkeypatch.setattr(listing, "_listed", failing(1, listing._listed))
    with pytest.raises(OSError, match="no descriptor"):
        host.call(live.read)
    assert {*host.call(live.read).links} == {*before.links}
    assert host.call(live.read).links["br1"].mtu == 1401


@pytest.mark.parametrize("times", [1, 4])
def test_what_was_listed_while_it_changed_is_listed_again(
    host: Namespace, live: LinkImage, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """At once, and at the next look if it never stopped."""
    lose_notices(host)
    monkeypatch.setattr(listing, "_listed", failing(times, listing._listed, Listing([], whole=False)))
    first = host.call(live.read)
    assert ("br1" in first.links) == (times == 1)
    assert "br1" in host.call(live.read).links


def test_holdings_that_keep_changing_are_not_moved(host: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    index = host.call(lambda: socket.if_nametoindex("br1"))
    monkeypatch.setattr(listing, "_listed", failing(4, listing._listed, Listing([], whole=False)))
    with pytest.raises(MoveFailed, match="keep changing"):
        host.call(lambda: read_holdings(index))
    assert not host.call(lambda: read_holdings(index))
