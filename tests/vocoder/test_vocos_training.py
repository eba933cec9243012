"""code_vocos is trained by the same script, resumes exactly, and a bundle with it speaks."""

import dataclasses

import numpy as np
import pytest
import soundfile as sf
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.vocoder import CodeVocos, VocosConfig, load_vocoder
from echostream_plugin.vocoder.data import UnitCorpus
from echostream_plugin.vocoder.pitch import pitch_class, pulses
from echostream_plugin.vocoder.recipes import TrainingConfig, preset
from echostream_plugin.vocoder.training import VocoderTrainer
from tests.scripts.conftest import load_script
from tests.vocoder.shared import ends_where_the_uninterrupted_ends

HOP, K = 320, 6
VOCODER = VocosConfig(
    num_embeddings=K,
    embedding_dim=8,
    dim=16,
    hidden_dim=24,
    coarse_blocks=1,
    fine_blocks=1,
    prosody_dim=16,
)
TRAINING = TrainingConfig(
    batch_size=4,
    crop_frames=10,
    learning_rate=1e-2,
    warmup_steps=2,
    max_steps=40,
    duration_batch=6,
    duration_weight=10.0,
    ema_decay=0.9,
    periods=(2, 3),
    period_channels=(4, 8),
    stft_sizes=(256,),
    stft_channels=4,
    validate_every=20,
    dev_utterances=2,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve utterances in which unit u lasts u + 5 frames; unit 0 is noise, the others pulses of 70 + 30 * u Hz."""
    folder = tmp_path_factory.mktemp("pulses")
    rng, lines = np.random.default_rng(0), []
    for i in range(12):
        units = np.concatenate([[u] * (u + 5) for u in rng.permutation(K)])
        hz = torch.tensor(np.where(units == 0, 0, 70.0 + 30 * units))
        wave, _ = pulses(torch.cat([hz[:1], hz]).unsqueeze(0), torch.zeros(1, dtype=torch.float64), HOP, 16000)
        wave = 0.08 * wave[0].numpy() + 0.08 * np.repeat(units == 0, HOP) * rng.standard_normal(len(units) * HOP)
        sf.write(folder / f"t{i}.wav", wave.clip(-1, 1), 16000, subtype="PCM_16")
        lines.append(f"t{i}|" + " ".join(map(str, units)))
    (folder / "units.txt").write_text("\n".join(lines) + "\n")
    return folder


def corpus(data, pitch=True) -> UnitCorpus:
    return UnitCorpus(data / "units.txt", data, HOP, 16000, K, pitch=pitch)


def test_corpus_measures_the_pitch_of_units(data):
    train = corpus(data)
    for utterance in train.utterances[:4]:
        found = dict(zip(utterance.reduced.tolist(), utterance.unit_pitch().tolist(), strict=True))
        assert found[0] == 0
        assert all(abs(found[u] / (70 + 30 * u) - 1) < 0.03 for u in range(1, K)), found
    frames, samples = train.crops(np.random.default_rng(0), 3, 50)
    assert frames.shape == (3, 50, 2) and samples.shape == (3, 50 * HOP)
    assert set(frames[:, :, 0].unique().tolist()) <= set(range(K))
    assert corpus(data, pitch=False).crops(np.random.default_rng(0), 3, 50)[0].shape == (3, 50)


def test_training_learns_sound_duration_and_pitch(data, tmp_path):
    train = corpus(data)
    trainer = VocoderTrainer(VOCODER, dataclasses.replace(TRAINING, max_steps=120, validate_every=60), tmp_path)
    before = trainer.validate(train)["dev_mel"]
    trainer.config = dataclasses.replace(trainer.config, adversarial_start=0.9)
    seen = []
    trainer.fit(train, train, lambda values, step: seen.append(values))
    assert trainer.validate(train)["dev_mel"] < 0.5 * before
    assert any("dev_length_ratio" in values for values in seen)
    model = load_vocoder(tmp_path)
    units = torch.tensor([[0, 3, 5, 1]])
    durations, classes = model.prosody.predict(units)
    assert (durations[0] - torch.tensor([5, 8, 10, 6])).abs().max() <= 2
    expected = pitch_class(torch.tensor([0.0, 160, 220, 100]), VOCODER.pitch_classes)
    assert classes[0, 0] == 0 and (classes[0] - expected).abs().max() <= 3
    wave, _ = model(units)
    assert wave.shape == (1, int(durations.sum()) * HOP)


@pytest.mark.parametrize("kind", ["code_vocos", "code_hifigan"])
def test_speech_is_as_long_as_the_dev_recordings(data, tmp_path, kind):
    """Least squares of logarithms, which training does, would say less."""
    heard = dataclasses.replace(TRAINING, dev_utterances=12)
    trainer = VocoderTrainer(VOCODER if kind == "code_vocos" else preset("small", K, kind)[0], heard, tmp_path)
    train = corpus(data)
    bias = trainer.ema["prosody.out.bias" if kind == "code_vocos" else "dur_predictor.proj.bias"]
    bias[0] += 2.0 - trainer.averaged().log_durations(torch.tensor([[0, 3, 5, 1]])).mean()  # 6.4 of 7.5 frames
    before = trainer.averaged()
    trainer.save(train)
    after, true = load_vocoder(tmp_path), sum(int(u.durations.sum()) for u in train.utterances)
    units = [torch.from_numpy(u.reduced).unsqueeze(0) for u in train.utterances]
    assert abs(sum(int(after.durations(row).sum()) for row in units) / true - 1) < 0.05
    assert abs(sum(int(before.durations(row).sum()) for row in units) / true - 1) > 0.1
    trainer.save()  # without recordings to measure, as it was learnt
    assert torch.equal(load_vocoder(tmp_path).durations(units[0]), before.durations(units[0]))


def test_resumed_training_ends_where_the_uninterrupted_ends(data, tmp_path):
    ends_where_the_uninterrupted_ends(VOCODER, TRAINING, corpus(data), tmp_path)


def test_command_line_trains_the_kind_asked_for(data, tmp_path, capsys):
    script = load_script("train_vocoder")
    flags = ["--kind", "code_vocos", "--units", data / "units.txt", "--dev-units", data / "units.txt"]
    flags += ["--wav-dir", data, "--out", tmp_path, "--max-steps", 2, "--batch-size", 2, "--crop-frames", 8]
    flags += ["--dim", 16, "--hidden-dim", 16, "--dev-utterances", 1, "--precision", "fp32", "--period-channels", "4,8"]
    script.main([str(flag) for flag in flags])
    model = load_vocoder(tmp_path)
    assert isinstance(model, CodeVocos) and (model.config.dim, model.config.hidden_dim) == (16, 16)
    assert model.config.num_embeddings == K
    script.main([str(flag) for flag in flags])
    assert "resumed from step 2" in capsys.readouterr().out


def test_presets():
    for name in ("full", "small"):
        vocoder, training = preset(name, 300, "code_vocos")
        millions = sum(p.numel() for p in CodeVocos(vocoder).parameters()) / 1e6
        assert vocoder.num_embeddings == 300 and 2 < millions < 5 and isinstance(training, TrainingConfig)
    with pytest.raises(ConfigError, match="'code_wavenet'"):
        preset("full", 10, "code_wavenet")
