"""Convolutions over time of inference: time-major, weights folded and packed once, nothing padded.

Time-major [B, T, C] is what oneDNN calls channels-last: it convolves it without reordering the data, which for the few
channels of a vocoder's last stages costs as much as the convolution.
"""

from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echostream_plugin.modules.lengths import bucket

# where minimal filtering was measured to be faster on a CPU: with fewer channels the transforms cost more than the
# products saved, with more its larger weights have to be read too often
MINIMAL_KERNEL, MINIMAL_CHANNELS = 7, range(64, 129)
TILE = 4  # outputs, and kernel taps, of one minimal filter


def pack(conv: nn.Module, dtype: torch.dtype = torch.float32, scale: float = 1.0, grain: int = 1) -> "Convolution":
    """The fastest packing of a Conv1d of stride 1; its input is multiplied by `scale`; grain: of `bucket`, the outputs
    that come of a frame."""
    weight, dilation = folded_weight(conv) * scale, conv.dilation[0]
    minimal = conv.kernel_size[0] >= MINIMAL_KERNEL and all(n in MINIMAL_CHANNELS for n in weight.shape[:2])
    if minimal and dtype == torch.float32 and weight.device.type == "cpu":
        return MinimalConvolution(weight, conv.bias, dilation)
    return Convolution(weight.to(dtype), conv.bias.to(dtype), dilation, grain)


