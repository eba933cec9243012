"""The generator of a `CodeHiFiGAN` as a stream: every layer keeps the inputs it will need, no sample is computed twice.

The convolutions are centred, so a layer runs behind its input by half its span: it puts out what is determined by
what it got. Before the first input and after the last, each layer sees zeros, as it does when run once over everything;
`finish` lets the rest out.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from echostream_plugin.modules.streaming import StreamState
from echostream_plugin.vocoder.codehifigan import LEAKY_SLOPE, CodeHiFiGAN, ResBlock
from echostream_plugin.vocoder.convolution import Convolution, pack, pack_transposed

BLOCK_FRAMES = 48  # computed at once: longer blocks leave the cache of the processor, shorter ones reread the weights
LAST_SLOPE = 0.01


@dataclass(frozen=True)
class StageState(StreamState):
    """One upsampling and its residual blocks. Lengths grow to their bound in the first frames and then stay.

    inputs: [B, a, C_in] newest inputs of the transposed convolution, activated.
    cut: of its next outputs, how many lie before the first sample.
    recent: [B, b, C] newest inputs of the residual blocks.
    blocks: of each block, the newest inputs of its convolutions but the first, [B, c, C] each.
    waiting: of each block, outputs [B, d, C] whose sum waits for a slower block.
    """

    inputs: Tensor
    cut: int
    recent: Tensor
    blocks: tuple
    waiting: tuple


@dataclass(frozen=True)
class GeneratorState(StreamState):
    """before, after: [B, n, C] newest inputs of the first and of the last convolution."""

    before: Tensor
    stages: tuple
    after: Tensor


def generator_of(model: CodeHiFiGAN, dtype: torch.dtype = torch.float32) -> "StreamingGenerator":
    """The model's generator for streams, packed once and shared for as long as the weights stay as they are."""
    return model.packed.get(model, dtype, lambda: StreamingGenerator(model, dtype))


class StreamingGenerator:
    """Frames in, samples out. Holds packed copies of the weights and no state."""

    @torch.no_grad()
    def __init__(self, model: CodeHiFiGAN, dtype: torch.dtype = torch.float32):
        config, n = model.config, model.blocks_per_stage
        self.dtype, self.device = dtype, model.conv_pre.bias.device
        self.hop_samples = config.hop_samples
        self.embedding = model.dict.weight.detach().to(dtype)
        self.speakers = None if model.spkr is None else model.spkr.weight.detach().to(dtype)
        self.before = CentredConvolution(pack(model.conv_pre, dtype))
        # each stage puts out the sum of its blocks; the next layer's weights take the mean
        scales = [1.0] + [1.0 / n] * len(model.ups)
        self.stages, grain = [], 1
        for i, up in enumerate(model.ups):
            self.stages.append(Stage(up, model.resblocks[i * n : (i + 1) * n], scales[i], dtype, grain))
            grain *= self.stages[-1].rate
        self.after = CentredConvolution(pack(model.conv_post, dtype, scales[-1], grain))

    @property
    def delay_samples(self) -> int:
        """`step` has put out frames * hop_samples - delay_samples, once that is positive."""
        delay = self.before.half
        for stage in self.stages:
            delay = delay * stage.rate + stage.trim + stage.delay
        return delay + self.after.half

    def initial_state(self, batch_size: int = 1) -> GeneratorState:
        """The state before the first frame."""
        empty = torch.zeros(batch_size, 0, 0, dtype=self.dtype, device=self.device)
        return GeneratorState(
            self.before.initial_cache(empty),
            tuple(stage.initial_state(empty) for stage in self.stages),
            self.after.initial_cache(empty),
        )

    def step(self, frames: Tensor, state: GeneratorState, speaker: int = 0) -> tuple[Tensor, GeneratorState]:
        """frames: [B, f] units of 20 ms; returns the samples [B, n] that are now final, and the state."""
        return self._run(frames, state, speaker, last=False)

    def finish(self, state: GeneratorState, speaker: int = 0) -> Tensor:
        """The samples [B, n] that `step` withheld."""
        frames = torch.zeros(state.before.size(0), 0, dtype=torch.long, device=self.device)
        return self._run(frames, state, speaker, last=True)[0]

    @torch.inference_mode()
    def _run(self, frames: Tensor, state: GeneratorState, speaker: int, last: bool) -> tuple[Tensor, GeneratorState]:
        samples = []
        for block in frames.split(BLOCK_FRAMES, dim=1):
            out, state = self._advance(block, state, speaker, last=False)
            samples.append(out)
        if last:
            out, state = self._advance(frames[:, :0], state, speaker, last=True)
            samples.append(out)
        return torch.cat(samples, dim=1), state

    def _advance(self, frames: Tensor, state: GeneratorState, speaker: int, last: bool):
        x = self.embedding[frames]
        if self.speakers is not None:
            x = torch.cat([x, self.speakers[speaker].expand(*frames.shape, -1)], dim=2)
        x, before = self.before.step(x, state.before, last)
        stages = []
        for stage, stage_state in zip(self.stages, state.stages, strict=True):
            x, stage_state = stage.step(x, stage_state, last)
            stages.append(stage_state)
        x, after = self.after.step(F.leaky_relu_(x, LAST_SLOPE), state.after, last)
        return torch.tanh(x.float()).squeeze(2), GeneratorState(before, tuple(stages), after)


