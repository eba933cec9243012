"""A bundle made ready for streaming on its device: packed or rounded weights, compiled or recorded encoder steps.

Nothing here changes what is computed, but for the rounding that a user asks for.
"""

from functools import partial
from math import lcm

import torch
from torch import nn

from echostream_plugin.config import ConfigError
from echostream_plugin.constants import FRAME_MS, SAMPLE_RATE
from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.frontends import FRONTENDS
from echostream_plugin.inference.options import SessionOptions, bundle_options
from echostream_plugin.modules import native
from echostream_plugin.modules.native_linear import NativeLinear
from echostream_plugin.modules.packed import PackedLinear, can_pack, pack_linears
from echostream_plugin.modules.recording import record_calls

QUANTIZE = {
    "auto": "half on a CPU where the weights came from half precision, as a bundle's, so that nothing is lost",
    "none": "weights as they are",
    "half": "weights of linear layers in half precision, float32 arithmetic (CPU)",
    "int8": "weights of linear layers in 8 bits, their inputs in 7 with a scale per row (CPU)",
    "bf16": "weights and arithmetic in bfloat16",
}
VOCODER_BF16 = (
    "the vocoder's convolutions in bfloat16: two thirds of its time where the processor has it, and no audible "
    "difference (47 dB below the speech)"
)


PUSH_MS = 320  # what most streams are pushed in
MOST_PUSHES = 100  # of a silent stream that is recorded
LONGEST_MS = 5120  # longer segments and pushes are left alone: their steps gain nothing


def optimize(
    bundle: Bundle,
    quantize: str = "auto",
    vocoder_bf16: bool = False,
    options: SessionOptions | None = None,
    push_ms: int = PUSH_MS,
) -> Bundle:
    """Prepare a bundle, in place, for the device it is on; do this last, and once, before any thread uses it. Then
    threads may share the bundle, each with sessions of its own.

    quantize: a key of `QUANTIZE`; options, push_ms: as for `prepare`, which it ends with. Raises ConfigError for an
    unknown value or one that the device cannot do."""
    if quantize not in QUANTIZE:
        raise ConfigError(f"quantize '{quantize}': use one of {', '.join(QUANTIZE)}")
    model, on_cpu = bundle.model, bundle.device.type == "cpu"
    path = native.instructions() if on_cpu and quantize != "bf16" else None
    compiles = path is not None and hasattr(model.encoder, "compile_steps")
    packs = path is not None or on_cpu and can_pack()
    if quantize == "auto":
        quantize = "half" if packs and came_from_half(model) else "none"
    if quantize == "bf16":
        model.bfloat16()
    elif quantize != "none":
        if not packs:
            needed = "a CPU, and the compiled operator or FBGEMM (x86)"
            raise ConfigError(f"quantize '{quantize}' needs {needed}; use bf16 or none on {bundle.device}")
        if can_pack() and not compiles:  # its steps are recorded, and a recording does not see the operator's calls
            pack_linears(model.encoder, quantize)
        pack_linears(model, quantize, partial(NativeLinear, path=path) if path else PackedLinear)
    if vocoder_bf16 and bundle.vocoder is not None:
        bundle.vocoder.stream_dtype = torch.bfloat16
    bundle.quantize = quantize
    if compiles and model.encoder.compile_steps():
        bundle.instructions = path
    elif hasattr(model.encoder, "record_steps"):
        model.encoder.record_steps()
        prepare(bundle, options, push_ms)
    return bundle


@torch.inference_mode()
def prepare(bundle: Bundle, options: SessionOptions | None = None, push_ms: int = PUSH_MS, streams: int = 1) -> None:
    """Record the encoder steps that sessions of an optimised bundle need, by streaming silence: the whole segment, and
    the unfinished segments that pushes of `push_ms` end in. Nothing is recorded while sessions run: a step of another
    shape, as after other pushes, runs unrecorded, which takes up to twice as long. Compiled steps (`modules.native`)
    need none of this, and none is done.

    options: of the sessions, default `bundle_options(bundle)`; streams: how many are stacked in a `BatchedSession`. A
    shape takes 0.2 s for the bundled model, 0.7 s for one of 16 layers. May be called while other threads use the
    bundle, and again for other values; an encoder keeps `recording.MOST_RECORDINGS` shapes, those used most."""
    if push_ms < 1:
        raise ConfigError(f"push_ms must be at least 1, got {push_ms}")
    if bundle.instructions is not None:
        return
    frame_count = FRONTENDS[bundle.config.encoder.features].frame_count
    encoder, segment_ms = bundle.model.encoder, (options or bundle_options(bundle)).chunk_ms
    if not 0 < segment_ms <= LONGEST_MS:
        return
    like = next(encoder.parameters())
    with record_calls():
        for piece_ms in {min(push_ms, LONGEST_MS), segment_ms}:
            state, heard = encoder.initial_state(streams, segment_ms // FRAME_MS), 0
            # after two rounds of pushes and segments the lengths come again
            for push in range(1, min(MOST_PUSHES, 2 * lcm(piece_ms, segment_ms) // piece_ms) + 1):
                features = frame_count(push * piece_ms * SAMPLE_RATE // 1000)
                if features > heard:
                    piece = like.new_zeros(streams, features - heard, bundle.config.encoder.input_dim)
                    _, state = encoder.step(piece, state)
                    encoder.finish(state)
                    heard = features


def came_from_half(model: nn.Module) -> bool:
    """Are the weights of all linear layers numbers of half precision?"""
    weights = (layer.weight for layer in model.modules() if isinstance(layer, nn.Linear))
    return all(torch.equal(weight.half().to(weight.dtype), weight) for weight in weights)
