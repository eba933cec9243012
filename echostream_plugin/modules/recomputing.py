"""Memory of training against its time: layers whose insides are computed again backward instead of being kept."""

from contextlib import ExitStack, contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

_CHOICES = {
    SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled,
    SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled,
    SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled,
    SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.cudnn_sdp_enabled,
}


def keep(function, *inputs):
    """function(*inputs), with everything that its gradient needs kept."""
    return function(*inputs)


def recompute(function, *inputs):
    """function(*inputs), of which only the inputs are kept; the same values and gradients, dropout included."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    # the backward pass leaves the caller's choice of attention, and another one would keep other things
    attention = _present_attention()
    return checkpoint(function, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), attention()))


def _present_attention():
    """A maker of contexts in which `scaled_dot_product_attention` is computed as it is here."""
    backends = [backend for backend, enabled in _CHOICES.items() if enabled()]
    settings = torch.backends.cuda
    reduced = settings.fp16_bf16_reduction_math_sdp_allowed()

    @contextmanager
    def attention():
        before = settings.fp16_bf16_reduction_math_sdp_allowed()
        with ExitStack() as stack:
            stack.enter_context(sdpa_kernel(backends))
            stack.callback(settings.allow_fp16_bf16_reduction_math_sdp, before)
            settings.allow_fp16_bf16_reduction_math_sdp(reduced)
            yield

    return attention
