"""The reference of the Zipformer: icefall's recipe as the package `zipformer` 0.1.3 (Apache 2.0, no weights).

It is no requirement, and its own requirements exclude this project's torch: `pip install --no-deps zipformer==0.1.3`,
or a folder on PYTHONPATH that it was unpacked into. Only three of its files are imported. What it computes for a small
model is frozen in tests/data/zipformer.safetensors, written by

    python -m tests.zipformer_reference
"""

import importlib.util
import os
import sys
import types
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from echostream_plugin.encoders.zipformer import ZipformerConfig, left_chunks

GOLDEN = Path(__file__).parent / "data" / "zipformer.safetensors"
SILENCE = -23.03
CHUNKS, LEFTS = (16, 32, 64, -1), (64, 128, 256)  # frames of 20 ms; -1 is the whole utterance
SIX = ("stack_dims", "layers", "ffn_dim", "heads", "unmasked_dims")


def sizes(dims, layers, ffn_dim, heads, unmasked, **more) -> dict:
    return {**dict(zip(SIX, (dims, layers, ffn_dim, heads, unmasked), strict=True)), "dim": max(dims), **more}


SIZES = {
    "frozen": sizes((16, 24, 32, 40, 32, 24), (1, 1, 1, 2, 1, 1), (24, *(32,) * 5), (2, 2, 2, 4, 2, 2), (8,) * 6,
                    input_dim=24, query_dim=8, value_dim=4),
    "mini": sizes((96, *(128,) * 5), (1,) * 6, (256, *(384,) * 5), (4,) * 6, (64,) * 6, query_dim=16, value_dim=8),
    "small": sizes((192, *(256,) * 5), (2,) * 6, (512, *(768,) * 5), (4, 4, 4, 8, 4, 4), (192,) * 6),
    "medium": {},
}  # fmt: skip


def config_of(size: str, **more) -> ZipformerConfig:
    return ZipformerConfig(**{**SIZES[size], "silence": SILENCE, **more})


def reference():
    """Its modules `zipformer`, `subsampling`, `scaling` and `optim`; None where the package is not installed."""
    if "zipformer.modules.zipformer" not in sys.modules:
        spec = importlib.util.find_spec("zipformer")
        if spec is None or not spec.submodule_search_locations:
            return None
        root = Path(next(iter(spec.submodule_search_locations)))
        for name, folder in (("zipformer", root), ("zipformer.modules", root / "modules")):
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [str(folder)]
        utils = types.ModuleType("zipformer.utils")
        utils.torch_autocast = lambda *_, **__: nullcontext()
        utils.fix_random_seed = torch.manual_seed
        sys.modules["zipformer.utils"] = utils
        os.environ["K2_ONNX_EXPORT"] = "1"  # no torch.compile
    names = ("zipformer", "subsampling", "scaling", "optim")
    return types.SimpleNamespace(**{name: importlib.import_module(f"zipformer.modules.{name}") for name in names})


def build(config: ZipformerConfig, spread: float = 0.1):
    """Front end and stacks of the reference with random weights, none of them zero."""
    modules = reference()
    torch.manual_seed(0)
    front = modules.subsampling.Conv2dSubsampling(config.input_dim, config.stack_dims[0])
    stacks = modules.zipformer.Zipformer(
        downsampling_factor=(1, 2, 4, 8, 4, 2),
        encoder_dim=config.stack_dims,
        num_encoder_layers=config.layers,
        encoder_unmasked_dim=config.unmasked_dims,
        query_head_dim=config.query_dim,
        pos_head_dim=config.position_head_dim,
        value_head_dim=config.value_dim,
        num_heads=config.heads,
        feedforward_dim=config.ffn_dim,
        cnn_module_kernel=config.conv_kernel,
        pos_dim=config.position_dim,
        causal=True,
    )
    with torch.no_grad():
        for parameter in [*front.parameters(), *stacks.parameters()]:
            parameter.add_(spread * torch.randn_like(parameter) * (parameter.abs().mean() + 0.1))
    return front.eval(), stacks.eval()


@torch.no_grad()
def embedded(front, features):
    """Frames of 20 ms of features [1, T, F] after 13 frames of silence."""
    features = torch.cat([features.new_full((1, 13, features.size(2)), SILENCE), features], dim=1)
    return front(features, torch.tensor([features.size(1)]))[0][:, : (features.size(1) - 13) // 2]


@torch.no_grad()
def masked(stacks, frames, chunk: int, left: int):
    """Encoder frames of frames [1, T, C] in one pass, seen in chunks."""
    stacks.chunk_size, stacks.left_context_frames = (chunk,), (left,)
    length = frames.size(1)
    return stacks(frames.transpose(0, 1), torch.tensor([length]), torch.zeros(1, length, dtype=bool))[0].transpose(0, 1)


@torch.no_grad()
def streamed(stacks, frames, chunk: int, left: int):
    """The same, chunk after chunk, the last one as short as it is."""
    stacks.chunk_size, stacks.left_context_frames = (chunk,), (left,)
    states, outputs, done = stacks.get_init_states(), [], 0
    for piece in frames.split(chunk, dim=1):
        count = piece.size(1)
        unfilled = torch.arange(left).flip(0).unsqueeze(0) >= done
        mask = torch.cat([unfilled, torch.zeros(1, count, dtype=bool)], dim=1)
        out, _, states = stacks.streaming_forward(piece.transpose(0, 1), torch.tensor([count]), states, mask)
        outputs.append(out.transpose(0, 1))
        done += count
    return torch.cat(outputs, dim=1)


def view(chunk: int, left: int, memory: int = 0) -> tuple[int, int, int]:
    """What `Zipformer.forward` calls these."""
    segment = max(chunk, 0) // 2
    return 2 * segment, left_chunks(segment, left // 2), memory


def write_golden():
    """Weights and features are numbers of half precision, and stored so."""
    config = config_of("frozen")
    front, stacks = build(config, spread=0.3)
    with torch.no_grad():
        for module in (front, stacks):
            for parameter in module.parameters():
                parameter.copy_(parameter.half())
    features = (3 * torch.randn(1, 300, config.input_dim)).half()
    tensors = {f"encoder_embed.{name}": value.half() for name, value in front.state_dict().items()}
    tensors |= {f"encoder.{name}": value.half() for name, value in stacks.state_dict().items()}
    frames = embedded(front, features.float())
    tensors |= {"features": features, "frames": frames}
    for chunk in CHUNKS:
        for left in LEFTS[: 1 if chunk < 0 else 2]:
            tensors[f"masked {chunk} {left}"] = masked(stacks, frames, chunk, left)
    tensors["streamed 16 64"] = streamed(stacks, frames[:, :144], 16, 64)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, GOLDEN)


def read_golden() -> tuple[dict, dict]:
    """The state dict, and inputs and outputs by name."""
    tensors = {name: tensor.float() for name, tensor in load_file(GOLDEN).items()}
    state = {name: tensor for name, tensor in tensors.items() if name.startswith("encoder")}
    return state, {name: tensor for name, tensor in tensors.items() if name not in state}


if __name__ == "__main__":
    write_golden()
    print(GOLDEN, GOLDEN.stat().st_size)
