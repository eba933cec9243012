"""The model that an agent's flags name."""

import functools
import sys

import torch

from echostream_plugin.cli_options import DEFAULT_BUNDLE
from echostream_plugin.config import ConfigError
from echostream_plugin.constants import FRAME_MS
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.optimize import PUSH_MS, optimize
from echostream_plugin.inference.options import bundle_options

DEFAULT_CHUNK_MS = 320
SHORTEST_CHUNK_MS = 160  # shorter segments than any seen in training serve nobody


def load_model(args, speech: bool = True):
    """The bundle that the flags name; speech: it must speak."""
    if args.model_path is None:
        bundle = load_bundle(args.bundle or DEFAULT_BUNDLE)
    else:
        if args.bundle is not None:
            raise ConfigError("give --bundle or --model-path, not both")
        if args.data_bin is None:
            raise ConfigError("--model-path needs --data-bin, the data folder with dictionaries and yaml files")
        from echostream_plugin.fairseq_ext.loading import load_checkpoint_bundle  # fairseq, only where it is needed

        bundle = load_checkpoint_bundle(
            args.model_path,
            args.data_bin,
            args.config_yaml,
            args.multitask_config_yaml,
            args.vocoder,
            args.vocoder_cfg,
            speech,
        )
    if speech and bundle.vocoder is None:
        raise ConfigError(
            "a unit vocoder is needed to speak: give --vocoder and --vocoder-cfg, or name it in --config-yaml"
            if args.model_path
            else "the bundle has no vocoder: use the text agents, or make it again with a vocoder"
        )
    options = bundle_options(bundle, chunk_ms=chunk_ms_of(args, bundle.session))
    push_ms = max(1, int(getattr(args, "source_segment_size", PUSH_MS)))
    return optimize(bundle.to(device_name(args.device)), args.quantize, args.vocoder_bf16, options, push_ms)


@functools.cache  # SimulEval asks twice; one warning is enough
def device_name(device: str) -> str:
    """torch's name of a device: StreamSpeech's scripts say `gpu`; without a GPU that is the CPU, with a warning."""
    name = "cuda" if device == "gpu" else device
    if name.startswith("cuda") and not torch.cuda.is_available():
        print(f"warning: --device {device}: torch finds no GPU here; running on the CPU", file=sys.stderr)
        return "cpu"
    return name


def chunk_ms_of(args, suited: dict | None = None) -> int:
    """The encoder segment: the flag's, else the one that suits the bundle, else what fits into a source segment.

    A source segment that is shorter (or under 160 ms) is computed provisionally while the encoder's segment fills."""
    chunk_ms = (suited or {}).get("chunk_ms") if args.chunk_ms is None else args.chunk_ms
    if chunk_ms is not None:
        return chunk_ms
    size = getattr(args, "source_segment_size", DEFAULT_CHUNK_MS)
    return size // FRAME_MS * FRAME_MS if size >= SHORTEST_CHUNK_MS else DEFAULT_CHUNK_MS