class CentredConvolution:
    """A convolution that sees `half` inputs on either side of an output, of its newest inputs and new ones."""

    def __init__(self, convolution: Convolution):
        self.convolution = convolution
        self.half, self.span = convolution.span // 2, convolution.span

    def initial_cache(self, like: Tensor) -> Tensor:
        """The zeros before the first input. [B, half, C_in]"""
        return like.new_zeros(like.size(0), self.half, self.convolution.channels_in)

    def step(self, x: Tensor, cache: Tensor, last: bool) -> tuple[Tensor, Tensor]:
        """x: [B, T, C_in]; cache: [B, half..span, C_in]; returns [B, n, C_out] and the next cache."""
        joined = extend(cache, x.size(1), self.half if last else 0)
        joined[:, cache.size(1) : cache.size(1) + x.size(1)] = x
        return self.apply(joined), newest(joined, self.span)

    def apply(self, joined: Tensor) -> Tensor:
        """joined: [B, T, C_in], cache and inputs; returns [B, max(0, T - span), C_out]."""
        if joined.size(1) <= self.span:
            return joined.new_zeros(joined.size(0), 0, self.convolution.channels_out)
        return self.convolution(joined)


class Stage:
    """A transposed convolution and the sum of its residual blocks."""

    def __init__(self, up: torch.nn.ConvTranspose1d, blocks: list, scale: float, dtype: torch.dtype, grain: int):
        """scale: of the input; grain: inputs that come of a frame."""
        self.up = pack_transposed(up, dtype, scale, grain)
        self.rate, self.trim = up.stride[0], up.padding[0]
        self.channels = up.out_channels
        self.blocks = [Residual(block, dtype, grain * self.rate) for block in blocks]
        self.widest = max(block.first.half for block in self.blocks)
        self.delay = max(block.delay for block in self.blocks)

    def initial_state(self, like: Tensor) -> StageState:
        """The state before the first frame; like: a tensor of the batch size, type and device."""
        empty = like.new_zeros(like.size(0), 0, self.channels)
        return StageState(
            inputs=like.new_zeros(like.size(0), self.up.span, self.up.channels_in),
            cut=self.trim,
            recent=like.new_zeros(like.size(0), self.widest, self.channels),
            blocks=tuple(block.initial_caches(like) for block in self.blocks),
            waiting=(empty,) * len(self.blocks),
        )

    def step(self, x: Tensor, state: StageState, last: bool) -> tuple[Tensor, StageState]:
        """x: [B, T, C_in], overwritten; returns [B, n, C] and the next state."""
        x, inputs = self._upsample(F.leaky_relu_(x, LEAKY_SLOPE), state.inputs, last)
        cut = min(state.cut, x.size(1))
        x = x[:, cut:]
        kept, after = state.recent.size(1), self.widest if last else 0
        joined = extend(state.recent, x.size(1), after)
        joined[:, kept : kept + x.size(1)] = x
        active = F.leaky_relu(joined, LEAKY_SLOPE)
        outputs, caches = [], []
        for block, cache, waiting in zip(self.blocks, state.blocks, state.waiting, strict=True):
            # a narrower block begins later in the shared inputs, and ends earlier
            margin = self.widest - block.first.half
            start = max(margin, kept - block.first.span)
            window = slice(start, joined.size(1) - (margin if last else 0))
            y, cache = block.step(joined[:, window], active[:, window], cache, last)
            outputs.append(torch.cat([waiting, y], dim=1) if waiting.size(1) else y)
            caches.append(cache)
        n = min(output.size(1) for output in outputs)
        total = outputs[0][:, :n]
        for output in outputs[1:]:
            total = total + output[:, :n]
        waiting = tuple(output[:, n:].clone() for output in outputs)
        return total, StageState(inputs, state.cut - cut, newest(joined, 2 * self.widest), tuple(caches), waiting)

    def _upsample(self, x: Tensor, inputs: Tensor, last: bool) -> tuple[Tensor, Tensor]:
        """x: [B, T, C_in] activated; returns [B, n, C], beginning `trim` before the first output, and the newest
        inputs."""
        after = -(-self.trim // self.rate) if last else 0  # the last inputs reach so many further
        joined = extend(inputs, x.size(1), after)
        joined[:, self.up.span : self.up.span + x.size(1)] = x
        if joined.size(1) == self.up.span:
            return x.new_zeros(x.size(0), 0, self.channels), inputs
        y = self.up(joined).reshape(x.size(0), -1, self.channels)
        end = y.size(1) - (after * self.rate - self.trim if last else 0)
        return y[:, :end], newest(joined, self.up.span)


class Residual:
    """One `ResBlock`: pairs of a dilated and a plain convolution, each pair added to its input."""

    def __init__(self, block: ResBlock, dtype: torch.dtype, grain: int):
        """grain: inputs that come of a frame."""
        self.pairs = [
            tuple(CentredConvolution(pack(convolution, dtype, grain=grain)) for convolution in (dilated, plain))
            for dilated, plain in zip(block.convs1, block.convs2, strict=True)
        ]
        self.first = self.pairs[0][0]
        self.delay = sum(dilated.half + plain.half for dilated, plain in self.pairs)

    def initial_caches(self, like: Tensor) -> tuple:
        """Of all convolutions but the first, whose inputs the stage keeps."""
        flat = [convolution for pair in self.pairs for convolution in pair]
        return tuple(convolution.initial_cache(like) for convolution in flat[1:])

    def step(self, joined: Tensor, active: Tensor, caches: tuple, last: bool) -> tuple[Tensor, tuple]:
        """joined: [B, T, C] newest and new inputs of the first convolution (and zeros after the last), active: the same
        activated; returns [B, n, C] and the next caches."""
        caches, kept = list(caches), []
        for i, (dilated, plain) in enumerate(self.pairs):
            hidden = dilated.apply(active)
            cache = caches.pop(0)
            # the residual: how far the outputs of this pair run behind its inputs
            offset = dilated.half + plain.half - cache.size(1)
            activated = extend(cache, hidden.size(1), plain.half if last else 0)
            torch.ops.aten.leaky_relu.out(
                hidden, LEAKY_SLOPE, out=activated[:, cache.size(1) : cache.size(1) + hidden.size(1)]
            )
            kept.append(newest(activated, plain.span))
            y = plain.apply(activated)
            past = joined[:, offset : offset + y.size(1)]
            if i + 1 == len(self.pairs):
                return y.add_(past), tuple(kept)
            following, cache = self.pairs[i + 1][0], caches.pop(0)
            joined = extend(cache, y.size(1), following.half if last else 0)
            torch.add(y, past, out=joined[:, cache.size(1) : cache.size(1) + y.size(1)])
            kept.append(newest(joined, following.span))
            active = F.leaky_relu(joined, LEAKY_SLOPE)


def extend(cache: Tensor, length: int, after: int) -> Tensor:
    """[B, cache + length + after, C]: the cache, room to be written, and zeros."""
    joined = cache.new_empty(cache.size(0), cache.size(1) + length + after, cache.size(2))
    joined[:, : cache.size(1)] = cache
    if after:
        joined[:, cache.size(1) + length :] = 0
    return joined


def newest(joined: Tensor, length: int) -> Tensor:
    """The last `length` of [B, T, C], as a copy: a view would keep the whole alive."""
    return joined[:, max(0, joined.size(1) - length) :].clone()
