"""What others' rules in nf_tables do to a packet.

fields    what of a packet a rule can load      decode    a rule's expressions as tests and what it does
sets      what sets and maps hold               walk      a packet through a table's chains
"""
