"""The API over TCP, on the loopback of the tests' own namespace."""
