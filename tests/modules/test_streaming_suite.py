"""What everything that streams behind the encoder promises, for each kind by a line in STREAMS: streaming equals the
parallel form for any cutting, and a state is a value. Encoders have the same in tests/encoders/test_streaming_suite.py.
"""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_plugin import decoders, punctuation, vocoder
from echostream_plugin.config import CTCHeadConfig, TextDecoderConfig, UnitDecoderConfig
from echostream_plugin.constants import PAD
from echostream_plugin.decoders.conditioned import ConditionedDecoder, ConditionedDecoderConfig
from echostream_plugin.decoders.ctc import CollapseState, CTCHead, collapse_step, greedy_collapse
from echostream_plugin.decoders.speechllm import SpeechLLMConfig, SpeechLLMDecoder
from echostream_plugin.decoders.text import TextDecoder
from echostream_plugin.decoders.unit import T2UEncoder, UnitDecoder
from echostream_plugin.inference import snapshot
from echostream_plugin.modules.streaming import StreamState
from echostream_plugin.punctuation.model import Punctuator, PunctuatorConfig, word_rows
from echostream_plugin.vocoder import CodeVocos, StreamingVocoder, VocosConfig
from echostream_plugin.vocoder.files import KINDS
from tests.modules.test_streaming import kinds_in
from tests.tiny_bundle import tiny_vocoder

PARTS = (decoders.__name__, vocoder.__name__, punctuation.__name__)
TOLERANCE = 1e-4
DIM, LONGEST = 8, 20
SMALL = {"vocab": 11, "dim": DIM, "heads": 2, "ffn_dim": 16}
UNITS = {**SMALL, "encoder_layers": 2, "layers": 2, "upsample": 3}


class Stream:
    """How a kind is streamed. Inputs are [B, n, ...] tensors, outputs have time on axis 1; a kind that takes one
    stream at a time (`alone`) cannot be stacked."""

    alone = False

    def __init__(self, part, grows=True):
        self.part, self.grows = part, grows

    def inputs(self, count, batch_size=1, seed=0):
        return torch.randn(batch_size, count, DIM, generator=torch.Generator().manual_seed(seed))

    def start(self, batch_size=1):
        return self.part.initial_state(batch_size)

    def step(self, x, state):
        return self.part.step(x, state)

    def finish(self, state):
        """What `step` withheld; None where it withholds nothing."""

    def whole(self, x):
        return self.part(x)


class TextStream(Stream):
    """Tokens against a source that is there from the start."""

    def inputs(self, count, batch_size=1, seed=0):
        return torch.randint(4, 11, (batch_size, count), generator=torch.Generator().manual_seed(seed))

    def start(self, batch_size=1):
        return self.part.add_source(self._source(batch_size), self.part.initial_state(batch_size))

    def whole(self, x):
        return self.part(x, self._source(x.size(0)))

    def padded(self, x):
        """As `whole`, in a batch with a longer text of a longer source."""
        source = torch.cat([self._source(x.size(0)), torch.randn(x.size(0), 3, DIM)], dim=1)
        hidden = (torch.arange(source.size(1)) >= source.size(1) - 3).expand(x.size(0), -1)
        tokens = torch.nn.functional.pad(x, (0, 2), value=PAD)
        return self.part(tokens, source, hidden)[:, : x.size(1)]

    def _source(self, batch_size):
        return Stream.inputs(self, 7).expand(batch_size, -1, -1)


class UnitStream(Stream):
    """Frames of tokens that wait for others."""

    def __init__(self, part, k2, n2):
        super().__init__(part, grows=not part.config.window_tokens)
        self.wait = k2, n2

    def start(self, batch_size=1):
        return self.part.initial_state(batch_size, *self.wait)

    def finish(self, state):
        return self.part.finish(state)

    def whole(self, x):
        return self.part(x, None, *self.wait)


