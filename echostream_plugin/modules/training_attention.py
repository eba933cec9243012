"""Which of torch's attentions trains fastest on a CPU."""

from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def quick_attention(device_type: str):
    """Within it, `scaled_dot_product_attention` is computed by plain products on a CPU, in bfloat16 where its inputs
    are: half the time of torch's own choice, forward and backward, whose fused form is slow backward and whose plain
    form goes through float32. Elsewhere torch chooses. For training alone: scores have eight bits."""
    if device_type != "cpu":
        yield
        return
    settings = torch.backends.cuda  # the switch is named after CUDA and holds for all devices
    before = settings.fp16_bf16_reduction_math_sdp_allowed()
    settings.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        settings.allow_fp16_bf16_reduction_math_sdp(before)
