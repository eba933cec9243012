"""A translation at a fixed pace: the baseline that asks neither the source nor the model."""

from dataclasses import dataclass

from echostream_plugin.config import option
from echostream_plugin.inference.policies.base import Policy, PolicyState, register_policy


@dataclass(frozen=True)
class FixedRateOptions:
    """The pace."""

    tokens_per_second: float = option(
        3.0, "policy fixed-rate: target tokens for every second of source", minimum=0.0, maximum=1000.0
    )


@register_policy
class FixedRatePolicy(Policy):
    """Writes so many tokens for every second of source."""

    name = "fixed-rate"
    Options = FixedRateOptions

    def decide(self, state: PolicyState) -> int:
        length = int(state.source_ms * self.options.tokens_per_second / 1000)
        return self.up_to(length, state) if length else 0
