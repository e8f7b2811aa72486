"""Unit tests of nova_netagent.compile, pure."""
