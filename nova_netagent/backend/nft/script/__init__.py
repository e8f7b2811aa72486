"""A transaction that makes tables, as a script for nft(8). Pure: no kernel is asked."""

from nova_netagent.backend.nft.script.contents import contents
from nova_netagent.backend.nft.script.tables import script_lines

__all__ = ["contents", "script_lines"]
