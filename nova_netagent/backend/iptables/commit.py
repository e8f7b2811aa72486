"""A plan, put into effect: on libiptc's handle, and on what we remember of the table."""

from collections.abc import Callable

from nova_netagent.backend import RuleRefused, TableChanged
from nova_netagent.backend.iptables.entry import jumps_to
from nova_netagent.backend.iptables.image import Image
from nova_netagent.backend.iptables.layout import ERROR_TARGET_SIZE, LAYOUTS, STANDARD_TARGET, encoded_name
from nova_netagent.backend.iptables.libiptc import Handle
from nova_netagent.backend.iptables.targets import JUMP_END
from nova_netagent.netfilter.owner import MAX_CHAIN_NAME
from nova_netagent.netfilter.rule import Family
from nova_netagent.plan import AddChain, Delete, Insert, RemoveChain, TablePlan

Keys = tuple[bytes, ...]


def verify(plan: TablePlan[bytes], image: Image, handle: Handle) -> None:
    """Compare the chains that the plan edits with what it was made from.

    The kernel itself notices only that the number of rules is another one.

    :raises TableChanged: they differ.
    """
    by_index = {edit.chain for edit in plan.edits if isinstance(edit, Insert | Delete)}
    for chain in {edit.chain for edit in plan.edits}:
        remembered = image.chains.get(chain)
        if handle.has_chain(chain) != (remembered is not None) or (
            remembered and chain in by_index and handle.rules(chain) != list(remembered)
        ):
            raise TableChanged(f"{plan.table}: the chain {chain} was changed by another program")


def execute(plan: TablePlan[bytes], handle: Handle) -> None:
    """Carry out the edits in order; chains go last, when nothing jumps to them any more.

    :raises RuleRefused: an edit that does not fit the table.
    """
    going = []
    for edit in plan.edits:
        match edit:
            case Insert():
                if edit.key.endswith(JUMP_END):
                    _check_jump(plan, handle, edit.key)
                handle.insert(edit.chain, edit.index, edit.key)
            case Delete():
                handle.delete(edit.chain, edit.index)
            case AddChain():
                _check_name(plan, edit.chain)
                handle.create_chain(edit.chain)
            case RemoveChain():
                handle.flush(edit.chain)
                if not edit.flush_only:
                    going.append(edit.chain)
    for chain in going:
        handle.delete_chain(chain)


def _check_jump(plan: TablePlan[bytes], handle: Handle, key: bytes) -> None:
    # libiptc takes the name of a chain that is not there for a target's, and the kernel then runs modprobe.
    target = jumps_to(key)
    if target is not None and not handle.has_chain(target):
        raise RuleRefused(f"{plan.table}: there is no chain {target} to jump to")


def _check_name(plan: TablePlan[bytes], chain: str) -> None:
    if not 1 <= len(encoded_name(chain)) <= MAX_CHAIN_NAME:
        raise RuleRefused(f"{plan.table}: {chain!r} is not a chain name: 1 to {MAX_CHAIN_NAME} characters")


def image_after(plan: TablePlan[bytes], image: Image, encoded: Callable[[str], Keys | None]) -> Image:
    """What the table holds after the plan.

    :param encoded: gives the keys of a chain as they were encoded: a chain that will hold
        them is remembered by that object.
    :raises RuleRefused: an index that the chain does not have.
    :raises TableChanged: another rule than the plan says stands where one is to be taken out.
    """
    chains = dict(image.chains)
    entries, size = image.entries, image.size
    for chain, left in _edited(plan, image).items():
        gone = chains.pop(chain, None)
        if gone is not None:
            entries -= _entries(gone)
            size -= _size(gone, plan.table.family)
        if left is not None:
            chains[chain] = keys = _same_object(tuple(left), encoded(chain))
            entries += _entries(keys)
            size += _size(keys, plan.table.family)
    return Image(entries, size, chains)


def _edited(plan: TablePlan[bytes], image: Image) -> dict[str, list[bytes] | None]:
    """The chains that the plan touches, afterwards; ``None`` for one that it removes."""
    edited: dict[str, list[bytes] | None] = {}
    for edit in plan.edits:
        if edit.chain not in edited:
            edited[edit.chain] = list(image.chains.get(edit.chain, ()))
        keys = edited[edit.chain]
        match edit:
            case RemoveChain(chain, flush_only):
                edited[chain] = [] if flush_only else None
            case Insert(_, index, key) if keys is not None and index <= len(keys):
                keys.insert(index, key)
            case Delete(_, index, key) if keys is not None and index < len(keys):
                if keys[index] != key:
                    raise TableChanged(f"{plan.table}: {edit.chain} has another rule at {index + 1} than was planned")
                del keys[index]
            case Insert() | Delete():
                raise RuleRefused(f"{plan.table}: there is no place {edit.index + 1} in {edit.chain}")
    return edited


def _same_object(keys: Keys, encoded: Keys | None) -> Keys:
    return encoded if encoded is not None and encoded == keys else keys


def _entries(keys: Keys) -> int:
    return len(keys) + 2


def _size(keys: Keys, family: Family) -> int:
    """Of a user-defined chain: its rules, the mark with its name, its policy."""
    size = LAYOUTS[family].size
    return sum(map(len, keys)) + size + ERROR_TARGET_SIZE + size + STANDARD_TARGET.size
