"""The read/write policies; importing this package registers each of them."""

from . import ctc, fixed_rate, offline, wait_k  # noqa: F401
from .base import POLICIES, Policy, PolicyState

__all__ = ["POLICIES", "Policy", "PolicyState"]
