"""What a training set gives: features normalised once, masked once and only in training, under seed and epoch."""

import numpy as np
import pytest
import torch
import yaml
from fairseq.data.audio.audio_utils import get_features_or_waveform
from fairseq.data.audio.feature_transforms.specaugment import SpecAugmentTransform
from fairseq.data.data_utils import numpy_seed

from echostream_plugin.config import ConfigError
from echostream_plugin.fairseq_ext.dataset import load_split
from tests.fairseq_ext.miniature import MEAN, STD, load_task


@pytest.fixture(scope="module")
def splits(corpus):
    """Train and dev, and the features of their files."""
    task, train = load_task(corpus)
    task.load_dataset("dev")
    return task, {"train": train, "dev": task.datasets["dev"]}


def source_of(dataset, index):
    return dataset[index][0].source.numpy()


def normalised(corpus, split, index):
    return (np.load(corpus.parent / "features" / f"{split}_{index}.npy") - MEAN) / STD


def masked(corpus, index, seed=1, epoch=1):
    """Normalised features under the masks of one utterance in one epoch, by fairseq's own transform."""
    config = yaml.safe_load((corpus / "config_gcmvn.yaml").read_text())["specaugment"]
    with numpy_seed(seed, epoch, index):
        return SpecAugmentTransform.from_config_dict(config)(normalised(corpus, "train", index))


def test_dev_features_are_normalised_once_and_not_masked(corpus, splits):
    for index in range(4):
        assert np.allclose(source_of(splits[1]["dev"], index), normalised(corpus, "dev", index), atol=1e-5)


def test_training_features_are_normalised_and_masked_once(corpus, splits):
    changed = 0
    for index in range(12):
        features = source_of(splits[1]["train"], index)
        assert np.allclose(features, masked(corpus, index), atol=1e-5)
        changed += not np.allclose(features, normalised(corpus, "train", index), atol=1e-2)
    assert changed >= 9


def test_masks_follow_seed_and_epoch(corpus, splits):
    dataset = splits[1]["train"]
    try:
        dataset.set_epoch(2)
        second = [source_of(dataset, index) for index in range(12)]
    finally:
        dataset.set_epoch(1)
    for index in range(12):
        assert np.allclose(second[index], masked(corpus, index, epoch=2), atol=1e-5)
    assert sum(not np.allclose(second[i], source_of(dataset, i), atol=1e-2) for i in range(12)) >= 9
    _, other = load_task(corpus, "--seed", "5")
    assert all(np.allclose(source_of(other, i), masked(corpus, i, seed=5), atol=1e-5) for i in range(12))


def test_masks_do_not_follow_the_order_of_reading(splits):
    dataset = splits[1]["train"]
    first = [source_of(dataset, index) for index in range(6)]
    np.random.seed(99)
    for index in reversed(range(6)):
        assert np.array_equal(source_of(dataset, index), first[index])


def test_a_batch_is_the_rows_of_the_manifest(corpus, splits):
    """Ids, lengths, units with </s>, subwords (with </s> for the MT task alone), features: each in its own row."""
    task, datasets = splits
    rows = [row.split("\t") for row in (corpus / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    sample = datasets["train"].collater([datasets["train"][i] for i in (3, 1, 8)])
    assert sorted(sample["id"].tolist()) == [1, 3, 8]
    for place, index in enumerate(sample["id"].tolist()):
        row, length = rows[index], int(sample["net_input"]["src_lengths"][place])
        assert length == int(row[2])
        assert np.allclose(sample["net_input"]["src_tokens"][place, :length], source_of(datasets["train"], index))
        target = [task.target_dictionary[token] for token in sample["target"][place] if token != 1]
        assert target == [*row[5].split(), "</s>"]
        for name, column, end in (("source_unigram", 3, []), ("ctc_target_unigram", 4, []), ("target_unigram", 4, [2])):
            dictionary = task.multitask_tasks[name].target_dictionary
            wanted = [dictionary.index(piece) for piece in row[column].split()] + end
            given = sample["multitask"][name]["target"][place]
            assert given[given != 1].tolist() == wanted
            if name == "target_unigram":
                previous = sample["multitask"][name]["net_input"]["prev_output_tokens"][place]
                assert previous[previous != 1].tolist() == [2, *wanted[:-1]]
    assert sample["ntokens"] == sum(len(rows[i][5].split()) + 1 for i in (1, 3, 8))


def test_the_blank_is_the_last_symbol(splits):
    task, _ = splits
    assert task.target_dictionary.symbols[-1] == "<blank>" and len(task.target_dictionary) == 15
    assert [task.target_dictionary.index(str(unit)) for unit in (0, 9)] == [4, 13]


@pytest.mark.parametrize("column", ["id", "src_audio", "src_n_frames", "tgt_audio", "tgt_n_frames"])
def test_a_manifest_without_a_column_is_named(corpus, splits, tmp_path, column):
    task, _ = splits
    text = (corpus / "train.tsv").read_text(encoding="utf-8")
    (tmp_path / "train.tsv").write_text(text.replace(f"{column}\t", "other\t", 1) if column == "id" else
                                        text.replace(f"\t{column}", "\tother", 1), encoding="utf-8")  # fmt: skip
    with pytest.raises(ConfigError, match=f"train.tsv: no column '{column}'"):
        load_split(str(tmp_path), "train", task.data_cfg, task.target_dictionary, {}, 1)


def test_features_too_short_to_have_any_are_named(corpus, splits, tmp_path):
    task, _ = splits
    np.save(tmp_path / "none.npy", np.zeros((0, 80), np.float32))
    header = "id\tsrc_audio\tsrc_n_frames\ttgt_audio\ttgt_n_frames"
    (tmp_path / "train.tsv").write_text(f"{header}\na\tnone.npy\t1\t1 2\t2\n")
    dataset = load_split(str(tmp_path), "train", task.data_cfg, task.target_dictionary, {}, 1)
    with pytest.raises(ConfigError, match="none.npy: shorter than one feature window"):
        dataset[0]


def test_files_lie_relative_to_the_manifest_or_the_audio_root(corpus, splits):
    task, datasets = splits
    assert datasets["train"].audio_paths[2] == (corpus / "../features/train_2.npy").as_posix()
    raw = get_features_or_waveform(datasets["train"].audio_paths[2])
    assert torch.equal(torch.from_numpy(raw), torch.from_numpy(np.load(corpus.parent / "features" / "train_2.npy")))
