"""The whole models: speech to speech (one encoder, two CTC heads, MT decoder, text-to-unit), and speech to text in
chunks (SpeechLLM-XL).

Module names are StreamSpeech's (Zhang et al., arXiv 2406.03049), so that its checkpoints find their places.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from echostream_plugin.config import ModelConfig
from echostream_plugin.constants import PAD
from echostream_plugin.decoders import DECODERS
from echostream_plugin.decoders.ctc import CTCHead
from echostream_plugin.decoders.masks import build_streaming_mask
from echostream_plugin.decoders.speechllm import SpeechLLMDecoder, SpeechLLMModelConfig
from echostream_plugin.decoders.speechllm.alignment import chunks_of_tokens, token_ends
from echostream_plugin.decoders.unit import T2UEncoder, UnitDecoder
from echostream_plugin.encoders import ENCODERS


@dataclass(frozen=True)
class WaitKLags:
    """The wait-k lags of training's streaming masks: MT token i waits for `k1` + i ST tokens in steps of `n1`; the
    units of token i wait for `k2` + i T2U states in steps of `n2`. `text=False` shows every token the whole source;
    `n2=None` every unit frame all states."""

    k1: int = 0
    n1: int = 1
    k2: int = 0
    n2: int | None = 1
    text: bool = True


@dataclass(frozen=True)
class ModelOutput:
    """What a teacher-forced forward gives; S encoder frames of 40 ms, U target tokens (with `</s>`), F = U * upsample.

    encoder: [B, S, C]; lengths: [B] valid encoder frames; asr_logits, st_logits: [B, S, V]; mt_logits: [B, U, V];
    unit_logits: [B, F, K + 5]; unit_lengths: [B] valid unit frames."""

    encoder: Tensor
    lengths: Tensor
    asr_logits: Tensor
    st_logits: Tensor
    mt_logits: Tensor
    unit_logits: Tensor
    unit_lengths: Tensor


class S2STModel(nn.Module):
    """Simultaneous speech-to-speech translation in two passes, source speech to text to units.

    The inference core steps through the parts one by one (`inference.session`); `forward` is for training."""

    def __init__(self, config: ModelConfig):
        nn.Module.__init__(self)  # by name: the fairseq model inherits from here and from fairseq's base class
        self.config = config
        self.encoder = ENCODERS[config.encoder.kind](config.encoder)
        self.source_unigram_decoder = CTCHead(config.asr)
        self.ctc_target_unigram_decoder = CTCHead(config.st)
        self.target_unigram_decoder = DECODERS[config.mt.kind](config.mt)
        self.target_unigram_decoder.attach_ctc_head(self.source_unigram_decoder)
        self.synthesizer_encoder = T2UEncoder(config.unit)
        self.decoder = UnitDecoder(config.unit)

    @property
    def counts_padding(self) -> bool:
        """StreamSpeech lets the padded frames of a batch count in its lags, and decodes them in its offline CTC texts;
        its losses and outputs are only reproduced that way."""
        return self.encoder.counts_padding

    def forward(
        self,
        features: Tensor,
        feature_lengths: Tensor,
        prev_tokens: Tensor,
        lags: WaitKLags | None = None,
        segment_frames: int | None = None,
    ) -> ModelOutput:
        """Teacher-forced outputs of all heads.

        features: [B, T, 80] normalised mel frames of 10 ms; feature_lengths: [B]; prev_tokens: [B, U] target text
        shifted right (`</s> t1 .. tn`, right-padded with 1); segment_frames: the encoder's segment, default the
        config's, 0 the whole utterance."""
        lags = lags or WaitKLags()
        encoder, lengths = self.encoder(features, feature_lengths, segment_frames)
        source_padding = padding_mask(lengths, encoder.size(1))
        asr_logits = self.source_unigram_decoder(encoder, lengths)
        st_logits = self.ctc_target_unigram_decoder(encoder, lengths)
        source_mask = None
        if lags.text:
            chunk = self.encoder.segment_frames if segment_frames is None else segment_frames
            counted = None if self.counts_padding else lengths
            source_mask = build_streaming_mask(
                asr_logits.detach(), st_logits.detach(), counted, prev_tokens.size(1), lags.k1, lags.n1, chunk
            )
        hidden = self.target_unigram_decoder(prev_tokens, encoder, source_padding, source_mask)
        rows = self.config.unit.batch_positions
        unit_logits, unit_lengths = self.units(hidden, prev_tokens.eq(PAD), lags, batch_positions=rows)
        mt_logits = self.target_unigram_decoder.logits(hidden)
        return ModelOutput(encoder, lengths, asr_logits, st_logits, mt_logits, unit_logits, unit_lengths)

    def units(
        self, hidden: Tensor, token_padding: Tensor, lags: WaitKLags, batch_positions: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Unit logits [B, U * upsample, K + 5] and their lengths [B] from MT states [B, U, D] and their padding;
        batch_positions: as in `UnitDecoder.forward`."""
        states = self.synthesizer_encoder(hidden, token_padding)
        logits = self.decoder(states, token_padding, lags.k2, lags.n2, batch_positions)
        return logits, (~token_padding).sum(1) * self.config.unit.upsample


@dataclass(frozen=True)
class SpeechLLMOutput:
    """What a teacher-forced forward gives; S encoder frames of 40 ms, M tokens of all texts with the ends of chunks.

    encoder: [B, S, C]; lengths: [B] valid encoder frames; asr_logits, st_logits: [B, S, V]; logits: [M, V] of the
    written text's tokens [M], both None where they were not asked for."""

    encoder: Tensor
    lengths: Tensor
    asr_logits: Tensor
    st_logits: Tensor
    logits: Tensor | None = None
    tokens: Tensor | None = None


class SpeechLLMModel(nn.Module):
    """Speech to text in chunks (SpeechLLM-XL, Jia et al., arXiv 2410.03752): an encoder, its two CTC heads, and a
    decoder over audio and text. The head of the text that is written aligns it, in training."""

    def __init__(self, config: SpeechLLMModelConfig):
        nn.Module.__init__(self)
        self.config = config
        self.encoder = ENCODERS[config.encoder.kind](config.encoder)
        self.source_unigram_decoder = CTCHead(config.asr)
        self.ctc_target_unigram_decoder = CTCHead(config.st)
        self.chunk_decoder = SpeechLLMDecoder(config.llm)

    def forward(
        self,
        features: Tensor,
        feature_lengths: Tensor,
        targets: Tensor | None = None,
        delay_frames: int = 0,
        segment_frames: int | None = None,
    ) -> SpeechLLMOutput:
        """features: [B, T, 80] normalised mel frames of 10 ms; feature_lengths: [B]; targets: [B, U] the text that is
        written, right-padded with 1, without `</s>`; None: the CTC heads alone; delay_frames: by which its alignment is
        shifted; segment_frames: the encoder's segment, default the config's, 0 the whole utterance."""
        encoder, lengths = self.encoder(features, feature_lengths, segment_frames)
        asr_logits = self.source_unigram_decoder(encoder, lengths)
        st_logits = self.ctc_target_unigram_decoder(encoder, lengths)
        if targets is None:
            return SpeechLLMOutput(encoder, lengths, asr_logits, st_logits)
        aligning = asr_logits if self.config.transcribes else st_logits
        ends = token_ends(aligning.detach().float().log_softmax(-1), lengths, targets)
        chunks = chunks_of_tokens(ends, lengths, self.config.llm.chunk_frames, delay_frames)
        logits, tokens = self.chunk_decoder(encoder, lengths, targets, chunks)
        return SpeechLLMOutput(encoder, lengths, asr_logits, st_logits, logits, tokens)


MODELS = {config.kind: model for config, model in ((ModelConfig, S2STModel), (SpeechLLMModelConfig, SpeechLLMModel))}


def model_of(config) -> nn.Module:
    """The model of a configuration, with first values."""
    return MODELS[config.kind](config)


def padding_mask(lengths: Tensor, size: int) -> Tensor:
    """[B, size], True beyond each length."""
    return torch.arange(size, device=lengths.device).unsqueeze(0) >= lengths.unsqueeze(1)
