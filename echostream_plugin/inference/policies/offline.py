"""The policy that waits for the end: an upper bound of quality and of lag."""

from echostream_plugin.inference.policies.base import Policy, PolicyState, register_policy


@register_policy
class OfflinePolicy(Policy):
    """Writes nothing before the end of the source; the transcript comes as it does with any policy."""

    name = "offline"

    def decide(self, state: PolicyState) -> int:
        return 0