def pack_transposed(
    conv: nn.ConvTranspose1d, dtype: torch.dtype = torch.float32, scale: float = 1.0, grain: int = 1
) -> "Convolution":
    """A transposed convolution of stride r as a plain one with r outputs at each input: [B, T, r * C].

    Output i * r + j of the transposed one, without padding, takes the inputs i - a with taps a * r + j."""
    weight, rate = folded_weight(conv) * scale, conv.stride[0]
    channels_in, channels_out, kernel = weight.shape
    taps = -(-kernel // rate)
    weight = F.pad(weight, (0, taps * rate - kernel)).view(channels_in, channels_out, taps, rate)
    weight = weight.flip(2).permute(3, 1, 0, 2).reshape(rate * channels_out, channels_in, taps)
    return Convolution(weight.to(dtype), conv.bias.repeat(rate).to(dtype), 1, grain)


def folded_weight(conv: nn.Module) -> Tensor:
    """The weight of a convolution, with or without weight norm, detached."""
    if hasattr(conv, "weight_g"):
        return torch._weight_norm(conv.weight_v, conv.weight_g, 0).detach()
    return conv.weight.detach()


class Convolution:
    """Valid (unpadded) convolution. x: [B, T, C_in] -> [B, T - span, C_out], where span = (kernel - 1) * dilation."""

    def __init__(self, weight: Tensor, bias: Tensor, dilation: int, grain: int = 1):
        """weight: [C_out, C_in, kernel]; bias: [C_out]; grain: of `bucket`"""
        self.grain = grain
        self.channels_out, self.channels_in, kernel = weight.shape
        self.dilation, self.span, self.bias = dilation, (kernel - 1) * dilation, bias.detach()
        self._pack(weight)

    def _pack(self, weight: Tensor):
        self.weight = weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        self.prepacked = _prepack(self.weight, self.bias, self.dilation)
        if self.prepacked:
            self.weight = None  # its copy in oneDNN's layout is enough

    def __call__(self, x: Tensor) -> Tensor:
        length = x.size(1) - self.span
        if self.prepacked and (spare := bucket(length, self.grain) - length):
            x = F.pad(x, (0, 0, 0, spare))
        image = x.transpose(1, 2).unsqueeze(2)  # [B, C, 1, T] whose memory is channels-last already
        if self.prepacked:
            y = self.prepacked(image)
        else:
            y = F.conv2d(image, self.weight, self.bias, dilation=(1, self.dilation))
        return y.squeeze(2).transpose(1, 2)[:, :length]


def _prepack(weight: Tensor, bias: Tensor, dilation: int):
    """Convolves [B, C, 1, T] with a weight in the layout of oneDNN; None where there is no oneDNN.

    F.conv2d turns the weight into that layout at every call, and takes a slow path of torch's own for small inputs.
    These are the operators of torch.compile's frozen graphs; a torch that lacks them, or a processor that does not have
    the data type, uses F.conv2d."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return None
    where = ([0, 0], [1, 1], [1, dilation], 1)  # padding, stride, dilation, groups
    try:
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *where)
        operator = torch.ops.mkldnn._convolution_pointwise

        def convolve(image: Tensor) -> Tensor:
            return operator(image, packed, bias, *where, "none", [], "")

        span = (weight.size(3) - 1) * dilation
        convolve(weight.new_zeros(1, 1, span + 1, weight.size(1)).permute(0, 3, 1, 2))
    except (AttributeError, RuntimeError, TypeError):
        return None
    return convolve


class MinimalConvolution(Convolution):
    """The same with fewer multiplications: Toom-Cook minimal filtering F(4, 4) over time (arXiv 1509.09308).

    Four outputs of a four-tap filter take 7 products instead of 16; a longer kernel is several such filters, summed
    before the inverse transform. Exact but for rounding (about 5e-6 of the output where a plain convolution has 1e-6).
    """

    def _pack(self, weight: Tensor):
        self.outputs, filters, self.inputs = (matrix.float() for matrix in minimal_filter(TILE))
        self.points = self.inputs.size(0)
        self.groups = -(-weight.size(2) // TILE)
        padded = F.pad(weight.double(), (0, self.groups * TILE - weight.size(2)))
        grouped = padded.unflatten(2, (self.groups, TILE))
        # [groups, points, C_in, C_out]
        self.weight = torch.einsum("pr,oigr->gpio", filters.double(), grouped).float().contiguous()
        # the second point is 1: what is added to its product reaches all outputs alike
        self.shift = torch.zeros(self.points, 1, self.channels_out)
        self.shift[1, 0] = self.bias

    def __call__(self, x: Tensor) -> Tensor:
        if x.size(0) > 1:
            return torch.cat([self(stream) for stream in x.split(1)])
        length = x.size(1) - self.span
        tiles = -(-length // (TILE * self.dilation))
        values = self._values(x.contiguous(), tiles + self.groups - 1)
        products, rows = self.shift, tiles * self.dilation
        for group, weight in enumerate(self.weight):  # the next four taps see the next tile
            start = group * self.dilation
            products = torch.baddbmm(products, values[:, start : start + rows], weight)
        products = products.view(self.points, tiles, -1).transpose(0, 1)
        outputs = torch.bmm(self.outputs.expand(tiles, -1, -1), products)  # [tiles, TILE, dilation * C_out]
        return outputs.view(1, -1, self.channels_out)[:, :length]

    def _values(self, x: Tensor, tiles: int) -> Tensor:
        """x: [1, T, C]; returns [points, tiles * dilation, C]: what the filters' values are multiplied with."""
        if self.dilation == 1:
            values = x.new_empty(tiles, self.points, self.channels_in)
            for where, windows in self._windows(x, tiles):
                torch.bmm(self.inputs.expand(windows.size(0), -1, -1), windows, out=values[where])
            return values.transpose(0, 1)
        inputs = x.new_empty(self.points, tiles, self.dilation * self.channels_in)
        for where, windows in self._windows(x, tiles):
            inputs[:, where] = windows.transpose(0, 1)
        return (self.inputs @ inputs.view(self.points, -1)).view(self.points, -1, self.channels_in)

    def _windows(self, x: Tensor, tiles: int):
        """The inputs of each tile, zeros beyond x: pairs of a slice of the tiles, and [n, points, dilation * C]."""
        width, step, reach = self.dilation * self.channels_in, TILE * self.dilation, self.points * self.dilation
        strides = (TILE * width, width, 1)
        inside = max(0, min(tiles, (x.size(1) - reach) // step + 1))
        if inside:
            yield slice(0, inside), x.as_strided((inside, self.points, width), strides)
        if inside < tiles:
            tail = x[:, inside * step :]
            needed = (tiles - inside - 1) * step + reach
            tail = F.pad(tail, (0, 0, 0, needed - tail.size(1)))
            yield slice(inside, tiles), tail.as_strided((tiles - inside, self.points, width), strides)


def minimal_filter(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices A [size, n], G [n, size], B [n, n], n = 2 * size - 1, in float64, of

        y = A ((G g) * (B d)),  y_i = sum_j g_j d_(i + j)

    for filters g of `size` taps and n inputs d. Toom-Cook: polynomials are multiplied by their values at n points, of
    which the last is infinity; a filter is the transpose of that. Small points keep rounding small.
    """
    n = 2 * size - 1
    points = [Fraction(p) for p in ("0", "1", "-1", "2", "-2", "1/2", "-1/2", "4", "-4", "1/4")][: n - 1]

    def values(terms: int) -> list:
        return [[p**j for j in range(terms)] for p in points] + [[Fraction(int(j == terms - 1)) for j in range(terms)]]

    inverse = _invert(values(n))
    outputs = [list(column) for column in zip(*values(size), strict=True)]
    filters = values(size)
    inputs = [list(column) for column in zip(*inverse, strict=True)]
    for i in range(n):  # only the product of a row of G and one of B counts
        largest = max(abs(value) for value in inputs[i])
        inputs[i] = [value / largest for value in inputs[i]]
        filters[i] = [value * largest for value in filters[i]]
    return tuple(
        torch.tensor([[float(v) for v in row] for row in matrix], dtype=torch.float64)
        for matrix in (outputs, filters, inputs)
    )


def _invert(matrix: list) -> list:
    """Gauss-Jordan in fractions."""
    n = len(matrix)
    rows = [[*row, *(Fraction(int(i == j)) for j in range(n))] for i, row in enumerate(matrix)]
    for i in range(n):
        pivot = next(j for j in range(i, n) if rows[j][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for j in range(n):
            if j != i and rows[j][i]:
                rows[j] = [a - rows[j][i] * b for a, b in zip(rows[j], rows[i], strict=True)]
    return [row[n:] for row in rows]
