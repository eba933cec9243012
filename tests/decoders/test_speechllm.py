"""The decoder of SpeechLLM-XL: pieces as the whole, what a position reacts to, memory that stays, search in a chunk."""

import dataclasses
import itertools

import pytest
import torch

from echostream_plugin.config import ConfigError, EncoderConfig, ModelConfig, read_model
from echostream_plugin.constants import EOS, PAD
from echostream_plugin.decoders.speechllm import SpeechLLMConfig, SpeechLLMDecoder, SpeechLLMModelConfig
from echostream_plugin.decoders.speechllm.config import ALL_CHUNKS
from echostream_plugin.decoders.speechllm.packing import pack
from echostream_plugin.decoders.speechllm.search import allowed, search_chunk

SMALL = {"vocab": 20, "encoder_dim": 6, "dim": 16, "layers": 3, "heads": 2, "ffn_dim": 24, "dropout": 0.0}
CHUNK = 4


def decoder(context=1, chunk_frames=CHUNK, **more):
    torch.manual_seed(0)
    config = SpeechLLMConfig(**{**SMALL, "context_chunks": context, "chunk_frames": chunk_frames, **more})
    made = SpeechLLMDecoder(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(1.5)  # far from one output for everything
    return made


def utterance(chunks=7, last=3, seed=0):
    """Frames [1, S, 6] and the tokens of each chunk, some chunks without."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(1, CHUNK * (chunks - 1) + last, 6, generator=generator)
    counts = torch.randint(0, 4, (chunks,), generator=generator).tolist()
    return frames, [torch.randint(4, 20, (count,), generator=generator).tolist() for count in counts]


def teacher_forced(part, frames, texts):
    """Logits [M, V] of the packed sequence."""
    tokens = torch.tensor([[token for text in texts for token in text]], dtype=torch.long)
    chunks = torch.tensor([[k for k, text in enumerate(texts) for _ in text]], dtype=torch.long)
    return part(frames, torch.tensor([frames.size(1)]), tokens, chunks)[0]


def piece_by_piece(part, frames, texts, cut=1):
    """The same logits from `hear` and `write`, tokens `cut` at a time."""
    state, logits = part.initial_state(), []
    size = part.config.chunk_frames or frames.size(1)
    for chunk, text in zip(frames.split(size, dim=1), texts, strict=True):
        first, state = part.hear(chunk, state)
        logits.append(first)
        for start in range(0, len(text), cut):
            more, state = part.write(torch.tensor([text[start : start + cut]]), state)
            logits.append(more)
        state = part.write(torch.tensor([[EOS]]), state)[1]
    return torch.cat(logits, 1)[0], state


@pytest.mark.parametrize("context", [0, 1, 4, ALL_CHUNKS])
@pytest.mark.parametrize("cut", [1, 2, 5])
def test_pieces_are_the_packed_sequence(context, cut):
    part = decoder(context)
    for seed in range(4):
        frames, texts = utterance(seed=seed)
        with torch.inference_mode():
            wanted = teacher_forced(part, frames, texts)
            found, _ = piece_by_piece(part, frames, texts, cut)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_a_state_has_room_for_chunks_of_the_most_tokens():
    part = decoder(context=1, max_tokens=3)
    frames, texts = utterance(5, 4)[0], [[4 + chunk, 9, 5] for chunk in range(5)]
    with torch.inference_mode():
        found, state = piece_by_piece(part, frames, texts)
        torch.testing.assert_close(found, teacher_forced(part, frames, texts), atol=1e-5, rtol=0)
    assert int(state.lengths.sum()) == part.slots


def test_streams_of_other_ages_step_together():
    part = decoder(context=2)
    pieces = torch.randn(3, CHUNK, 6, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        states = [piece_by_piece(part, *utterance(chunks, CHUNK, seed=chunks))[1] for chunks in (1, 2, 6)]
        together, state = part.hear(pieces, type(states[0]).stack(states))
        more, _ = part.write(torch.tensor([[5, 6]]).expand(3, -1), state)
        for row, before in enumerate(states):
            alone, after = part.hear(pieces[row : row + 1], before)
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)
            alone, _ = part.write(torch.tensor([[5, 6]]), after)
            torch.testing.assert_close(more[row : row + 1], alone, atol=1e-5, rtol=0)


def rotated(x, places):
    """x: [T, d], pairs (i, i + d / 2) as complex numbers, turned by angles that fall from 1 to 1 / 10000 per place."""
    half = x.size(1) // 2
    angles = places[:, None] * 10000.0 ** (-torch.arange(half) / half)
    turned = torch.complex(x[:, :half], x[:, half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag), 1)


def normed(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


@pytest.mark.parametrize("tied", [True, False])
def test_the_network_is_llama_s(tied):
    """Written out for one chunk: RMSNorm, rotary position, SwiGLU, and embeddings times the root of their width."""
    part = decoder(layers=1, chunk_frames=8, tie_embeddings=tied)
    with torch.no_grad():
        for norm in (part.norm, part.layers[0].attention_norm, part.layers[0].ffn_norm):
            norm.weight.uniform_(0.5, 1.5)
    frames, text = torch.randn(1, 5, 6), [4, 9, 11]
    with torch.inference_mode():
        layer, attention = part.layers[0], part.layers[0].attention
        embedded = 16**0.5 * part.embed_tokens.weight[[*text, EOS]]
        x = torch.cat((part.adapter(frames[0]), embedded))
        before, places, heads = normed(x, layer.attention_norm.weight), torch.arange(len(x)), []
        for rows in (slice(0, 8), slice(8, 16)):
            maps = attention.q_proj.weight[rows], attention.k_proj.weight[rows]
            query, key = (rotated(before @ each.T, places) for each in maps)
            scores = (query @ key.T / 8**0.5).masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
            heads.append(scores.softmax(-1) @ before @ attention.v_proj.weight[rows].T)
        x = x + torch.cat(heads, 1) @ attention.out_proj.weight.T
        before = normed(x, layer.ffn_norm.weight)
        gate = before @ layer.ffn.gate.weight.T
        x = x + (gate * gate.sigmoid() * (before @ layer.ffn.up.weight.T)) @ layer.ffn.down.weight.T
        output = part.embed_tokens if tied else part.output_projection
        wanted = (normed(x, part.norm.weight) @ output.weight.T)[4:8]  # the last frame and the text, before `</s>`
        torch.testing.assert_close(teacher_forced(part, frames, [text]), wanted, atol=1e-5, rtol=0)


def test_dropout_is_of_trainings():
    part = decoder(dropout=0.5)
    frames, texts = utterance()
    with torch.no_grad():
        first, second = (teacher_forced(part, frames, texts) for _ in range(2))
        assert torch.equal(first, second)
        part.train()
        assert not torch.equal(teacher_forced(part, frames, texts), teacher_forced(part, frames, texts))


@pytest.mark.parametrize(
    "chunk_frames, max_tokens, frames, wanted", [(32, 64, 32, 64), (32, 64, 5, 15), (32, 9, 5, 9), (0, 9, 500, 500)]
)
def test_the_most_tokens_of_a_chunk(chunk_frames, max_tokens, frames, wanted):
    config = SpeechLLMConfig(chunk_frames=chunk_frames, max_tokens=max_tokens)
    assert config.most_tokens(frames) == wanted


def test_one_chunk_of_all_is_a_decoder_without_chunks():
    part = decoder(chunk_frames=0)
    frames, texts = utterance()
    text = [token for text in texts for token in text]
    with torch.inference_mode():
        torch.testing.assert_close(
            piece_by_piece(part, frames, [text])[0], teacher_forced(part, frames, [text]), atol=1e-5, rtol=0
        )


def test_an_utterance_in_a_batch_is_the_utterance_alone():
    part = decoder()
    made = [utterance(chunks, last, seed=chunks) for chunks, last in ((5, 3), (2, 4), (7, 1))]
    most = max(frames.size(1) for frames, _ in made)
    counts = [sum(map(len, texts)) for _, texts in made]
    frames = torch.stack([torch.nn.functional.pad(frames[0], (0, 0, 0, most - frames.size(1))) for frames, _ in made])
    frames += (frames == 0) * 1e3  # what stands in the padding changes nothing
    tokens, chunks = torch.full((3, max(counts)), PAD), torch.zeros(3, max(counts), dtype=torch.long)
    for i, (_, texts) in enumerate(made):
        tokens[i, : counts[i]] = torch.tensor([token for text in texts for token in text])
        chunks[i, : counts[i]] = torch.tensor([k for k, text in enumerate(texts) for _ in text])
    with torch.inference_mode():
        together, labels = part(frames, torch.tensor([x.size(1) for x, _ in made]), tokens, chunks)
        alone = torch.cat([teacher_forced(part, *one) for one in made])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert len(labels) == sum(counts) + 5 + 2 + 7


def reach_of(part, chunks=8):
    """Which positions [T] each position [T] of a packed sequence reacts to, and the chunks [T] of them."""
    frames, texts = utterance(chunks)
    tokens = torch.tensor([[token for text in texts for token in text]])
    of_token = torch.tensor([[k for k, text in enumerate(texts) for _ in text]])
    packing = pack(torch.tensor([frames.size(1)]), tokens, of_token, CHUNK)
    x = torch.randn(1, packing.length, part.config.dim, requires_grad=True)
    hidden = part.hidden(x, packing.chunks)
    rows = [torch.autograd.grad(hidden[0, i].sum(), x, retain_graph=True)[0][0] for i in range(packing.length)]
    return torch.stack([row.abs().sum(-1) > 0 for row in rows]), packing.chunks[0]


@pytest.mark.parametrize("context", [0, 1, 2])
def test_a_layer_reaches_so_many_chunks_back_and_the_layers_together_as_many_times_more(context):
    for layers in (1, 3):
        reacts, chunks = reach_of(decoder(context, layers=layers))
        back = chunks[:, None] - chunks
        place = torch.arange(len(chunks))
        assert not reacts.triu(1).any()
        assert not reacts[back > layers * context].any()
        inside = (back <= context) & (place <= place[:, None])
        assert reacts[inside].all()
        furthest = int(back[reacts].max())
        assert furthest == layers * context


def test_the_cache_of_an_hour_is_that_of_a_minute():
    part = decoder(context=2, max_tokens=6)
    state, sizes = part.initial_state(), []
    generator = torch.Generator().manual_seed(3)
    with torch.inference_mode():
        for _ in range(60 * 60 * 25 // (CHUNK * 100)):  # every hundredth chunk of an hour
            _, state = part.hear(torch.randn(1, CHUNK, 6, generator=generator), state)
            tokens = torch.randint(4, 20, (1, int(torch.randint(1, 7, (), generator=generator))), generator=generator)
            _, state = part.write(tokens, state)
            _, state = part.write(torch.tensor([[EOS]]), state)
            sizes.append(state.nbytes)
    assert len(set(sizes)) == 1
    assert int(state.lengths.sum()) <= part.slots
    grows = decoder(ALL_CHUNKS)
    assert grows.slots == 0
    with torch.inference_mode():
        frames, texts = utterance(9)
        long, short = (piece_by_piece(grows, frames[:, : CHUNK * n], texts[:n])[1].nbytes for n in (8, 2))
    assert long > 2 * short


def test_positions_never_run_out():
    """Keys are kept unrotated: what lies a million positions back makes no difference to the scores."""
    part = decoder(context=1)
    frames, texts = utterance(4, 4)
    with torch.inference_mode():
        wanted, state = piece_by_piece(part, frames, texts)
        # the whole utterance again and again: from the third round on every logit repeats
        rounds = []
        for _ in range(4):
            logits = []
            for chunk, text in zip(frames.split(CHUNK, dim=1), texts, strict=True):
                first, state = part.hear(chunk, state)
                logits.append(first)
                for token in text:
                    more, state = part.write(torch.tensor([[token]]), state)
                    logits.append(more)
                state = part.write(torch.tensor([[EOS]]), state)[1]
            rounds.append(torch.cat(logits, 1)[0])
    torch.testing.assert_close(rounds[2], rounds[3], atol=1e-5, rtol=0)
    assert not torch.allclose(wanted, rounds[0], atol=1e-3)


@pytest.mark.parametrize("frames", [1, 4])
def test_the_beam_finds_the_most_probable_text(frames):
    """Against every text of at most two tokens of a dictionary of eight."""
    part = decoder(vocab=8, max_tokens=2)
    for seed in range(5):
        x, _ = utterance(seed=seed)
        with torch.inference_mode():
            logits, state = part.hear(x[:, :frames], part.initial_state())
            scores = {}
            texts = (itertools.product((3, 4, 5, 6, 7), repeat=count) for count in range(3))
            for text in itertools.chain.from_iterable(texts):
                own, after = [logits[:, -1]], state
                for token in text:
                    more, after = part.write(torch.tensor([[token]]), after)
                    own.append(more[:, -1])
                steps = [allowed(step.float()).log_softmax(-1)[0] for step in own]
                scores[text] = float(sum(step[token] for step, token in zip(steps, (*text, EOS), strict=True)))
            found = search_chunk(part, logits, state, beam=40, most_tokens=2)
        assert tuple(found.tokens) == max(scores, key=scores.get)
        assert found.ended is (len(found.tokens) < 2)
        assert int(found.state.lengths.sum()) == frames + len(found.tokens)


@pytest.mark.parametrize("most, length, ended", [(9, 5, True), (5, 5, False), (3, 0, True)])
def test_the_search_ends_at_the_most_tokens(monkeypatch, most, length, ended):
    """A decoder that wants to write token 7 five times, and would rather write nothing than end before."""
    part, steps = decoder(), []

    def write(tokens, state):
        steps.append(1)
        logits = torch.zeros(tokens.size(0), 1, 20)
        logits[..., 7 if len(steps) < 5 else EOS] = 50.0
        return logits, state

    monkeypatch.setattr(part, "write", write)
    first = torch.zeros(1, 1, 20)
    first[..., 7] = 50.0
    first[..., EOS] = 1.0
    found = search_chunk(part, first, part.initial_state(), beam=3, most_tokens=most)
    assert found.tokens == [7] * length and found.ended is ended


def test_a_configuration_is_read_back():
    config = SpeechLLMModelConfig(llm=SpeechLLMConfig(context_chunks=2))
    assert read_model(config.to_dict()) == config
    assert read_model(ModelConfig().to_dict()) == ModelConfig()
    assert config.in_chunks and config.transcribes and not ModelConfig().in_chunks
    with pytest.raises(ConfigError, match="kind: unknown model 'other'; known: speech_to_speech, speechllm"):
        read_model({"kind": "other"})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"dim": 18, "heads": 4}, "dim 18 must be divisible by heads 4"),
        ({"dim": 18, "heads": 2}, "heads 2: .* dim / heads = 9, must be even"),
        ({"chunk_frames": 6}, "chunk_frames 6 must be a multiple of 4 encoder frames"),
        ({"context_chunks": -2}, "context_chunks must be at least -1, got -2"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"target": "text"}, "target 'text': use source_text or target_text"),
    ],
)
def test_bad_options_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        SpeechLLMConfig(**{**SMALL, **change})


def test_options_that_do_not_fit_the_rest_are_named():
    with pytest.raises(ConfigError, match="llm.chunk_frames 20 must be a multiple of encoder.segment_frames 8"):
        SpeechLLMModelConfig(llm=SpeechLLMConfig(chunk_frames=20))
    with pytest.raises(ConfigError, match="llm.encoder_dim must equal encoder.dim 192"):
        heads = {name: dataclasses.replace(getattr(ModelConfig(), name), dim=192) for name in ("asr", "st")}
        SpeechLLMModelConfig(encoder=EncoderConfig(dim=192), **heads)
    with pytest.raises(ConfigError, match="llm.vocab 7 must equal st.vocab 6000"):
        SpeechLLMModelConfig(llm=SpeechLLMConfig(vocab=7, target="target_text"))


def test_the_paper_s_size():
    """92 M parameters with a dictionary of some 5000."""
    with torch.device("meta"):
        part = SpeechLLMDecoder(SpeechLLMConfig(vocab=5000))
    assert 85e6 < sum(parameter.numel() for parameter in part.parameters()) < 95e6
