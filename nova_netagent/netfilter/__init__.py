"""Packet-filter rules as values: what they are, how they read, what they do to a packet."""
