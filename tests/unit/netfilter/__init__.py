"""Unit tests of nova_netagent.netfilter, pure."""
