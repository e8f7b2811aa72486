"""The model: what operators and controllers describe, frozen and validated."""

from nova_netagent.model import protocols, values
from nova_netagent.model.objects import (
    KINDS,
    AllowedAddressPair,
    FloatingIP,
    Instance,
    Invalid,
    Network,
    Object,
    ProviderRule,
    SecurityGroup,
    SecurityGroupRule,
    State,
    Vif,
    document,
    says_the_same,
)
from nova_netagent.model.state import Claim, DesiredState, Entry, Key, Tombstone, claims

__all__ = [
    "KINDS",
    "AllowedAddressPair",
    "Claim",
    "DesiredState",
    "Entry",
    "FloatingIP",
    "Instance",
    "Invalid",
    "Key",
    "Network",
    "Object",
    "ProviderRule",
    "SecurityGroup",
    "SecurityGroupRule",
    "State",
    "Tombstone",
    "Vif",
    "claims",
    "document",
    "protocols",
    "says_the_same",
    "values",
]
