"""nova-netagent: a nova-network style agent that programs plain kernel networking."""
