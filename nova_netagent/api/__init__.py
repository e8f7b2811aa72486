"""The HTTP API: bytes become events or clear refusals. No rules, no kernel, no state."""
