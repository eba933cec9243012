"""States keep no more memory alive than they say, whatever they were cut from."""

import dataclasses

import pytest
import torch

from echostream_plugin import model
from echostream_plugin.config import ChunkConformerConfig, CTCHeadConfig, EncoderConfig, TextDecoderConfig
from echostream_plugin.decoders.conditioned import ConditionedDecoder, ConditionedDecoderConfig
from echostream_plugin.decoders.ctc import CollapseState, CTCHead, collapse_step
from echostream_plugin.decoders.speechllm import SpeechLLMConfig, SpeechLLMDecoder
from echostream_plugin.decoders.text import TextDecoder
from echostream_plugin.decoders.unit import T2UEncoder, UnitDecoder
from echostream_plugin.encoders.chunk_conformer import ChunkConformerEncoder
from echostream_plugin.encoders.emformer import EmformerEncoder
from echostream_plugin.encoders.whisper import WhisperConfig, WhisperEncoder
from echostream_plugin.encoders.zipformer import ZipformerConfig, ZipformerEncoder
from echostream_plugin.modules.streaming import StreamState
from echostream_plugin.punctuation.model import Punctuator, PunctuatorConfig
from echostream_plugin.vocoder import CodeVocos, StreamingVocoder, VocosConfig
from tests.tiny_bundle import tiny_config, tiny_vocoder

SMALL = {"dim": 16, "heads": 2, "layers": 2, "ffn_dim": 32}
UNIT = tiny_config().unit


def encoder(kind, config):
    part = kind(config).eval()
    return lambda n, state: part.step(torch.randn(1, n, 80), state or part.initial_state(1, 8))[1]


def ctc_head(layers):
    part = CTCHead(CTCHeadConfig(vocab=11, **SMALL | {"layers": layers}, left_context_frames=5)).eval()
    return lambda n, state: part.step(torch.randn(1, n, 16), state or part.initial_state())[1]


def text_decoder():
    return stepping(TextDecoder(TextDecoderConfig(vocab=11, encoder_dim=16, **SMALL)).eval())


def conditioned_decoder():
    part = ConditionedDecoder(ConditionedDecoderConfig(vocab=11, source_vocab=11, encoder_dim=16, **SMALL)).eval()
    head = CTCHeadConfig(vocab=11, **SMALL | {"layers": 1}, left_context_frames=5)
    part.attach_ctc_head(CTCHead(head).eval())
    return stepping(part)


def stepping(part):
    def push(n, state):
        state = part.add_source(torch.randn(1, n, 16), state or part.initial_state())
        return part.step(torch.ones(1, n, dtype=torch.long), state)[1]

    return push


def speechllm(context):
    part = SpeechLLMDecoder(SpeechLLMConfig(vocab=11, encoder_dim=16, context_chunks=context, **SMALL)).eval()

    def push(n, state):
        state = part.hear(torch.randn(1, n, 16), state or part.initial_state())[1]
        return part.write(torch.full((1, 2), 4), state)[1]

    return push


def t2u_encoder():
    part = T2UEncoder(UNIT).eval()
    return lambda n, state: part.step(torch.randn(1, n, 16), state or part.initial_state())[1]


def unit_decoder():
    part = UnitDecoder(UNIT).eval()
    return lambda n, state: part.step(torch.randn(1, n, 16), state or part.initial_state(1, 1, 3))[1]


def vocoder(model):
    part = StreamingVocoder(model)
    return lambda n, state: part.push([1, 2] * n, state or part.initial_state())[1]


def punctuator():
    part = Punctuator(
        PunctuatorConfig(buckets=50, dim=16, heads=2, ffn_dim=32, layers=2, left_words=5, kernel=3)
    ).eval()
    return lambda n, state: part.step(["word"] * n, 0, state or part.initial_state(), 2)[2]


# of each kind: push so many frames, tokens or units; the next state
KINDS = {
    "emformer": lambda: encoder(
        EmformerEncoder, EncoderConfig(**SMALL, subsampling_channels=4, right_context_frames=1)
    ),
    "chunk conformer": lambda: encoder(ChunkConformerEncoder, ChunkConformerConfig(**SMALL, conv_channels=16)),
    "Whisper's encoder": lambda: encoder(
        WhisperEncoder, WhisperConfig(dim=16, inner_dim=16, layers=2, halve_after=1, heads=2, ffn_dim=32)
    ),
    "zipformer": lambda: encoder(
        ZipformerEncoder,
        ZipformerConfig(
            dim=16,
            stack_dims=(16,) * 6,
            layers=(1,) * 6,
            ffn_dim=(16,) * 6,
            heads=(2,) * 6,
            query_dim=4,
            value_dim=4,
            conv_kernel=(5,) * 6,
            unmasked_dims=(16,) * 6,
            left_context_frames=16,
            memory_size=2,
        ),
    ),  # fmt: skip
    "CTC head": lambda: ctc_head(2),
    "linear CTC head": lambda: ctc_head(0),
    "collapse": lambda: lambda n, state: collapse_step(torch.randn(n, 9), state or CollapseState.initial())[2],
    "MT decoder": text_decoder,
    "MT decoder that reads the transcript": conditioned_decoder,
    "SpeechLLM": lambda: speechllm(2),
    "SpeechLLM that keeps all": lambda: speechllm(-1),
    "T2U encoder": t2u_encoder,
    "unit decoder": unit_decoder,
    "vocoder": lambda: vocoder(tiny_vocoder()),
    "code_vocos": lambda: vocoder(CodeVocos(VocosConfig(num_embeddings=5, coarse_blocks=1, fine_blocks=1)).eval()),
    "punctuator": punctuator,
}


def tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, StreamState):
        for field in dataclasses.fields(value):
            yield from tensors(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from tensors(item)


def kinds_in(value) -> set:
    """The types of the states in a state."""
    if isinstance(value, StreamState):
        return {type(value)}.union(*(kinds_in(getattr(value, field.name)) for field in dataclasses.fields(value)))
    return set().union(*map(kinds_in, value)) if isinstance(value, tuple) else set()


@torch.inference_mode()
def states_of(kind):
    torch.manual_seed(0)
    push, state = KINDS[kind](), None
    for count in (1, 403, 2, 1, 97, 5):
        state = push(count, state)
        yield state


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_holds_no_storage_beyond_its_tensors(kind):
    for state in states_of(kind):
        held = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors(state)}
        content = sum(each.numel() * each.element_size() for each in tensors(state))
        assert sum(held.values()) == state.nbytes <= content


def test_every_kind_of_state_is_looked_at():
    seen = set().union(*(kinds_in(state) for kind in KINDS for state in states_of(kind)))
    known, todo = set(), [StreamState]
    while todo:
        found = [each for each in todo.pop().__subclasses__() if each.__module__.startswith(f"{model.__package__}.")]
        known.update(each for each in found if ".benchmark." not in each.__module__)
        todo += found
    assert seen == known


def test_bytes_are_those_that_a_slice_keeps_alive():
    long = torch.zeros(1, 1000)
    assert CollapseState(long[:, :2], long[:, 2:4]).nbytes == 4000


def test_streams_taken_apart_do_not_keep_each_other():
    (state,) = [state for state in states_of("emformer")][-1:]
    both = type(state).stack([state, state])
    assert [one.nbytes for one in both.unstack()] == [both.nbytes // 2] * 2
