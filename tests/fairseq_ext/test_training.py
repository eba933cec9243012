"""fairseq-train with the plugin: it learns, it resumes, its draws are under the seed, bad data is told clearly."""

import shutil

import pytest
import torch
import yaml

from echostream_plugin.config import ConfigError
from tests.fairseq_ext.miniature import CRITERION, run_cli, task_arguments, train


def test_resumed_training_equals_uninterrupted(corpus, tmp_path):
    draws = ("--multichunk", "--n2", "-1")
    whole = train(corpus, tmp_path / "whole", *draws, updates=8)
    train(corpus, tmp_path / "halves", *draws, updates=5)
    resumed = train(corpus, tmp_path / "halves", *draws, updates=8)
    assert whole["optimizer_history"][-1]["num_updates"] == resumed["optimizer_history"][-1]["num_updates"] == 8
    # 3 of an epoch's batches, whose epochs draw other masks: it stops within the second epoch and ends in the third
    assert whole["extra_state"]["train_iterator"]["epoch"] >= 3
    for name, weights in whole["model"].items():
        assert torch.equal(weights, resumed["model"][name]), name


def test_another_seed_gives_another_model(corpus, tmp_path):
    one = train(corpus, tmp_path / "one", updates=1)["model"]
    two = train(corpus, tmp_path / "two", "--seed", "2", updates=1)["model"]
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_it_learns_and_generates(corpus, tmp_path, capsys):
    """After two hundred updates on twelve utterances the CTC heads spell them, and translations follow the source."""
    train(
        corpus,
        tmp_path,
        "--dropout",
        "0",
        "--lr",
        "0.005",
        "--warmup-updates",
        "30",
        "--disable-validation",
        updates=200,
    )
    capsys.readouterr()
    results = tmp_path / "out"
    run_cli(
        "fairseq_cli.generate",
        [*task_arguments(corpus), "--path", str(tmp_path / "checkpoint_last.pt"), "--gen-subset", "train",
         "--beam-mt", "3", "--max-tokens", "2000", "--cpu", "--results-path", str(results)],
    )  # fmt: skip
    printed = capsys.readouterr().out.splitlines()
    written = (results / "generate-train.txt").read_text().splitlines()
    heard, st, translated = (_lines(printed, kind, 1) for kind in "ASD")
    units = _lines(written, "D", 2)
    rows = [row.split("\t") for row in (corpus / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    source, target = ([row[i].replace(" ", "").replace("▁", " ").strip() for row in rows] for i in (3, 4))
    assert sum(heard[i] == source[i] for i in range(12)) >= 9
    assert sum(st[i] == target[i] for i in range(12)) >= 9
    words = [(set(translated[i].split()), set(target[i].split())) for i in range(12)]
    assert sum(len(said & wanted) / len(wanted) for said, wanted in words) / 12 > 0.7
    assert len(set(translated.values())) >= 5 and len(set(units.values())) >= 5  # a collapsed model says one thing


def _lines(lines, kind, column):
    """The text of fairseq-generate's lines of one kind, by utterance; all twelve must be there."""
    fields = [line.split("\t") for line in lines if line.startswith(f"{kind}-")]
    texts = {int(field[0][2:]): field[column] for field in fields}
    assert sorted(texts) == list(range(12))
    return texts


@pytest.mark.parametrize(
    "file, change, message",
    [
        ("config_gcmvn.yaml", lambda c: c["global_cmvn"].update(stats_npz_path="none.npz"), "stats_npz_path.*none.npz"),
        ("config_mtl.yaml", lambda c: c["source_unigram"].update(dict="no.txt"), "source_unigram.dict.*no.txt"),
        ("config_mtl.yaml", lambda c: c.pop("ctc_target_unigram"), "no task named ctc_target_unigram"),
    ],
)
def test_wrong_yaml_is_named(corpus, tmp_path, file, change, message):
    shutil.copytree(corpus.parent, tmp_path / "corpus")
    path = tmp_path / "corpus" / "fbank2unit" / file
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match=message):
        train(tmp_path / "corpus" / "fbank2unit", tmp_path / "save", updates=1)


def test_audio_of_any_rate_in_the_manifest(corpus, tmp_path):
    """src_audio may name wav or flac files; 44.1 kHz stereo gives the features of its 16 kHz mono version."""
    import numpy as np
    import soundfile

    from echostream_plugin.fairseq_ext.dataset import load_features

    time = np.arange(44100) / 44100
    tone = 0.3 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / "stereo.flac", np.stack([tone, tone], 1), 44100)
    soundfile.write(tmp_path / "mono.wav", 0.3 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000), 16000)
    stereo, mono = load_features(str(tmp_path / "stereo.flac")), load_features(str(tmp_path / "mono.wav"))
    assert stereo.shape == mono.shape == (98, 80)
    loud = mono[5:-5] > mono.max() - 6
    assert np.abs(stereo[5:-5] - mono[5:-5])[loud].max() < 0.2
    with pytest.raises(ConfigError, match="missing.wav"):
        load_features(str(tmp_path / "missing.wav"))


