"""A whole bundle with a tiny random model, for tests of everything around the model."""

import numpy as np
import torch

from echostream_plugin.config import CTCHeadConfig, EncoderConfig, ModelConfig, TextDecoderConfig, UnitDecoderConfig
from echostream_plugin.constants import EOS, SPECIALS
from echostream_plugin.decoders.speechllm import SpeechLLMConfig, SpeechLLMModelConfig
from echostream_plugin.inference.bundle import Bundle, save_bundle
from echostream_plugin.inference.dictionary import Dictionary
from echostream_plugin.model import S2STModel, model_of
from echostream_plugin.vocoder import CodeHiFiGAN, VocoderConfig
from echostream_plugin.vocoder.codehifigan import duration_params

UNITS = 20
SOURCE_SUBWORDS = [f"▁s{i}" for i in range(10)] + [f"x{i}" for i in range(6)]
TARGET_SUBWORDS = [f"▁t{i}" for i in range(12)] + [f"y{i}" for i in range(8)]


def tiny_config(**encoder) -> ModelConfig:
    source, target = len(SPECIALS) + len(SOURCE_SUBWORDS), len(SPECIALS) + len(TARGET_SUBWORDS)
    encoder = {
        "dim": 16,
        "layers": 2,
        "heads": 2,
        "ffn_dim": 32,
        "subsampling_channels": 4,
        "left_context_frames": 10,
        "memory_size": 2,
        "conv_kernel": 5,
        **encoder,
    }
    return ModelConfig(
        encoder=EncoderConfig(**encoder),
        asr=CTCHeadConfig(vocab=source, dim=16),
        st=CTCHeadConfig(vocab=target, dim=16, layers=1, heads=2, ffn_dim=32, left_context_frames=6),
        mt=TextDecoderConfig(vocab=target, dim=16, encoder_dim=16, layers=2, heads=2, ffn_dim=32),
        unit=UnitDecoderConfig(
            vocab=UNITS + len(SPECIALS) + 1, dim=16, encoder_layers=1, layers=1, heads=2, ffn_dim=32, upsample=5
        ),
    )


def tiny_vocoder(units: int = UNITS) -> CodeHiFiGAN:
    config = VocoderConfig(
        num_embeddings=units,
        embedding_dim=8,
        model_in_dim=8,
        upsample_initial_channel=32,
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1, 3, 5),),
        dur_predictor_params=duration_params(8),
    )
    return CodeHiFiGAN(config).remove_weight_norm().eval()


def tiny_bundle(seed: int = 0, vocoder: bool = True, **encoder) -> Bundle:
    """Random weights; blanks are likely enough that tokens are a few frames apart."""
    torch.manual_seed(seed)
    config = tiny_config(**encoder)
    model = S2STModel(config).eval()
    make_talkative(model, 6.0, 4.0)
    source, target = (Dictionary((*SPECIALS, *pieces)) for pieces in (SOURCE_SUBWORDS, TARGET_SUBWORDS))
    mean, std = np.full(80, 10.0, dtype=np.float32), np.full(80, 4.0, dtype=np.float32)
    return Bundle(model, config, source, target, mean, std, tiny_vocoder() if vocoder else None)


def make_talkative(model, asr_blank: float, st_blank: float):
    """Weights far from a collapse to one output, and blanks of the two CTC heads likelier by so much."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embed" not in name:
                parameter.mul_(3.0)
        model.source_unigram_decoder.proj.bias[0] += asr_blank
        model.ctc_target_unigram_decoder.proj.bias[0] += st_blank


def tiny_chunk_bundle(target: str = "source_text", seed: int = 0, **llm) -> Bundle:
    """As `tiny_bundle`, of a model that writes text in chunks of 640 ms: a few tokens for most, more for some."""
    tiny = tiny_bundle(seed, vocoder=False)
    asr, st = tiny.config.asr, tiny.config.st
    options = {
        "vocab": (asr if target == "source_text" else st).vocab, "target": target, "encoder_dim": 16, "dim": 16,
        "layers": 2, "heads": 2, "ffn_dim": 32, "chunk_frames": 16, "context_chunks": 2, "max_tokens": 5,
        "tie_embeddings": False, **llm,
    }  # fmt: skip
    config = SpeechLLMModelConfig(tiny.config.encoder, asr, st, SpeechLLMConfig(**options))
    torch.manual_seed(seed)
    model = model_of(config).eval()
    model.load_state_dict({**model.state_dict(), **_shared(tiny.model, model)})
    with torch.no_grad():
        for parameter in model.chunk_decoder.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.0)
        model.chunk_decoder.output_projection.weight[EOS] *= 0.8  # neither always nor never
    session = {"decoding": "chunks", "speech": False, "translate": target == "target_text"}
    dictionaries = tiny.source_dictionary, tiny.target_dictionary
    return Bundle(model, config, *dictionaries, tiny.cmvn_mean, tiny.cmvn_std, session=session)


def _shared(model, other) -> dict:
    return {name: tensor for name, tensor in model.state_dict().items() if name in other.state_dict()}


def write_dictionary(path, pieces):
    path.write_text("".join(f"{piece} 1\n" for piece in pieces), encoding="utf-8")


def save_tiny_bundle(folder, bundle=None, **more):
    """Write a bundle (default: the tiny one) and its dictionaries into a folder; more: as `save_bundle`. Its path."""
    bundle = bundle or tiny_bundle()
    more = {"session": bundle.session, **more}
    write_dictionary(folder / "source.txt", SOURCE_SUBWORDS)
    write_dictionary(folder / "target.txt", TARGET_SUBWORDS)
    np.savez(folder / "gcmvn.npz", mean=bundle.cmvn_mean, std=bundle.cmvn_std)
    return save_bundle(
        folder / "bundle",
        bundle.model,
        source_dictionary=folder / "source.txt",
        target_dictionary=folder / "target.txt",
        gcmvn=folder / "gcmvn.npz",
        vocoder=bundle.vocoder,
        **more,
    )


def speechlike(seconds: float, rate: int = 16000, seed: int = 0) -> np.ndarray:
    """Noise whose loudness and pitch wander, so that a random model says different things over time. [n] float32"""
    generator = np.random.default_rng(seed)
    time, knots = np.arange(int(seconds * rate)) / rate, np.arange(0, seconds + 1, 0.1)
    pitch = np.interp(time, knots, 80 + 3000 * generator.random(len(knots)))
    loud = np.interp(time, knots, generator.random(len(knots)) ** 3)
    tone = np.sin(2 * np.pi * np.cumsum(pitch) / rate) * loud
    return (0.3 * tone + 0.02 * loud * generator.standard_normal(len(time))).astype(np.float32)
