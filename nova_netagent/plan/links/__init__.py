"""Links, addresses and sysctls: actual against desired gives a plan. Pure.

What we made is noted in the store before it is made, so that a restarted agent knows its
own: only what was noted is ever removed. An address or a bridge that was there before us
is used and left, and so is an uplink that was a port of its bridge already.

An uplink's addresses and routes are the host's own. They go to the bridge with it and come
back with it, whatever became of them meanwhile; a bridge that was not made by us keeps
those that it had before.
"""

from nova_netagent.plan.links.actual import ActualLinks, Link, Made, led_out
from nova_netagent.plan.links.edits import Join, LinkPlan, NewMac, Questions, Release
from nova_netagent.plan.links.planning import plan_links, plan_removal, questions
from nova_netagent.plan.links.problems import NOT_A_BRIDGE, link_problems, not_bridges, uplink_problems
from nova_netagent.plan.links.sysctls import BRIDGE_SYSCTLS, FORWARD_IPV6, accept_ra, sysctls_of

__all__ = [
    "BRIDGE_SYSCTLS",
    "FORWARD_IPV6",
    "NOT_A_BRIDGE",
    "ActualLinks",
    "Join",
    "Link",
    "LinkPlan",
    "Made",
    "NewMac",
    "Questions",
    "Release",
    "accept_ra",
    "led_out",
    "link_problems",
    "not_bridges",
    "plan_links",
    "plan_removal",
    "questions",
    "sysctls_of",
    "uplink_problems",
]
