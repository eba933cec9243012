"""Training lowers the loss, resumes exactly, and reads its data with clear errors; the two command lines run."""

import dataclasses

import numpy as np
import pytest
import soundfile as sf
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.units import parse_unit_line, run_lengths
from echostream_plugin.vocoder import VocoderConfig, load_vocoder
from echostream_plugin.vocoder.codehifigan import duration_params
from echostream_plugin.vocoder.data import UnitCorpus, read_unit_list
from echostream_plugin.vocoder.losses import mel_distance, mel_filters
from echostream_plugin.vocoder.recipes import TrainingConfig, preset
from echostream_plugin.vocoder.training import VocoderTrainer
from tests.scripts.conftest import load_script
from tests.vocoder.shared import ends_where_the_uninterrupted_ends

HOP, K = 320, 6
VOCODER = VocoderConfig(
    num_embeddings=K,
    embedding_dim=8,
    model_in_dim=8,
    upsample_rates=(8, 8, 5),
    upsample_kernel_sizes=(16, 16, 11),
    upsample_initial_channel=32,
    resblock_kernel_sizes=(3,),
    resblock_dilation_sizes=((1, 2, 3),),
    dur_predictor_params=duration_params(8, dropout=0.1),
)
TRAINING = TrainingConfig(
    batch_size=4,
    crop_frames=8,
    learning_rate=3e-3,
    warmup_steps=2,
    max_steps=30,
    duration_batch=4,
    periods=(2, 3),
    period_channels=(4, 8),
    stft_sizes=(256,),
    stft_channels=4,
    validate_every=15,
    dev_utterances=2,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve utterances in which unit u is a tone of 200 * (u + 1) Hz that lasts u + 2 frames."""
    folder = tmp_path_factory.mktemp("tones")
    rng, lines = np.random.default_rng(0), []
    for i in range(12):
        units = np.concatenate([[u] * (u + 2) for u in rng.permutation(K)])
        time = np.arange(len(units) * HOP) / 16000
        wav = 0.3 * np.sin(2 * np.pi * np.repeat(200.0 * (units + 1), HOP) * time)
        sf.write(folder / f"t{i}.wav", wav, 16000, subtype="PCM_16")
        lines.append(f"t{i}|" + " ".join(map(str, units)))
    (folder / "units.txt").write_text("\n".join(lines) + "\n")
    return folder


def corpus(data) -> UnitCorpus:
    return UnitCorpus(data / "units.txt", data, HOP, 16000, K)


def test_training_learns_and_saves_a_usable_vocoder(data, tmp_path):
    train = corpus(data)
    trainer = VocoderTrainer(VOCODER, dataclasses.replace(TRAINING, adversarial_start=0.6), tmp_path)
    before = trainer.validate(train)["dev_mel"]
    seen = []
    trainer.fit(train, train, lambda values, step: seen.append(values))
    after = trainer.validate(train)
    assert after["dev_mel"] < 0.8 * before
    assert any("dev_length_ratio" in values for values in seen) and (tmp_path / "log.jsonl").is_file()
    wav, durations = load_vocoder(tmp_path)(torch.tensor([[0, 3, 5]]))
    assert wav.shape == (1, int(durations.sum()) * HOP) and wav.std() > 1e-3, "the vocoder is silent"


def test_resumed_training_ends_where_the_uninterrupted_ends(data, tmp_path):
    config = ends_where_the_uninterrupted_ends(VOCODER, TRAINING, corpus(data), tmp_path)
    other = VocoderTrainer(dataclasses.replace(VOCODER, num_embeddings=K + 1), config, tmp_path)
    with pytest.raises(ConfigError, match="another vocoder config"):
        other.resume()


def test_training_stops_at_the_time_limit(data, tmp_path):
    config = dataclasses.replace(TRAINING, max_minutes=1e-6)
    trainer = VocoderTrainer(VOCODER, config, tmp_path)
    trainer.fit(corpus(data), None)
    assert trainer.step == 1 and (tmp_path / "vocoder.safetensors").is_file()


def test_command_lines_train_and_resynthesize(data, tmp_path, capsys):
    out = tmp_path / "vocoder"
    flags = ["--units", data / "units.txt", "--dev-units", data / "units.txt", "--wav-dir", data, "--out", out]
    flags += ["--max-steps", 2, "--batch-size", 2, "--crop-frames", 8, "--upsample-initial-channel", 32]
    flags += ["--resblock-kernel-sizes", "3,", "--dev-utterances", 1, "--period-channels", "4,8", "--precision", "fp32"]
    train, resynthesize = load_script("train_vocoder"), load_script("resynthesize")
    train.main([str(flag) for flag in flags])
    train.main([str(flag) for flag in flags])
    assert "resumed from step 2" in capsys.readouterr().out
    (tmp_path / "generated.txt").write_text("D-3\t-0.5\t1 2 2 3\nD-1\t-0.1\t0 5\n")
    flags = ["--units", tmp_path / "generated.txt", "--vocoder", out, "--out", tmp_path / "wav", "--streaming-units", 1]
    result = resynthesize.main([str(flag) for flag in flags])
    assert result["utterances"] == 2 and sf.info(tmp_path / "wav" / "D-3.wav").frames % HOP == 0
    flags = ["--units", data / "units.txt", "--vocoder", out, "--out", tmp_path / "wav", "--full-rate", "--limit", 1]
    result = resynthesize.main([str(flag) for flag in [*flags, "--original-wavs", data]])
    assert result["mel_distance"] > 0 and sf.info(tmp_path / "wav" / "t0.wav").frames == sf.info(data / "t0.wav").frames


def test_references_are_found_by_order_or_name(tmp_path):
    read = load_script("resynthesize").read_references
    path = tmp_path / "refs"
    path.write_text("one\ntwo\n")
    assert read(path, ["a", "b"]) == ["one", "two"]
    path.write_text("b\ttwo\na\tone\n")
    assert read(path, ["a", "b"]) == ["one", "two"]
    path.write_text("id\tsource\ttarget\tvoice\nb\tdos\ttwo\tx\na\tuno\tone\tx\n")
    assert read(path, ["a", "b"]) == ["one", "two"]
    with pytest.raises(ConfigError, match="no sentence for 'c'"):
        read(path, ["c"])
    path.write_text("one\n")
    with pytest.raises(ConfigError, match="1 sentences for 2"):
        read(path, ["a", "b"])


def test_presets():
    for name, millions in (("full", 14), ("small", 2)):
        vocoder, _ = preset(name, 1000)
        assert vocoder.hop_samples == HOP
        assert abs(sum(p.numel() for p in generator_parameters(vocoder)) / 1e6 - millions) < 1
    with pytest.raises(ConfigError, match="precision 'fp8'"):
        TrainingConfig(precision="fp8")
    with pytest.raises(ConfigError, match="preset 'big'"):
        preset("big", 10)


def generator_parameters(config):
    from echostream_plugin.vocoder import CodeHiFiGAN

    return CodeHiFiGAN(config).remove_weight_norm().parameters()


def test_unit_lines_and_reduction():
    assert parse_unit_line("a|1 1 2") == ("a", [1, 1, 2])
    assert parse_unit_line("4 5\n") == (None, [4, 5])
    assert parse_unit_line("D-7\t-0.25\t3 9") == ("D-7", [3, 9])
    assert run_lengths([1, 1, 2, 1]) == ([1, 2, 1], [2, 1, 1])
    assert run_lengths([]) == ([], [])
    with pytest.raises(ValueError, match="units must be integers"):
        parse_unit_line("a|1 x")


def test_data_errors_name_file_and_fix(data, tmp_path):
    def build(line):
        path = tmp_path / "list.txt"
        path.write_text(line)
        return UnitCorpus(path, data, HOP, 16000, K)

    with pytest.raises(ConfigError, match="no such file"):
        read_unit_list(tmp_path / "none.txt")
    with pytest.raises(ConfigError, match="empty"):
        build("\n")
    with pytest.raises(ConfigError, match="no audio file for 'zz'"):
        build("zz|1 2")
    with pytest.raises(ConfigError, match="must be at full rate"):
        build("t0|1 2 3")
    good = (data / "units.txt").read_text().splitlines()[0]
    with pytest.raises(ConfigError, match=f"unit 77 is out of range: the vocoder has K = {K}"):
        build(good[:-1] + "77")
    sf.write(data / "slow.wav", np.zeros(3200), 8000)
    with pytest.raises(ConfigError, match="8000 Hz.*resample"):
        build("slow|1 2 3 4 5 1 2 3 4 5")


def test_crops_are_aligned_and_short_utterances_repeat(data):
    train = corpus(data)
    units, wav = train.crops(np.random.default_rng(0), 3, 100)
    assert units.shape == (3, 100) and wav.shape == (3, 100 * HOP)
    first = train.utterances[0]
    again, _ = train.crops(np.random.default_rng(0), 3, 100)
    assert torch.equal(units, again) and len(first.units) * HOP == len(first.samples)


def test_mel_distance_is_zero_for_the_same_wave_and_grows():
    wav = torch.sin(torch.arange(16000) * 0.1)
    assert mel_distance(wav, wav, 16000) == 0
    assert mel_distance(wav * 0.5, wav, 16000) < mel_distance(torch.zeros(16000), wav, 16000)
    assert (mel_filters(1024, 80, 16000).sum(0) > 0).all(), "a filter without a bin"
