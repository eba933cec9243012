"""The generator is fairseq's; files are read back as written, and bad ones are named."""

import json

import pytest
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.vocoder import CodeHiFiGAN, VocoderConfig, load_public_checkpoint, load_vocoder, save_vocoder
from echostream_plugin.vocoder.codehifigan import duration_params

CONFIG = {
    "num_embeddings": 30,
    "embedding_dim": 16,
    "model_in_dim": 16,
    "upsample_rates": [5, 4, 4, 2, 2],
    "upsample_kernel_sizes": [11, 8, 8, 4, 4],
    "upsample_initial_channel": 64,
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "dur_predictor_params": duration_params(16),
    "sampling_rate": 16000,
    "segment_size": 8960,  # a training option of public configs, ignored
}


def small_model(**changes) -> CodeHiFiGAN:
    torch.manual_seed(0)
    return CodeHiFiGAN(VocoderConfig.from_dict({**CONFIG, **changes})).eval()


def fairseq_vocoder(folder, config):
    """fairseq's vocoder with random weights, saved as the public checkpoints are."""
    codehifigan = pytest.importorskip("fairseq.models.text_to_speech.codehifigan")
    from fairseq.models.text_to_speech.vocoder import CodeHiFiGANVocoder

    torch.manual_seed(1)
    model = codehifigan.CodeGenerator(config)
    if model.dur_predictor is not None:
        model.dur_predictor.proj.bias.data.fill_(1.3)  # else every duration is 1
    torch.save({"generator": model.state_dict()}, folder / "model.pt")
    (folder / "config.json").write_text(json.dumps(config))
    return CodeHiFiGANVocoder(str(folder / "model.pt"), config)


@pytest.mark.parametrize("predict_durations", [True, False])
@torch.no_grad()
def test_public_checkpoint_gives_fairseqs_waveform(tmp_path, predict_durations):
    reference = fairseq_vocoder(tmp_path, CONFIG)
    ours = load_public_checkpoint(tmp_path / "model.pt", tmp_path / "config.json")
    units = torch.tensor([[3, 7, 29, 0, 11, 12, 5, 5, 9]])
    expected = reference({"code": units.clone()}, predict_durations)
    wav, durations = ours(units, predict_durations)
    assert wav.shape == (1, int(durations.sum()) * 320)
    assert (durations > 1).any() == predict_durations
    torch.testing.assert_close(wav[0], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_multispeaker_checkpoint_gives_fairseqs_waveform(tmp_path):
    config = {**CONFIG, "multispkr": "from_input", "num_speakers": 4, "model_in_dim": 32}
    reference = fairseq_vocoder(tmp_path, config)
    ours = load_public_checkpoint(tmp_path / "model.pt", tmp_path / "config.json")
    units = torch.tensor([[3, 7, 29]])
    expected = reference({"code": units.clone(), "spkr": torch.tensor([[2]])}, True)
    torch.testing.assert_close(ours(units, speaker=2)[0][0], expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="speaker 4 is out of range"):
        ours(units, speaker=4)


def test_training_parameters_have_fairseqs_names():
    codehifigan = pytest.importorskip("fairseq.models.text_to_speech.codehifigan")
    theirs = {name: value.shape for name, value in codehifigan.CodeGenerator(CONFIG).state_dict().items()}
    assert {name: value.shape for name, value in small_model().state_dict().items()} == theirs


@torch.no_grad()
def test_saved_vocoder_is_half_precision_and_read_back(tmp_path):
    model, units = small_model(), torch.tensor([[1, 2, 3, 4]])
    save_vocoder(model, tmp_path)
    loaded = load_vocoder(tmp_path)
    assert loaded.config == model.config and loaded.conv_pre.weight.dtype == torch.float32
    assert (tmp_path / "vocoder.safetensors").stat().st_size < 2.2 * sum(p.numel() for p in loaded.parameters()) + 2e4
    torch.testing.assert_close(loaded(units, False)[0], model(units, False)[0], atol=5e-3, rtol=0)
    save_vocoder(loaded, tmp_path / "again")
    torch.testing.assert_close(load_vocoder(tmp_path / "again")(units)[0], loaded(units)[0], atol=0, rtol=0)


@torch.no_grad()
def test_batch_equals_each_alone():
    model = small_model()
    units = torch.tensor([[1, 2, 3, 4, 5], [9, 8, 7, 6, 5]])
    batch = model.generate(units)
    for row in (0, 1):
        torch.testing.assert_close(batch[row], model.generate(units[row : row + 1])[0], atol=1e-5, rtol=0)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    padded = model.log_durations(units, mask)
    torch.testing.assert_close(padded[1, :3], model.log_durations(units[1:, :3])[0], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="one sequence at a time"):
        model(units)


@pytest.mark.parametrize("unit", [30, -1])
def test_unit_out_of_range_is_named_with_k(unit):
    for call in (lambda u: small_model()(u), lambda u: small_model().generate(u)):
        with pytest.raises(ValueError, match=rf"unit {unit} is out of range: this vocoder has K = 30"):
            call(torch.tensor([[1, unit]]))


def test_empty_sequence_is_silent():
    wav, durations = small_model()(torch.zeros(1, 0, dtype=torch.long))
    assert wav.shape == (1, 0) and durations.shape == (1, 0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"upsample_kernel_sizes": [10, 8, 8, 4, 4]}, "even number"),
        ({"upsample_rates": [5, 4]}, "same length"),
        ({"f0": True}, "f0"),
        ({"model_in_dim": 80}, "model_in_dim must be 16"),
        ({"resblock_dilation_sizes": [[1, 3]] * 3}, "three dilations"),
        ({"upsample_initial_channel": 16}, "too small"),
        ({"dur_predictor_params": {"encoder_embed_dim": 16}}, "dur_predictor_params lacks"),
    ],
)
def test_bad_config_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        VocoderConfig.from_dict({**CONFIG, **change})


def test_missing_and_wrong_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"vocoder\.json: no such file"):
        load_vocoder(tmp_path)
    save_vocoder(small_model(), tmp_path)
    weights = tmp_path / "vocoder.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match="not a readable safetensors file"):
        load_vocoder(tmp_path)
    weights.unlink()
    with pytest.raises(ConfigError, match=r"vocoder\.safetensors: no such file.*train_vocoder"):
        load_vocoder(tmp_path)
    weights.write_bytes(content)
    (tmp_path / "vocoder.json").write_text(json.dumps({**CONFIG, "num_embeddings": 31}))
    with pytest.raises(ConfigError, match=r"dict\.weight has shape \(30, 16\), the config says \(31, 16\)"):
        load_vocoder(tmp_path)
    (tmp_path / "vocoder.json").write_text("{")
    with pytest.raises(ConfigError, match="not a json file"):
        load_vocoder(tmp_path)


def test_wrong_public_checkpoints_are_named(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG))
    path = tmp_path / "model.pt"
    with pytest.raises(ConfigError, match=r"model\.pt: no such file"):
        load_public_checkpoint(path, config)
    torch.save({"model": {}}, path)
    with pytest.raises(ConfigError, match="no 'generator' in it"):
        load_public_checkpoint(path, config)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ConfigError, match="not a checkpoint"):
        load_public_checkpoint(path, config)
    torch.save({"generator": {"conv_pre.bias": torch.zeros(64)}}, path)
    with pytest.raises(ConfigError, match="missing conv_pre.weight_g"):
        load_public_checkpoint(path, config)
    config.write_text(json.dumps({"vocoder": "other"}))
    with pytest.raises(ConfigError, match="not a CodeHiFiGAN config"):
        load_public_checkpoint(path, config)
