"""Unit tests of nova_netagent.events, pure."""
