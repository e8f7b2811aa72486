"""Unit tests of nova_netagent.plan, pure."""
