"""The Whisper encoder: Whisper's own numbers where nothing is limited, and what makes it a stream."""

import numpy as np
import pytest
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.data.ctranslate2 import read_variables
from echostream_plugin.data.whisper_base import whisper_folder
from echostream_plugin.data.whisper_weights import load_whisper_encoder
from echostream_plugin.encoders.whisper import WhisperConfig, WhisperEncoder
from echostream_plugin.inference.audio import read_audio
from echostream_plugin.modules import dense_attention
from echostream_plugin.modules.whisper_front import POSITIONS, WhisperFront, cyclic_positions, sinusoids
from tests.speech import ROOM
from tests.whisper_file import SMALL


def make(**options):
    torch.manual_seed(0)
    return WhisperEncoder(WhisperConfig(**{**SMALL, "dropout": 0.0, **options})).eval()


def test_whisper_base_computes_what_faster_whisper_does():
    """On a recording: convolutions, positions, layers and norm against CTranslate2 in float32."""
    ctranslate2 = pytest.importorskip("ctranslate2", reason="needs faster-whisper")
    faster_whisper = pytest.importorskip("faster_whisper", reason="needs faster-whisper")
    try:
        folder = whisper_folder()
    except ConfigError as error:
        pytest.skip(str(error))
    encoder = WhisperEncoder(WhisperConfig(layers=6, halve_after=6)).eval()
    assert "90 tensors" in load_whisper_encoder(encoder, folder)
    samples, rate = read_audio(ROOM)
    assert rate == 16000
    theirs = faster_whisper.WhisperModel(str(folder), device="cpu", compute_type="float32", cpu_threads=1)
    features = theirs.feature_extractor(samples, padding=160)[None]
    features = np.ascontiguousarray(features[:, :, : features.shape[2] // 2 * 2], np.float32)
    view = ctranslate2.StorageView.from_array(features)
    wanted = torch.from_numpy(np.array(theirs.model.encode(view, to_cpu=True)))
    # its table of positions is rounded to half precision
    table = read_variables(folder / "model.bin", "encoder/position")["encoder/position_encodings/encodings"]
    frames = wanted.size(1)
    rounding = torch.from_numpy(table[:frames].astype(np.float32)) - sinusoids(frames, 512)
    assert rounding.abs().max() < 5e-4
    with torch.no_grad():
        inputs = torch.from_numpy(features).transpose(1, 2)
        given = encoder.norm(encoder.fine(encoder.front.whole(inputs) + rounding, None, 0))
    assert wanted.abs().max() > 5
    assert (given - wanted).abs().max() < 2e-3
    whole, lengths = encoder.whole(inputs, torch.tensor([inputs.size(1)]))
    assert lengths.tolist() == [frames] and (whole - wanted).abs().max() < 2e-2


def test_the_convolutions_are_whispers_one_frame_later():
    front = make().front
    features = torch.randn(1, 40, 80)
    with torch.no_grad():
        late = front(features) - front.positions[:20]
        whole = front.whole(features) - sinusoids(20, 16)
    assert (late[:, 2:] - whole[:, 1:-1]).abs().max() < 1e-5  # the first frame of a stream sees another padding


def test_positions_have_no_seam():
    table = cyclic_positions(512)
    steps = (table - table.roll(1, 0)).norm(dim=1)
    assert table.shape == (POSITIONS, 512) and steps.max() - steps.min() < 1e-3 and steps.min() > 0.1
    theirs = sinusoids(201, 512)
    near = [(one[100] @ one[100 + distance]).item() for one in (table, theirs) for distance in (1, 4, 20)]
    assert np.allclose(near[:3], near[3:], rtol=0.05)  # neighbours are as much alike as in Whisper


def test_a_stream_goes_on_after_the_table_ends():
    encoder, features = make(), torch.randn(1, 4 * 64, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        state = encoder.initial_state(1, 8)
        aged = type(state)(
            type(state.front)(state.front.features, state.front.hidden, state.front.frames + 3 * POSITIONS),
            state.fine, state.odd, state.coarse,
        )  # fmt: skip
        assert torch.equal(encoder.step(features, aged)[0], encoder.step(features, state)[0])


def test_training_draws_where_an_utterance_begins():
    front, features = WhisperFront(80, 16, cyclic=True), torch.randn(4, 20, 80)
    torch.manual_seed(1)
    with torch.no_grad():
        drawn, again = (front.train()(features) for _ in range(2))
        fixed = front.eval()(features)
    starts = (drawn - fixed)[:, 0]
    assert not torch.equal(drawn, again) and starts.abs().amax(1).min() > 1e-3


@pytest.mark.parametrize("lengths", [None, (70, 33)])
@pytest.mark.parametrize("rotary", [False, True])
def test_one_mask_gives_what_windows_give(monkeypatch, lengths, rotary):
    encoder = make(position="rotary" if rotary else "cyclic", layers=2, halve_after=2, left_context_frames=5)
    x = torch.randn(2, 70, 16, generator=torch.Generator().manual_seed(0))
    lengths = lengths and torch.tensor(lengths)
    with torch.no_grad():
        assert dense_attention.pays(70, 16, 10)
        dense = encoder.fine(x, lengths, 16)
        monkeypatch.setattr(dense_attention, "pays", lambda *_: False)
        windows = encoder.fine(x, lengths, 16)
    for row, length in enumerate((70, 33) if lengths is not None else (70, 70)):
        assert (dense - windows)[row, :length].abs().max() < 1e-5


def test_dense_attention_is_for_short_utterances():
    assert not dense_attention.pays(5000, 16, 96) and not dense_attention.pays(10, 16, 96)


def test_halving_later_gives_as_many_frames():
    features, lengths = torch.randn(2, 103, 80), torch.tensor([103, 50])
    for halve_after in (1, 2, 3):
        out, counts = make(halve_after=halve_after)(features, lengths)
        assert out.shape == (2, 26, 12) and counts.tolist() == [26, 13]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"halve_after": 0}, "halve_after must be at least 1, got 0"),
        ({"halve_after": 4}, "halve_after 4: use 1 to layers 3"),
        ({"position": "table"}, "position 'table': use cyclic or rotary"),
        ({"heads": 3}, "must be divisible by heads 3"),
        ({"kind": "emformer"}, "cannot be of kind 'emformer'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        WhisperConfig(**{**SMALL, **options})
