"""A rule as it stands in the kernel, whoever's it is."""

from dataclasses import dataclass

from nova_netagent.backend import Count
from nova_netagent.netfilter.rule import Rule


@dataclass(frozen=True)
class LiveRule:
    """A rule as the kernel has it; ``ours`` is the compiled one that it is, with its origin."""

    rule: Rule
    text: str
    count: Count
    ours: Rule | None
    stray: bool
    """It stands in a chain of ours without being of ours."""
    alone: bool = False
    """It stands in a table of ours alone, where no chain is another program's."""
