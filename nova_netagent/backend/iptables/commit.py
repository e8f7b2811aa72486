"""The two ways to put a plan into effect: replace the table by one call, or edit it through libiptc.

Both leave the same bytes in the kernel (docs/decisions/0011).
"""

import errno
import os
from collections.abc import Callable

from nova_netagent.backend import BackendError, RuleRefused, TableChanged, Unavailable
from nova_netagent.backend.iptables.assembly import Replacement
from nova_netagent.backend.iptables.image import Image
from nova_netagent.backend.iptables.libiptc import Handle
from nova_netagent.backend.iptables.tables import KernelTables
from nova_netagent.netfilter.rule import TableId
from nova_netagent.plan.tables import AddChain, Delete, Fill, Insert, RemoveChain, TablePlan

Commit = Callable[[KernelTables, TablePlan[bytes], Image, Replacement], None]
"""Puts a plan into effect, given the table as it is and as it will be.

:raises TableChanged: the table is another one.
:raises RuleRefused: the kernel refuses the result.
:raises Unavailable: no permission, no memory.
"""

_NOT_NOW = frozenset({errno.EPERM, errno.EACCES, errno.ENOMEM, errno.ENOBUFS, errno.EINTR, errno.EBUSY, errno.ENOSYS})


def replace_table(tables: KernelTables, plan: TablePlan[bytes], before: Image, replacement: Replacement) -> None:
    """Replace the table, and give the rules that stay what they had counted."""
    try:
        old = tables.replace(plan.table.name, before, replacement.image)
    except OSError as e:
        raise error_of(plan.table, e) from e
    counters = replacement.counters(old)
    if counters is not None:
        try:
            tables.add_counters(plan.table.name, counters)
        except OSError as e:
            # The kernel had just taken the table: somebody without the lock came between.
            raise TableChanged(f"{plan.table} changed while its counters were added: {e.strerror}") from e


def edit_by_libiptc(tables: KernelTables, plan: TablePlan[bytes], before: Image, replacement: Replacement) -> None:
    """Have libiptc read the table, edit it and put it back; chains go last, when nothing jumps to them any more."""
    going = []
    with Handle(plan.table) as handle:
        for edit in plan.edits:
            match edit:
                case Fill():
                    for index, key in enumerate(edit.keys):
                        handle.insert(edit.chain, index, key)
                case Insert():
                    handle.insert(edit.chain, edit.index, edit.key)
                case Delete():
                    handle.delete(edit.chain, edit.index)
                case AddChain():
                    handle.create_chain(edit.chain)
                case RemoveChain():
                    handle.flush(edit.chain)
                    if not edit.flush_only:
                        going.append(edit.chain)
        for chain in going:
            handle.delete_chain(chain)
        handle.commit()


def error_of(table: TableId, error: OSError) -> BackendError:
    """What the kernel's refusal of a table means for the caller."""
    number = error.errno or 0
    if number == errno.EAGAIN:
        return TableChanged(f"{table} was changed by another program while we were at it")
    words = f"{errno.errorcode.get(number, number)}: {os.strerror(number)}"
    if number in _NOT_NOW:
        return Unavailable(f"{table}: {words}")
    return RuleRefused(f"{table}: the kernel refused the table: {words}")