class ChunkStream(Stream):
    """Positions of chunks of three, as audio and text are to the decoder that reads both."""

    def __init__(self, context):
        config = SpeechLLMConfig(**SMALL, encoder_dim=DIM, layers=2, chunk_frames=4, max_tokens=3)
        super().__init__(SpeechLLMDecoder(dataclasses.replace(config, context_chunks=context)), grows=context < 0)

    def step(self, x, state):
        outputs = [x[:, :0]]
        while x.size(1):
            done = int(state.lengths[0, -1]) % 3
            if not done and int(state.lengths.sum()):
                state = self.part.begin_chunk(state)
            out, state = self.part.step(x[:, : 3 - done], state)
            outputs.append(out)
            x = x[:, 3 - done :]
        return torch.cat(outputs, 1), state

    def whole(self, x):
        return self.part.hidden(x, torch.arange(x.size(1)).expand(x.size(0), -1) // 3)


class CollapseStream(Stream):
    """Greedy CTC; outputs are pairs of token and frame."""

    alone = True

    def __init__(self):
        super().__init__(None, grows=False)

    def start(self, batch_size=1):
        return CollapseState.initial()

    def step(self, x, state):
        *out, state = collapse_step(x[0].round(), state, forbidden=())
        return torch.tensor(out, dtype=torch.float32).T[None], state

    def whole(self, x):
        return torch.tensor(greedy_collapse(x[0].round(), forbidden=()), dtype=torch.float32).T[None]


class VocoderStream(Stream):
    """Reduced units to samples."""

    alone = True

    def __init__(self, model):
        super().__init__(StreamingVocoder(model), grows=False)

    def inputs(self, count, batch_size=1, seed=0):
        draw = torch.randint(1, 5, (batch_size, count), generator=torch.Generator().manual_seed(seed))
        return draw.cumsum(1) % 5

    def start(self, batch_size=1):
        return self.part.initial_state()

    def step(self, x, state):
        samples, state = self.part.push(x[0].tolist(), state)
        return samples[None], state

    def finish(self, state):
        return self.part.finish(state)[None]

    def whole(self, x):
        return self.part.model(x)[0]


class PunctuatorStream(Stream):
    """Words to logits of marks, two words late."""

    alone = True
    DELAY = 2

    def __init__(self, part):
        super().__init__(part, grows=False)

    def inputs(self, count, batch_size=1, seed=0):
        return torch.randint(0, 30, (batch_size, count), generator=torch.Generator().manual_seed(seed))

    def start(self, batch_size=1):
        return self.part.initial_state()

    def step(self, x, state):
        if not x.size(1):
            return torch.zeros(1, 0, 4), state
        marks, _, state = self.part.step(self._words(x), 0, state, self.DELAY)
        return marks[None], state

    def finish(self, state):
        return self.part.decide_pending(state)[0][None]

    def whole(self, x):
        rows = word_rows(self._words(x), self.part.config.buckets)[None]
        return self.part(rows, torch.tensor([0]), torch.tensor([x.size(1)]), self.DELAY)[0]

    @staticmethod
    def _words(x):
        return [f"w{number}" for number in x[0].tolist()]


def ctc_head(layers, left=5):
    return Stream(CTCHead(CTCHeadConfig(**SMALL, layers=layers, left_context_frames=left)), grows=False)


def conditioned(layers):
    """An MT decoder with the CTC head that it reads the transcript from, which hears something in most frames."""
    config = CTCHeadConfig(**SMALL, layers=layers, left_context_frames=5)
    head = CTCHead(config).eval()
    torch.nn.init.normal_(head.proj.weight)
    decoder = ConditionedDecoder(
        ConditionedDecoderConfig(**SMALL, layers=2, encoder_dim=DIM, source_vocab=config.vocab)
    )
    decoder.attach_ctc_head(head)
    return decoder


def units(window=0, **more):
    return UnitDecoderConfig(**UNITS, window_tokens=window, **more)


VOCODERS = {
    "code_hifigan": lambda: tiny_vocoder(5),
    "code_vocos": lambda: CodeVocos(VocosConfig(num_embeddings=5, coarse_blocks=1, fine_blocks=1)),
}
PUNCTUATOR = {"buckets": 50, "dim": 16, "heads": 2, "ffn_dim": 32, "layers": 2, "left_words": 5, "kernel": 3}
# a new decoder, vocoder or other stage gets the suite by a line here
STREAMS = {
    "linear CTC head": lambda: ctc_head(0),
    "CTC head": lambda: ctc_head(2),
    "CTC head without context": lambda: ctc_head(1, left=0),
    "greedy CTC": CollapseStream,
    "SpeechLLM": lambda: ChunkStream(1),
    "SpeechLLM without context": lambda: ChunkStream(0),
    "SpeechLLM that keeps all": lambda: ChunkStream(-1),
    "MT decoder": lambda: TextStream(TextDecoder(TextDecoderConfig(**SMALL, layers=2, encoder_dim=DIM))),
    "MT decoder with a window": lambda: TextStream(
        TextDecoder(TextDecoderConfig(**SMALL, layers=2, encoder_dim=DIM, window_tokens=3)), grows=False
    ),
    "MT decoder that reads the transcript": lambda: TextStream(conditioned(0)),
    "MT decoder that reads the transcript of a head with layers": lambda: TextStream(conditioned(2)),
    "T2U encoder": lambda: Stream(T2UEncoder(units())),
    "T2U encoder with a window": lambda: Stream(T2UEncoder(units(3)), grows=False),
    "unit decoder": lambda: UnitStream(UnitDecoder(units()), 0, 1),
    "unit decoder that waits": lambda: UnitStream(UnitDecoder(units()), 1, 2),
    "unit decoder with a window": lambda: UnitStream(UnitDecoder(units(3)), 1, 2),
    **{kind: lambda make=make: VocoderStream(make().eval()) for kind, make in VOCODERS.items()},
    "punctuator": lambda: PunctuatorStream(Punctuator(PunctuatorConfig(**PUNCTUATOR))),
}


def make(name):
    torch.manual_seed(0)
    made = STREAMS[name]()
    if isinstance(made.part, torch.nn.Module):
        made.part.eval()
    return made


MADE = {name: make(name) for name in STREAMS}


@pytest.fixture(params=STREAMS)
def stream(request):
    with torch.inference_mode():
        yield MADE[request.param]


def run(stream, x, sizes):
    """All outputs when the inputs come in pieces of these sizes, used over and over; 0 ends no run."""
    state, outputs, start, turn = stream.start(x.size(0)), [], 0, 0
    while start < x.size(1):
        out, state = stream.step(x[:, start : start + sizes[turn % len(sizes)]], state)
        outputs.append(out)
        start, turn = start + sizes[turn % len(sizes)], turn + 1
    return joined(outputs, stream.finish(state))


def joined(outputs, last):
    return torch.cat(outputs if last is None else [*outputs, last], dim=1)


def same(given, wanted):
    assert given.shape == wanted.shape
    torch.testing.assert_close(given, wanted, atol=TOLERANCE, rtol=0)


def test_every_decoder_vocoder_and_state_is_here():
    assert set(VOCODERS) == set(KINDS)
    texts = {made.part.config.kind for made in MADE.values() if isinstance(made, TextStream)}
    assert texts == set(decoders.DECODERS)
    seen, found, todo = set().union(*(kinds_in(made.start()) for made in MADE.values())), set(), [StreamState]
    while todo:
        todo += (below := todo.pop().__subclasses__())
        found.update(each for each in below if each.__module__.startswith(PARTS))
    assert found <= seen, f"no line in STREAMS has these: {found - seen}"


@settings(max_examples=8)
@given(st.lists(st.integers(0, 9), max_size=4), st.integers(1, 9), st.integers(1, LONGEST))
def test_streaming_equals_parallel_for_any_cutting(sizes, last, count):
    with torch.inference_mode():
        for made in MADE.values():
            x = made.inputs(count, seed=count)
            same(run(made, x, [*sizes, last]), made.whole(x))


def test_ragged_ends(stream):
    for count in range(1, 8):
        x = stream.inputs(count, seed=count)
        same(run(stream, x, [3]), stream.whole(x))


def test_padding_changes_nothing(stream):
    if not hasattr(stream, "padded"):
        pytest.skip("its tests of batches are its own file's")
    x = stream.inputs(6, batch_size=2)
    same(stream.padded(x), stream.whole(x))


def test_streams_in_one_state_equal_streams_alone(stream):
    if stream.alone:
        pytest.skip("takes one stream at a time")
    x = stream.inputs(12, batch_size=3)
    states = [stream.step(x[i : i + 1, :5], stream.start())[1] for i in range(3)]
    together, after = stream.step(x[:, 5:], type(states[0]).stack(states))
    for i, (state, one) in enumerate(zip(states, after.unstack(), strict=True)):
        out, alone = stream.step(x[i : i + 1, 5:], state)
        same(together[i : i + 1], out)
        if stream.finish(alone) is not None:
            same(stream.finish(one), stream.finish(alone))


def test_streams_take_turns_and_a_snapshot_goes_on(stream, tmp_path):
    """Two streams on one module, each written to a file and read back after every step, and finished in between."""
    xs = [stream.inputs(12, seed=seed) for seed in (2, 3)]
    states, outputs = [stream.start(), stream.start()], [[], []]
    for first in range(0, 12, 4):
        for i, x in enumerate(xs):
            stream.finish(states[i])
            out, state = stream.step(x[:, first : first + 4], states[i])
            snapshot.save(tmp_path / "state", {"state": state})
            states[i] = snapshot.load(tmp_path / "state")["state"]
            outputs[i].append(out)
    for i, x in enumerate(xs):
        same(joined(outputs[i], stream.finish(states[i])), run(stream, x, [4]))


def test_threads_share_the_parameters(stream):
    xs = [stream.inputs(LONGEST, seed=seed) for seed in range(4)]
    wanted = [run(stream, x, [1, 2]) for x in xs]

    def in_a_thread(x):
        with torch.inference_mode():
            return run(stream, x, [1, 2])

    with ThreadPoolExecutor(4) as threads:
        for given_, one in zip(threads.map(in_a_thread, xs), wanted, strict=True):
            same(given_, one)


def test_the_state_does_not_grow(stream):
    if stream.grows:
        pytest.skip("keeps the whole sentence")
    state, sizes = stream.start(), []
    for seed in range(30):
        state = stream.step(stream.inputs(6, seed=seed), state)[1]
        sizes.append(state.nbytes)
    assert max(sizes[20:]) <= max(sizes[5:20])
