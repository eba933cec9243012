"""A bundle made ready for streaming on its device: packed or rounded weights, recorded encoder steps.

Nothing here changes what is computed, but for the rounding that a user asks for.
"""

import torch
from torch import nn

from echostream_plugin.config import ConfigError
from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.modules.packed import can_pack, pack_linears

QUANTIZE = {
    "auto": "half on an x86 CPU where the weights came from half precision, as a bundle's, so that nothing is lost",
    "none": "weights as they are",
    "half": "weights of linear layers in half precision, float32 arithmetic (x86 CPU)",
    "int8": "weights of linear layers in 8 bits, torch's dynamic quantisation (x86 CPU)",
    "bf16": "weights and arithmetic in bfloat16",
}
VOCODER_BF16 = (
    "the vocoder's convolutions in bfloat16: two thirds of its time where the processor has it, and no audible "
    "difference (47 dB below the speech)"
)


def optimize(bundle: Bundle, quantize: str = "auto", vocoder_bf16: bool = False) -> Bundle:
    """Prepare a bundle, in place, for the device it is on; do this last, and once. quantize: a key of `QUANTIZE`.

    Raises ConfigError for an unknown value or one that the device cannot do."""
    if quantize not in QUANTIZE:
        raise ConfigError(f"quantize '{quantize}': use one of {', '.join(QUANTIZE)}")
    model, on_cpu = bundle.model, bundle.device.type == "cpu"
    if quantize == "auto":
        quantize = "half" if on_cpu and can_pack() and came_from_half(model) else "none"
    if quantize == "bf16":
        model.bfloat16()
    elif quantize != "none":
        if not on_cpu or not can_pack():
            raise ConfigError(f"quantize '{quantize}' needs an x86 CPU; use bf16 or none on {bundle.device}")
        pack_linears(model, quantize)
    if vocoder_bf16 and bundle.vocoder is not None:
        bundle.vocoder.stream_dtype = torch.bfloat16
    if hasattr(model.encoder, "record_steps"):
        model.encoder.record_steps()
    bundle.quantize = quantize
    return bundle


def came_from_half(model: nn.Module) -> bool:
    """Are the weights of all linear layers numbers of half precision?"""
    weights = (layer.weight for layer in model.modules() if isinstance(layer, nn.Linear))
    return all(torch.equal(weight.half().to(weight.dtype), weight) for weight in weights)
