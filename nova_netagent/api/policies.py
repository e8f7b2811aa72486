"""What a Keystone token lets its owner do over TCP, as oslo.policy's rules with their defaults."""

from oslo_policy import policy

from nova_netagent.api.access import Level

RULES: dict[Level, str] = {"read": "netagent:read", "write": "netagent:write", "admin": "netagent:admin"}

_READ: list[policy.Operation] = [{"path": "/**", "method": "GET"}, {"path": "/v1/explain", "method": "POST"}]
_WRITE: list[policy.Operation] = [
    {"path": "/v1/{kind}/{id}", "method": "PUT"},
    {"path": "/v1/{kind}/{id}", "method": "DELETE"},
    {"path": "/v1/resync", "method": "POST"},
    {"path": "/v1/explain?trace", "method": "POST"},
]
_ADMIN: list[policy.Operation] = [{"path": "/v1/state", "method": "PUT"}]


def list_rules() -> list[policy.RuleDefault]:
    """The rules, for the agent and for oslopolicy-sample-generator.

    A host's network is everybody's on it: no role in a project alone gives anything here.
    """
    return [
        policy.DocumentedRuleDefault(
            name=RULES["read"],
            check_str=f"rule:{RULES['write']} or (role:reader and system_scope:all)",
            description="See everything that is described and what became of it, and ask what a packet would meet.",
            operations=_READ,
        ),
        policy.DocumentedRuleDefault(
            name=RULES["write"],
            check_str=f"rule:{RULES['admin']} or role:service",
            description="Describe and delete objects, each by itself; repair; watch packets.",
            operations=_WRITE,
        ),
        policy.DocumentedRuleDefault(
            name=RULES["admin"],
            check_str="role:admin",
            description="Replace everything that is described on the host at once, or ask what that would change.",
            operations=_ADMIN,
        ),
    ]
