"""Comments of what stays while what it is there for changes.

A plan compares what rules do. A rule of a group that was taken away and described anew under
another id is the rule that stands: it stays, and its comment would name one that is gone.
"""

from collections.abc import Mapping

from nova_netagent.backend.nft import Netlink
from nova_netagent.backend.nft.objects import comment
from nova_netagent.backend.nftables import notes
from nova_netagent.backend.nftables.edits import TableEdits
from nova_netagent.backend.nftables.image import Keys
from nova_netagent.backend.nftables.keys import uncounted
from nova_netagent.backend.nftables.laid import Laid
from nova_netagent.backend.nftables.notes import Reasons
from nova_netagent.netfilter.rule import Chain, Origin


def differ(last: Chain, last_keys: Keys, chain: Chain, keys: Keys) -> bool:
    """Whether a rule that stays is there for something else."""
    if len({*last_keys}) < len(last_keys) or len({*keys}) < len(keys):
        # Which of equal rules stays is not known.
        was_for, is_for = _by_key(last_keys, last), _by_key(keys, chain)
        return any(key in was_for and was_for[key] != origins for key, origins in is_for.items())
    # A rule that says it itself and is the same object says the same: of a tree's node all but one or two.
    known = set(map(id, last.rules)) if last.about is chain.about is None else set()
    each = zip(keys, chain.rules, chain.origins(), strict=True)
    others = [(key, origin) for key, rule, origin in each if id(rule) not in known]
    was = dict(zip(last_keys, last.origins(), strict=True)) if others else {}
    return any(was.get(key, origin) != origin for key, origin in others)


def _by_key(keys: Keys, chain: Chain) -> Mapping[bytes, list[Origin | None]]:
    """What each of equal rules is there for, in order."""
    found: dict[bytes, list[Origin | None]] = {}
    for key, origin in zip(keys, chain.origins(), strict=True):
        found.setdefault(key, []).append(origin)
    return found


def say_anew(physical: str, laid: Laid, edits: TableEdits, kernel: Netlink) -> None:
    """Make those rules and elements of a chain anew whose comments are not what they should be.

    :param laid: the chain as it should stand; what does not is not looked at.
    """
    known = edits.image.chains.get(physical)
    if known is None or known.rules != laid.rules:
        return
    listed = kernel.rules(edits.image.table, physical)
    if [uncounted(each.expressions) for each in listed] == list(known.rules):
        told = [notes.told(key, laid.reasons, number) for number, key in enumerate(laid.rules)]
        others = {number for number, each in enumerate(listed) if each.comment != told[number]}
        handles = tuple(each.handle for each in listed)
        edits.replace_rules(physical, laid.rules, others, handles, laid.reasons)
    for name, reasons in laid.reasons_of.items():
        described, elements = laid.maps[name]
        if name in edits.image.sets:
            held = edits.image.sets[name].elements
            said = {(each.key, each.closes): each.comment for each in kernel.elements(edits.image.table, name)}
            stale = [
                (each, reasons.parts[number])
                for number, (at, each) in enumerate(elements.items())
                if at in held and at in said and said[at] != comment(reasons.text(number))
            ]
            again, parts = [each for each, _ in stale], tuple(part for _, part in stale)
            edits.edit_elements(described, again, again, Reasons(reasons.about, parts))
