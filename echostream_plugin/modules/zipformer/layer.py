"""One layer of a Zipformer (figure 2 of arXiv 2310.11230)."""

import torch
from torch import Tensor, nn

from echostream_plugin.modules.zipformer.attention import (
    AttentionWeights,
    NonlinAttention,
    SelfAttention,
    StackConfig,
    Windows,
    constant,
)
from echostream_plugin.modules.zipformer.convolution import ConvolutionModule
from echostream_plugin.modules.zipformer.parts import BiasNorm, Bypass, scaled_linear, swoosh_l
from echostream_plugin.modules.zipformer.regularisers import Balancer, Whiten, whitening_limit
from echostream_plugin.modules.zipformer.schedule import Clock, Schedule, SharedDropout, chance, sequence_mask

# probabilities with which a sequence of a training goes without a module
ATTENTION_SKIP = CONVOLUTION_SKIP = Schedule(((0, 0.2), (4000, 0.05), (16_000, 0.0)))
FEED_FORWARD_SKIP = Schedule(((0, 0.1), (4000, 0.01), (50_000, 0.0)))
CONSTANT_ATTENTION = Schedule(((0, 0.25), (4000, 0.025)))  # of a whole batch


class FeedForward(nn.Module):
    """Linear, SwooshL, linear; dropout with one mask for all frames."""

    def __init__(self, dim: int, hidden: int, config: StackConfig, clock: Clock):
        super().__init__()
        self.in_proj = nn.Linear(dim, hidden)
        self.out_proj = scaled_linear(hidden, dim, 0.1)
        self.dropout = SharedDropout(config.dropout, clock)
        self.hidden_balancer = Balancer(clock, (0.3, 1.0), (0.75, 5.0)) if config.balancers else nn.Identity()
        self.out_whiten = Whiten(clock, whitening_limit(7.5)) if config.whiten else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, T, C] to the same."""
        x = swoosh_l(self.hidden_balancer(self.in_proj(x)))
        return self.out_whiten(self.out_proj(self.dropout(x)))


class ZipformerLayer(nn.Module):
    """Feed-forward, gated attention, self-attention, convolution, feed-forward, bypass; then self-attention,
    convolution, feed-forward, norm and bypass. All attend with the same weights.

    layer_skip: the probability with which a sequence of a training goes without the layer.
    """

    def __init__(self, config: StackConfig, clock: Clock, layer_skip: Schedule | None):
        super().__init__()
        dim, ffn_dim = config.dim, config.ffn_dim
        self.clock, self.widths, self.skips = clock, config.widths, config.module_skip
        self.self_attn_weights = AttentionWeights(config, clock)
        self.feed_forward1 = FeedForward(dim, 3 * ffn_dim // 4, config, clock)
        self.nonlin_attention = NonlinAttention(config, clock)
        self.self_attn1 = SelfAttention(config, clock)
        self.conv_module1 = ConvolutionModule(config, clock)
        self.feed_forward2 = FeedForward(dim, ffn_dim, config, clock)
        self.bypass_mid = Bypass(dim, clock, config.bypass_clamp)
        self.self_attn2 = SelfAttention(config, clock)
        self.conv_module2 = ConvolutionModule(config, clock)
        self.feed_forward3 = FeedForward(dim, 5 * ffn_dim // 4, config, clock)
        self.norm = BiasNorm(dim)
        self.bypass = Bypass(dim, clock, config.bypass_clamp, layer_skip)
        self.register_buffer("bypass_scale", torch.full((dim,), 0.5))  # unused; icefall's state dicts have it
        self._add_regularisers(config, clock)

    def _add_regularisers(self, config: StackConfig, clock: Clock):
        names = ("balancer1", "balancer2", "balancer_na", "balancer_ff2", "balancer_ff3", "whiten")
        for name in names:
            setattr(self, name, nn.Identity())
        if config.balancers:
            self.balancer1 = Balancer(clock, (0.45, 0.55), (0.2, 4.0))
            self.balancer2 = Balancer(clock, (0.45, 0.55), (0.1, 4.0))
            for name, first, later, most in (("na", 0.004, 0.02, 100.0), ("ff2", 0, 0.1, 2.0), ("ff3", 0, 0.2, 4.0)):
                sizes = Schedule(((0, first), (4000, later))), most
                setattr(self, f"balancer_{name}", Balancer(clock, (0.3, 0.7), sizes, probability=0.05))
        if config.whiten:
            self.whiten = Whiten(clock, whitening_limit(4.0, 3.0))

    def forward(
        self, x: Tensor, past: Tensor, inputs: Tensor, windows: Windows, positions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x: [B, T, C]; past: [B, M + L, X] keys, gated values and both values of memory and left context, side by
        side; inputs: [B, 2, K // 2, C] of both convolutions before; positions: [L + 2 * S - 1, P].

        Returns [B, T, C], what x adds to the past [B, T, X], and the next inputs."""
        before = x
        keys, gated, values1, values2 = past.split(self.widths, dim=2)
        inputs1, inputs2 = inputs.unbind(1)
        weights, key = self.self_attn_weights(x, keys, windows, positions)
        attended = self._skip(x, ATTENTION_SKIP)

        x = x + self.feed_forward1(x)
        first = weights[:, 0]
        if self.training and self.skips and chance(CONSTANT_ATTENTION.at(self.clock)):
            first = constant(first)
        out, gate = self.nonlin_attention(x, first, gated, windows)
        x = x + attended(self.balancer_na(out))
        out, value1 = self.self_attn1(x, weights, values1, windows)
        x = x + attended(out)
        out, inputs1 = self.conv_module1(x, inputs1, windows)
        x = x + self._skip(x, CONVOLUTION_SKIP)(out)
        x = x + self._skip(x, FEED_FORWARD_SKIP)(self.balancer_ff2(self.feed_forward2(x)))
        x = self.bypass_mid(before, x)

        out, value2 = self.self_attn2(x, weights, values2, windows)
        x = x + attended(out)
        out, inputs2 = self.conv_module2(x, inputs2, windows)
        x = x + self._skip(x, CONVOLUTION_SKIP)(out)
        x = x + self._skip(x, FEED_FORWARD_SKIP)(self.balancer_ff3(self.feed_forward3(x)))
        x = self.norm(self.balancer1(x))
        x = self.whiten(self.balancer2(self.bypass(before, x)))
        return x, torch.cat([key, gate, value1, value2], dim=2), torch.stack([inputs1, inputs2], dim=1)

    def _skip(self, x: Tensor, schedule: Schedule):
        """A function that drops whole sequences, the same at each call."""
        probability = schedule.at(self.clock) if self.training and self.skips else 0.0
        if probability <= 0:
            return lambda out: out
        mask = sequence_mask(x, probability)
        return lambda out: out * mask
