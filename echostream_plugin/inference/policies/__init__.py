"""The read/write policies; importing this package registers each of them."""

from echostream_plugin.inference.policies import ctc, fixed_rate, offline, wait_k  # noqa: F401
from echostream_plugin.inference.policies.base import POLICIES, Policy, PolicyState

__all__ = ["POLICIES", "Policy", "PolicyState"]
