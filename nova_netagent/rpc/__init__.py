"""RPC over oslo.messaging: thin adapters of the engine, as ``api`` is for HTTP.

The one room that imports oslo.messaging, and it is imported itself only where ``[rpc] enabled``
is set: it costs half a second and its memory. Of these files ``server.py``, ``connection.py``
and ``controller.py`` know it; what the methods mean is said without.
"""
