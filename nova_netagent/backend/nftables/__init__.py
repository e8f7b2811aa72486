"""The packet filter in nf_tables: tables of our own, through netlink. No process, no library."""

from nova_netagent.backend.nftables.backend import NftablesBackend

__all__ = ["NftablesBackend"]
