"""A model.bin as CTranslate2 writes it, with a small random Whisper encoder."""

import struct

import numpy as np

from echostream_plugin.config import CTCHeadConfig, ModelConfig, TextDecoderConfig, UnitDecoderConfig
from echostream_plugin.encoders.whisper import WhisperConfig

SMALL = {"inner_dim": 16, "heads": 2, "ffn_dim": 24, "layers": 3, "halve_after": 2, "dim": 12}


def variables(dim: int = 16, ffn_dim: int = 24, layers: int = 3, bins: int = 80) -> dict:
    """Random values under the names of a Whisper model; a decoder's too, which no encoder needs."""
    generator = np.random.default_rng(0)
    shapes = {"conv1/weight": (dim, bins, 3), "conv1/bias": (dim,), "conv2/weight": (dim, dim, 3), "conv2/bias": (dim,)}
    for i in range(layers):
        attention, feed_forward = f"layer_{i}/self_attention", f"layer_{i}/ffn"
        shapes |= {f"{attention}/linear_0/weight": (3 * dim, dim), f"{attention}/linear_0/bias": (3 * dim,)}
        shapes |= {f"{attention}/linear_1/weight": (dim, dim), f"{attention}/linear_1/bias": (dim,)}
        shapes |= {f"{feed_forward}/linear_0/weight": (ffn_dim, dim), f"{feed_forward}/linear_0/bias": (ffn_dim,)}
        shapes |= {f"{feed_forward}/linear_1/weight": (dim, ffn_dim), f"{feed_forward}/linear_1/bias": (dim,)}
        for part in (attention, feed_forward):
            shapes |= {f"{part}/layer_norm/{name}": (dim,) for name in ("gamma", "beta")}
    shapes |= {"layer_norm/gamma": (dim,), "layer_norm/beta": (dim,), "num_heads": ()}
    values = {f"encoder/{name}": 0.3 * generator.standard_normal(shape) for name, shape in shapes.items()}
    return {**values, "decoder/scale": np.ones(())}


def write_model_bin(path, **sizes):
    """Write `variables` in half precision; returns the path."""
    values = variables(**sizes)
    with open(path, "wb") as file:
        file.write(struct.pack("<I", 6) + _name("WhisperSpec") + struct.pack("<II", 3, len(values)))
        for name, value in values.items():
            data = np.asarray(value, np.float16).tobytes()
            file.write(_name(name) + struct.pack("<B", value.ndim) + struct.pack(f"<{value.ndim}I", *value.shape))
            file.write(struct.pack("<BI", 4, len(data)) + data)
        file.write(struct.pack("<I", 0))
    return path


def whisper_model_config(source: int, target: int, units: int) -> ModelConfig:
    """A tiny whole model with a Whisper encoder; sizes of the dictionaries."""
    encoder = WhisperConfig(**{**SMALL, "dim": 16}, left_context_frames=6, memory_size=2)
    return ModelConfig(
        encoder=encoder,
        asr=CTCHeadConfig(vocab=source, dim=16),
        st=CTCHeadConfig(vocab=target, dim=16),
        mt=TextDecoderConfig(vocab=target, dim=16, encoder_dim=16, layers=1, heads=2, ffn_dim=32),
        unit=UnitDecoderConfig(vocab=units, dim=16, encoder_layers=1, layers=1, heads=2, ffn_dim=32, upsample=5),
    )


def _name(text: str) -> bytes:
    data = text.encode() + b"\0"
    return struct.pack("<H", len(data)) + data
