"""The tests of nova-netagent."""
