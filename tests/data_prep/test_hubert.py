"""A tiny random HuBERT, saved as fairseq saves it and as transformers does: the same features."""

import numpy as np
import pytest

from echostream_plugin.config import ConfigError
from tests.tiny_bundle import speechlike

pytest.importorskip("fairseq")


def save_fairseq_hubert(path, **changes):
    """A checkpoint in fairseq's format, mHuBERT's architecture at a fortieth of its width."""
    import torch
    from fairseq.data import Dictionary
    from fairseq.models.hubert import HubertConfig, HubertModel
    from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig
    from omegaconf import OmegaConf

    torch.manual_seed(0)
    normalize = changes.pop("normalize", False)
    folder = path.parent
    (folder / "dict.km.txt").write_text("".join(f"{unit} 1\n" for unit in range(6)))
    config = HubertConfig(
        label_rate=50.0, encoder_layers=3, encoder_embed_dim=16, encoder_ffn_embed_dim=32, encoder_attention_heads=2,
        conv_feature_layers="[(8,10,5)] + [(8,3,2)] * 4 + [(8,2,2)] * 2", conv_pos=8, conv_pos_groups=2, final_dim=8,
        **changes,
    )  # fmt: skip
    task_config = HubertPretrainingConfig(
        data=str(folder), label_dir=str(folder), labels=["km"], label_rate=50.0, normalize=normalize
    )
    model = HubertModel(config, task_config, [Dictionary.load(str(folder / "dict.km.txt"))]).eval()
    for parameter in model.parameters():  # norms and biases begin as ones and zeros, which would hide a mix-up
        parameter.data += 0.05 * torch.randn_like(parameter)
    cfg = OmegaConf.create({"task": OmegaConf.structured(task_config), "model": OmegaConf.structured(config)})
    cfg.task._name, cfg.model._name = "hubert_pretraining", "hubert"
    cfg.common = {}
    history = {"criterion_name": "hubert", "optimizer_name": "adam", "lr_scheduler_state": {}, "num_updates": 1}
    state = {
        "cfg": OmegaConf.to_container(cfg, enum_to_str=True),
        "model": model.state_dict(),
        "task_state": {},
        "optimizer_history": [history],
        "extra_state": {"train_iterator": {}},
    }
    torch.save(state, path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("hubert") / "hubert.pt"
    save_fairseq_hubert(path)
    return path


def test_hubert_features_come_from_a_fairseq_checkpoint(checkpoint, capsys):
    from echostream_plugin.fairseq_ext.hubert import HubertFeatures

    features = HubertFeatures(checkpoint, layer=2)(speechlike(1.0))
    assert features.shape == (49, 16) and np.isfinite(features).all()
    assert "is a pickle" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="none.pt: no such HuBERT checkpoint"):
        HubertFeatures(checkpoint.with_name("none.pt"), layer=2)
    with pytest.raises(ConfigError, match="--layer 4, but the model has 3 layers"):
        HubertFeatures(checkpoint, layer=4)


@pytest.mark.parametrize("changes", [{}, {"extractor_mode": "layer_norm", "layer_norm_first": True, "normalize": True}])
def test_fairseq_and_transformers_give_the_same_features(tmp_path, changes):
    pytest.importorskip("transformers")
    from echostream_plugin.data.hubert import TransformersHubert
    from echostream_plugin.fairseq_ext.hubert import HubertFeatures, save_for_transformers

    save_fairseq_hubert(tmp_path / "hubert.pt", **changes)
    save_for_transformers(tmp_path / "hubert.pt", tmp_path / "folder")
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {"config.json", "model.safetensors"}
    wave = speechlike(0.93)
    for layer in (1, 2):
        one = HubertFeatures(tmp_path / "hubert.pt", layer)(wave)
        other = TransformersHubert(tmp_path / "folder", layer)(wave)
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=2e-5 * np.abs(one).max())


def test_a_long_recording_is_read_in_pieces_and_a_scrap_at_the_end_is_dropped(checkpoint, monkeypatch):
    from echostream_plugin.data import hubert
    from echostream_plugin.fairseq_ext.hubert import HubertFeatures

    monkeypatch.setattr(hubert, "CHUNK_SAMPLES", 16000)
    features = HubertFeatures(checkpoint, layer=2)
    wave = speechlike(2.0)[:32000]
    assert features(np.concatenate([wave, wave[:399]])).shape == features(wave).shape == (98, 16)


def test_folders_that_are_no_hubert_are_refused(tmp_path):
    from echostream_plugin.data.hubert import TransformersHubert

    with pytest.raises(ConfigError, match="no HuBERT folder of the transformers library"):
        TransformersHubert(tmp_path, 11)


def test_the_units_step_runs_with_either_backend(tmp_path, checkpoint, monkeypatch):
    """From the command line to units: both formats of the same model, and k-means of its features."""
    pytest.importorskip("transformers")
    from echostream_plugin.data.units import read_units
    from echostream_plugin.fairseq_ext.hubert import HubertFeatures
    from echostream_plugin.inference.audio import read_mono
    from tests.data_prep import miniature_cvss
    from tests.scripts.conftest import load_script

    corpus = miniature_cvss.build(tmp_path, "es")
    wav = next((corpus.cvss / "train").iterdir())
    np.save(tmp_path / "km.npy", HubertFeatures(checkpoint, 2)(read_mono(wav))[::5])
    convert = load_script("cvss/convert_hubert")
    assert convert.main(["--checkpoint", str(checkpoint), "--output", str(tmp_path / "folder")]) == 0
    assert convert.main(["--checkpoint", "none.pt", "--output", str(tmp_path / "other")]) == 1
    step, found = load_script("cvss/build_units"), []
    for hubert in (checkpoint, tmp_path / "folder"):
        out = tmp_path / f"out_{hubert.stem}"
        arguments = ["--root", str(tmp_path), "--lang", "es", "--output", str(out), "--jobs", "1", "--layer", "2"]
        assert step.main([*arguments, "--hubert", str(hubert), "--kmeans", str(tmp_path / "km.npy")]) == 0
        found.append([read_units(out / "units" / f"{split}.txt") for split in ("train", "dev", "test")])
    assert found[0] == found[1] and len(found[0][0]) == 3 and all(map(len, found[0][0].values()))
