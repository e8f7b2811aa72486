"""nf_tables through netlink: values, expressions, transactions, listings. No process, no library."""

from nova_netagent.backend.nft.batch import Batch
from nova_netagent.backend.nft.netlink import Netlink

__all__ = ["Batch", "Netlink"]