def test_every_utterance_is_batched(corpus):
    """fairseq's batcher forgets a last batch that does not fill its size multiple."""
    from tests.fairseq_ext.miniature import load_task

    task, dataset = load_task(corpus)
    batches = task.get_batch_iterator(dataset, max_tokens=2000, required_batch_size_multiple=8).frozen_batches
    assert sorted(index for batch in batches for index in batch) == list(range(12))


def test_bundle_of_a_checkpoint_translates(corpus, tmp_path):
    """A checkpoint becomes a bundle whose outputs are those of the training model, to half precision."""
    from echostream_plugin.fairseq_ext.loading import export_bundle, load_checkpoint_bundle
    from echostream_plugin.inference.bundle import load_bundle

    train(corpus, tmp_path, updates=2)
    path = tmp_path / "checkpoint_last.pt"
    trained, exported = load_checkpoint_bundle(path), load_bundle(export_bundle(tmp_path / "bundle", path))
    features = torch.randn(1, 100, 80)
    for name in ("encoder",):
        expected, actual = (getattr(b.model, name)(features, torch.tensor([100]))[0] for b in (trained, exported))
        assert torch.allclose(expected, actual, atol=0.05)
    assert exported.target_dictionary.symbols[4:] == ("▁one", "▁two", "▁three", "▁four")


