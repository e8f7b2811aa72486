"""The packet filter of legacy tables (``iptables-legacy``): the bytes of libxtables, replaced by one call a table."""

from nova_netagent.backend.iptables.backend import IptablesBackend

__all__ = ["IptablesBackend"]
