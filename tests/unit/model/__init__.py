"""Unit tests of nova_netagent.model, pure."""
