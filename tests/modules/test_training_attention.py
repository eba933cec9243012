"""The attention of training on a CPU: the same numbers to bfloat16, and torch's switch as it was found."""

import pytest
import torch
from torch.nn import functional as F

from echostream_plugin.modules.training_attention import quick_attention

switched = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 0.02)])
def test_the_same_numbers(dtype, tolerance):
    torch.manual_seed(0)
    heads = [torch.randn(2, 3, 40, 16) for _ in range(3)]
    mask = torch.ones(40, 40, dtype=torch.bool).tril()
    wanted = F.scaled_dot_product_attention(*heads, attn_mask=mask)
    with quick_attention("cpu"):
        found = F.scaled_dot_product_attention(*(part.to(dtype) for part in heads), attn_mask=mask)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("before", [False, True])
def test_the_switch_is_put_back_after_an_error_too(before):
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)
    try:
        with pytest.raises(RuntimeError, match="within"), quick_attention("cpu"):
            assert switched()
            raise RuntimeError("within")
        assert switched() is before
        with quick_attention("cuda"):
            assert switched() is before
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(False)