def test_checkpoint_with_other_dictionaries_is_refused(corpus, tmp_path):
    from echostream_plugin.fairseq_ext.loading import load_checkpoint_bundle

    train(corpus, tmp_path / "save", updates=1)
    shutil.copytree(corpus.parent, tmp_path / "corpus")
    dictionary = tmp_path / "corpus" / "tgt_unigram" / "dict.txt"
    dictionary.write_text(dictionary.read_text(encoding="utf-8") + "▁five 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="trained with these dictionaries"):
        load_checkpoint_bundle(tmp_path / "save" / "checkpoint_last.pt", tmp_path / "corpus" / "fbank2unit")


def test_equal_lengths_and_places_in_the_batch_do_not_matter(corpus):
    """Equal target lengths have a unit loss, and an utterance's unit logits are the same anywhere in a batch."""
    from echostream_plugin.fairseq_ext.ctc_losses import ctc_loss
    from tests.fairseq_ext.miniature import load_task

    task, dataset = load_task(corpus)
    torch.manual_seed(0)
    model = task.build_model(task.args).eval()
    sample = dataset.collater([dataset[i] for i in (0, 3, 6)])  # all of two words
    features, lengths = sample["net_input"]["src_tokens"], sample["net_input"]["src_lengths"]
    tokens = sample["multitask"]["target_unigram"]["net_input"]["prev_output_tokens"]
    output = model(features, lengths, tokens)
    loss = ctc_loss(output.unit_logits, output.unit_lengths, sample["target"], output.unit_logits.size(-1) - 1)
    assert torch.isfinite(loss) and loss > 0
    flipped = model(features.flip(0), lengths.flip(0), tokens.flip(0))
    assert torch.allclose(flipped.unit_logits.flip(0), output.unit_logits, atol=1e-5)
    assert not torch.allclose(output.unit_logits[:, :6], output.unit_logits[:, 6:12], atol=1e-3)  # positions in time


@pytest.mark.parametrize("rows", [(0, 3, 6), (1,)], ids=["equal target lengths", "one"])
def test_batches_without_padding_train(corpus, rows):
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    from tests.fairseq_ext.miniature import load_task

    task, dataset = load_task(corpus)
    torch.manual_seed(0)
    model = task.build_model(task.args).train()
    criterion = task.build_criterion(convert_namespace_to_omegaconf(task.args).criterion).train()
    sample = dataset.collater([dataset[row] for row in rows])
    assert not sample["multitask"]["target_unigram"]["target"].eq(1).any()
    loss, _, logging = criterion(model, sample)
    loss.backward()
    assert 0 < logging["unit_loss"] < torch.inf and torch.isfinite(loss)
    assert model.decoder.embed_tokens.weight.grad.abs().sum() > 0


def test_dropout_is_as_asked(corpus):
    from tests.fairseq_ext.miniature import load_task

    task, _ = load_task(corpus, "--dropout", "0.25", "--attention-dropout", "0.125", "--relu-dropout", "0.0625")
    model = task.build_model(task.args)
    for part in (model.config.encoder, model.config.mt, model.config.unit):
        assert (part.dropout, part.attention_dropout, part.activation_dropout) == (0.25, 0.125, 0.0625)


def test_every_draw_is_under_the_seed(corpus):
    """Chunk sizes and n2 repeat with torch's seed, whatever Python's own generator does."""
    import random

    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    from tests.fairseq_ext.miniature import load_task

    task, _ = load_task(corpus, "--multichunk", "--n2", "-1")
    criterion = task.build_criterion(convert_namespace_to_omegaconf(task.args).criterion).train()

    def draws(python_seed):
        random.seed(python_seed)
        torch.manual_seed(7)
        return [criterion.draw(9) for _ in range(20)]

    first = draws(1)
    assert first == draws(2)
    assert len({segment for _, segment in first}) > 2 and len({lags.n2 for lags, _ in first}) > 2
    assert not criterion.eval().draw(9)[1]  # validation draws nothing


def test_segments_that_lose_audio_are_refused_with_their_flag(corpus, tmp_path):
    flags = (
        "--arch streamspeech --encoder-layers 1 --encoder-embed-dim 16 --encoder-ffn-embed-dim 32 "
        "--encoder-attention-heads 2 --translation-decoder-layers 1 --decoder-layers 1 --decoder-embed-dim 16 "
        "--decoder-attention-heads 2 --decoder-ffn-embed-dim 32 --ctc-upsample-rate 6 --uni-encoder --multichunk "
        "--multichunk-sizes 8,5 --optimizer adam --lr 0.001 --max-tokens 600 --cpu --num-workers 0 --max-update 1 "
        "--train-subset train --disable-validation"
    ).split()
    with pytest.raises(ConfigError, match="--multichunk-sizes 8,5: a segment of 5: .* use an even number"):
        run_cli("fairseq_cli.train", [*task_arguments(corpus), *CRITERION, *flags, "--save-dir", str(tmp_path)])


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_trains(corpus, precision):
    """What --bf16 and --fp16 do: parameters and features in half precision, losses in float32."""
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    from tests.fairseq_ext.miniature import load_task

    task, dataset = load_task(corpus, "--multichunk", "--st-ctc-layers", "2", "--right-context-frames", "2")
    model = task.build_model(task.args).to(precision).train()
    criterion = task.build_criterion(convert_namespace_to_omegaconf(task.args).criterion).train()
    sample = dataset.collater([dataset[i] for i in range(4)])
    sample["net_input"]["src_tokens"] = sample["net_input"]["src_tokens"].to(precision)
    loss, _, _ = criterion(model, sample)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
