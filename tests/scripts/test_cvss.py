"""CVSS-C preparation on a miniature of it: three clips a split, features of a toy instead of HuBERT."""

import numpy as np
import pytest
import soundfile
import yaml

from echostream_plugin.data import DataError
from echostream_plugin.data.cvss import SPLITS, Corpus
from echostream_plugin.data.feature_zip import read_index, read_member
from echostream_plugin.data.tables import read_table
from echostream_plugin.inference.features import features_of
from tests.scripts.conftest import load_script
from tests.tiny_bundle import speechlike

features_step, units_step = load_script("cvss/build_features"), load_script("cvss/build_units")
manifests_step, text_step = load_script("cvss/build_manifests"), load_script("cvss/build_text")
ENGLISH = ["the train is late", "where is the hotel", "two coffees please"]
FRENCH = ["Le train est en retard.", "Où est l'hôtel ?", "Deux cafés, s'il vous plaît !"]


@pytest.fixture
def corpus(tmp_path):
    """covost2/fr and cvss-c/fr-en with a good, a broken and a missing clip among those of the training split."""
    covost, cvss = tmp_path / "covost2" / "fr", tmp_path / "cvss-c" / "fr-en"
    (covost / "clips").mkdir(parents=True)
    validated, table = ["client_id\tpath\tsentence"], ["path\ttranslation\tsplit\tclient_id"]
    for number, split in enumerate(SPLITS):
        (cvss / split).mkdir(parents=True)
        lines = []
        for clip in range(3):
            name = f"common_voice_fr_{number}{clip}.mp3"
            soundfile.write(covost / "clips" / name, speechlike(0.8, 48000, seed=clip), 48000, format="MP3")
            soundfile.write(cvss / split / f"{name}.wav", speechlike(0.7, 24000, seed=9 + clip), 24000)
            validated.append(f"speaker\t{name}\t{FRENCH[clip]}")
            covost_split = "train_covost" if clip == 2 and split == "train" else split
            table.append(f"{name}\t{ENGLISH[clip].title()}.\t{covost_split}\tx")
            lines.append(f"{name}\t{ENGLISH[clip]}")
        (cvss / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    for broken, content in (("common_voice_fr_08.mp3", b"not audio"), ("common_voice_fr_09.mp3", None)):
        validated.append(f"speaker\t{broken}\tCassé")
        table.append(f"{broken}\tBroken.\ttrain\tx")
        with open(cvss / "train.tsv", "a") as file:
            file.write(f"{broken}\tbroken\n")
        if content is not None:
            (covost / "clips" / broken).write_bytes(content)
    (covost / "validated.tsv").write_text("\n".join(validated) + "\n")
    (covost / "covost_v2.fr_en.tsv").write_text("\n".join(table) + "\n")
    return Corpus(covost, cvss, cvss, "fr")


def toy_features(wave):
    """[T, 2] of 20 ms frames: loudness and zero crossings."""
    frames = wave[: len(wave) // 320 * 320].reshape(-1, 320)
    crossings = (np.diff(np.sign(frames), axis=1) != 0).mean(axis=1)
    return np.stack([np.abs(frames).mean(axis=1), crossings], axis=1).astype(np.float32)


CENTRES = np.array([[0.0, 0.0], [0.1, 0.1], [0.1, 0.3], [0.02, 0.05]], np.float32)


def prepare(corpus):
    features_step.build(corpus, jobs=1)
    units_step.build(corpus, toy_features, CENTRES)
    manifests_step.build(corpus)
    text_step.build(corpus, size=45, threads=1)


def test_every_step_leaves_streamspeechs_files(corpus):
    prepare(corpus)
    train = read_table(corpus.data_folder / "train.tsv")
    assert [row["id"] for row in train] == ["common_voice_fr_00", "common_voice_fr_01", "common_voice_fr_02"]
    index = read_index(corpus.feature_zip)
    for row in train:
        path, offset, size = row["src_audio"].rsplit(":", 2)
        assert (corpus.data_folder / path).resolve() == corpus.feature_zip.resolve()
        entry = index[row["id"]]
        assert (int(offset), int(size), int(row["src_n_frames"])) == (entry["offset"], entry["size"], entry["frames"])
        units = row["tgt_audio"].split()
        assert len(units) == int(row["tgt_n_frames"]) > 1
        assert all(unit != following for unit, following in zip(units, units[1:], strict=False))
        assert row["src_text"] in FRENCH and row["tgt_text"] in ENGLISH
    clip = corpus.covost / "clips" / "common_voice_fr_00.mp3"
    wanted = features_of(*soundfile.read(clip, dtype="float32"), np.zeros(80), np.ones(80))
    assert np.allclose(read_member(corpus.feature_zip, index["common_voice_fr_00"]), wanted)
    skipped = {row["id"]: row["why"] for row in read_table(corpus.output / "skipped.tsv")}
    assert "no such" in skipped["common_voice_fr_09"] and "not a readable" in skipped["common_voice_fr_08"]
    for split in SPLITS:
        assert len(read_table(corpus.output / "tgt_unigram45" / f"{split}.tsv", ("id", "tgt_text"))) == 3
        lists = corpus.output / "simuleval" / split
        assert (lists / "target.txt").read_text().splitlines() == ENGLISH
        assert (lists / "src.txt").read_text().splitlines()[2] == "deux cafés sil vous plaît"
        assert len((lists / "wav_list.txt").read_text().splitlines()) == 3
    tasks = yaml.safe_load((corpus.data_folder / "config_mtl_asr_st_ctcst.yaml").read_text())
    for task in tasks.values():
        assert (corpus.data_folder / task["dict"]).is_file()
        assert all((corpus.data_folder / task["data"] / f"{split}.tsv").is_file() for split in SPLITS)


def test_fairseq_task_reads_the_prepared_data(corpus):
    pytest.importorskip("fairseq")
    from echostream_plugin.fairseq_ext.task import read_data_config, read_multitask_config

    prepare(corpus)
    read_data_config(corpus.data_folder / "config_gcmvn.yaml")
    config = read_multitask_config(corpus.data_folder / "config_mtl_asr_st_ctcst.yaml")
    assert set(config.get_all_tasks()) == {"target_unigram", "source_unigram", "ctc_target_unigram"}


def test_a_second_run_changes_nothing(corpus):
    prepare(corpus)
    before = {path: path.read_bytes() for path in corpus.output.rglob("*") if path.is_file()}
    prepare(corpus)
    assert {path: path.read_bytes() for path in corpus.output.rglob("*") if path.is_file()} == before


def test_steps_out_of_order_and_missing_tables_say_what_to_do(corpus, capsys):
    with pytest.raises(DataError, match="train.tsv: not made yet; run scripts/cvss/build_features.py"):
        units_step.build(corpus, toy_features, CENTRES)
    with pytest.raises(DataError, match="src_fbank80.zip: no finished feature zip"):
        manifests_step.build(corpus)
    (corpus.cvss / "dev.tsv").unlink()
    with pytest.raises(DataError, match="dev.tsv: no such table; unpack cvss_c_fr_en"):
        features_step.build(corpus, jobs=1)
    (corpus.covost / "covost_v2.fr_en.tsv").unlink()
    arguments = ["--covost", str(corpus.covost), "--cvss", str(corpus.cvss)]
    assert features_step.main(arguments) == 1
    assert "covost_v2.fr_en.tsv: no such table" in capsys.readouterr().err
    hubert = [*arguments, "--hubert", "none.pt", "--kmeans", "none.bin"]
    assert units_step.main(hubert) == 1 and "none.bin" in capsys.readouterr().err
    assert text_step.main(arguments) == manifests_step.main(arguments) == 1
    assert features_step.main(["--covost", "nowhere", "--cvss", str(corpus.cvss)]) == 1
    assert "nowhere: no such folder" in capsys.readouterr().err


def test_hubert_features_come_from_a_fairseq_checkpoint(tmp_path):
    """A tiny random HuBERT, saved as fairseq saves it."""
    pytest.importorskip("fairseq")
    import torch
    from fairseq.data import Dictionary
    from fairseq.models.hubert import HubertConfig, HubertModel
    from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig

    from echostream_plugin.config import ConfigError
    from echostream_plugin.fairseq_ext.hubert import HubertFeatures

    (tmp_path / "dict.km.txt").write_text("".join(f"{unit} 1\n" for unit in range(6)))
    config = HubertConfig(
        label_rate=50.0, encoder_layers=2, encoder_embed_dim=16, encoder_ffn_embed_dim=32, encoder_attention_heads=2,
        conv_feature_layers="[(8,10,5)] + [(8,3,2)] * 4 + [(8,2,2)] * 2", conv_pos=8, conv_pos_groups=2, final_dim=8,
    )  # fmt: skip
    task_config = HubertPretrainingConfig(data=str(tmp_path), label_dir=str(tmp_path), labels=["km"], label_rate=50.0)
    model = HubertModel(config, task_config, [Dictionary.load(str(tmp_path / "dict.km.txt"))]).eval()
    from omegaconf import OmegaConf

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
    torch.save(state, tmp_path / "hubert.pt")
    features = HubertFeatures(tmp_path / "hubert.pt", layer=2)(speechlike(1.0))
    assert features.shape == (49, 16) and np.isfinite(features).all()
    with pytest.raises(ConfigError, match="none.pt: no such HuBERT checkpoint"):
        HubertFeatures(tmp_path / "none.pt", layer=2)
