"""What a chunk costs a decoder that writes text in chunks, after so much audio: flat where its context is bounded."""

import statistics
import time
from dataclasses import replace

import torch

from echostream_plugin.constants import EOS, FRAME_MS
from echostream_plugin.decoders.speechllm import SpeechLLMConfig, SpeechLLMDecoder, SpeechLLMState
from echostream_plugin.decoders.transformer import KeyValues

TOKENS_PER_SECOND = 4  # subwords of speech
WORD = 5  # any token


def state_after(decoder: SpeechLLMDecoder, seconds: float) -> SpeechLLMState:
    """A state as after so many seconds of speech, its keys and values drawn at random."""
    config, state = decoder.config, decoder.initial_state()
    frames = round(1000 * seconds / FRAME_MS)
    size = config.chunk_frames or frames
    positions = size + round(size * FRAME_MS / 1000 * TOKENS_PER_SECOND) + 1
    chunks = frames // size
    kept = decoder.slots or chunks * positions
    shape = (1, config.heads, kept, config.dim // config.heads)
    past = tuple(KeyValues(torch.randn(shape), torch.randn(shape)) for _ in decoder.layers)
    lengths = torch.zeros_like(state.lengths)
    full = min(chunks, lengths.size(1))
    lengths[:, lengths.size(1) - full :] = positions if decoder.slots else kept
    return replace(state, lengths=lengths, past=past)


@torch.inference_mode()
def chunk_ms(decoder: SpeechLLMDecoder, state: SpeechLLMState, repeats: int = 9) -> float:
    """Median time in ms of reading a chunk and writing its text, from one state."""
    config = decoder.config
    frames = torch.randn(1, config.chunk_frames, config.encoder_dim)
    tokens = round(config.chunk_frames * FRAME_MS / 1000 * TOKENS_PER_SECOND)
    times = []
    for _ in range(repeats):
        start, after = time.perf_counter(), decoder.hear(frames, state)[1]
        for token in [WORD] * tokens + [EOS]:
            after = decoder.write(torch.tensor([[token]]), after)[1]
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def cost_rows(config: SpeechLLMConfig, contexts, seconds, repeats: int = 9) -> list[dict]:
    """A row for each context (chunks, -1: all) and length in seconds: ms a chunk and MB of state."""
    rows = []
    for context in contexts:
        torch.manual_seed(0)
        decoder = SpeechLLMDecoder(replace(config, context_chunks=context)).eval()
        for length in seconds:
            state = state_after(decoder, length)
            milliseconds = chunk_ms(decoder, state, repeats)
            rows.append({"context": context, "seconds": length, "ms": milliseconds, "state_mb": state.nbytes / 1e6})
    return rows
