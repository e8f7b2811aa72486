"""The packet filter of legacy tables (``iptables-legacy``), through python-iptables' libiptc."""

from nova_netagent.backend.iptables.backend import IptablesBackend

__all__ = ["IptablesBackend"]
