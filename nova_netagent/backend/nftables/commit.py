"""How a transaction is committed, and what is known of our tables when the kernel took it."""

import logging

from nova_netagent.backend import RuleRefused, TableChanged
from nova_netagent.backend.nft import Batch
from nova_netagent.backend.nftables.mirror import ATTEMPTS, Mirror
from nova_netagent.backend.nftables.transaction import Transaction

LOG = logging.getLogger(__name__)

_MUCH = 500
"""From so many messages on a transaction of ours is not listened to."""


def commit(opened: Transaction, mirror: Mirror) -> None:
    """Have the kernel carry out everything that was edited, or nothing; a set that is in use may stay.

    :raises TableChanged: somebody changed our tables in between.
    :raises RuleRefused: the kernel refuses it as it stands.
    :raises Unavailable: the kernel cannot do it now.
    """
    if not opened.edited:
        mirror.held = opened.held  # it may know more chains, not others
        return
    try:
        _send(opened.batch(destroy=True), mirror)
    except RuleRefused:
        if not opened.destroys:
            raise
        _commit_keeping_sets(opened, mirror)
    else:
        _remember(opened, mirror)


def _send(batch: Batch, mirror: Mirror) -> None:
    """Commit; changes of what is not ours make no difference."""
    deaf = len(batch) > _MUCH and mirror.watch is not None and not mirror.disturbed
    for _ in range(ATTEMPTS):
        assert mirror.generation is not None
        if deaf:
            # The kernel would take as long to tell us of our changes as to make them.
            assert mirror.watch is not None
            mirror.watch.leave()
        try:
            mirror.kernel.commit(batch, generation=mirror.generation)
            mirror.disturbed = False
            return
        except TableChanged:
            mirror.disturbed = True  # who listens can send the same again, and need not plan anew
            heard = None if deaf else mirror.heard(mirror.kernel.generation())
            if heard is None or heard[1]:
                mirror.forget()
                raise
            mirror.generation = heard[0]
    raise TableChanged("nf_tables keeps being changed by other programs")


def _commit_keeping_sets(opened: Transaction, mirror: Mirror) -> None:
    """Perhaps a set that must go is in use: try without, and then each alone."""
    batch = opened.batch(destroy=False)
    if len(batch):
        mirror.kernel.commit(batch, generation=mirror.generation)
        mirror.committed()
    for family, name in opened.going():
        alone = Batch()
        alone.delete_set(mirror.table(family), name)
        try:
            mirror.kernel.commit(alone, generation=mirror.generation)
        except RuleRefused as error:
            LOG.warning("%s", error)
            opened.in_use.append(name)
        else:
            mirror.committed()
    mirror.forget()


def _remember(opened: Transaction, mirror: Mirror) -> None:
    mirror.committed()
    for each in opened.edits.values():
        each.done()
    mirror.held = opened.held
    assert mirror.generation is not None
    heard = mirror.watch is not None and mirror.watch.skip(mirror.generation)
    if not heard and mirror.kernel.generation() != mirror.generation:
        mirror.doubt()  # somebody came between
