"""What becomes of a packet on this host, rule by rule, by the rules that the kernel has now.

question    what is asked                     live      the kernel's rules, read as they are met
case        what is looked up for it          answer    what comes of it
notes       what else is to be known          obstacles what hinders packets of any kind
scene       links, addresses, routes, ports   owners    whose a rule is
proposal    what would let it through         report    what is answered
foreign     others' rules in nf_tables
"""
