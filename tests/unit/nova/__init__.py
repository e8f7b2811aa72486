"""The unit-test scenarios of nova-network, against this agent."""
