"""Wait-k (Ma et al., arXiv 1810.08398) on segments of speech: k of them ahead, then as many tokens for each."""

from dataclasses import dataclass

from echostream_plugin.config import option
from echostream_plugin.constants import FRAME_MS
from echostream_plugin.inference.policies.base import Policy, PolicyState, register_policy


@dataclass(frozen=True)
class WaitKOptions:
    """The lag and the step of wait-k."""

    wait_segments: int = option(
        3, "policy wait-k: k, encoder segments (chunk_ms) of source before the first token", maximum=10_000
    )
    tokens_per_segment: int = option(1, "policy wait-k: tokens for each segment, the k-th included", maximum=10_000)


@register_policy
class WaitKPolicy(Policy):
    """Reads k segments, then writes the same number of tokens for every segment, whatever was said in it."""

    name = "wait-k"
    Options = WaitKOptions

    def decide(self, state: PolicyState) -> int:
        segments = state.source_ms // max(self.options.chunk_ms, FRAME_MS)
        steps = segments - self.options.wait_segments + 1
        return self.up_to(steps * self.options.tokens_per_segment, state) if steps > 0 else 0
