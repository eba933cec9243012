"""Utterances that CTC cannot align are counted exactly, and a training that would have many of them does not begin."""

import logging
import re
import shutil
from argparse import Namespace

import pytest
import torch
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import metrics
from fairseq.models import ARCH_CONFIG_REGISTRY

from echostream_plugin.config import ConfigError
from echostream_plugin.fairseq_ext.alignable import frames_needed, infeasible, needs_of
from echostream_plugin.fairseq_ext.criterion import TwoPassCTCCriterion
from echostream_plugin.fairseq_ext.ctc_losses import ctc_loss
from tests.fairseq_ext.miniature import load_task, train


def test_what_is_counted_is_what_ctc_cannot_do():
    """Exactly those utterances have a loss of zero, whatever repeats and paddings there are."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        lengths = torch.randint(1, 8, (6,), generator=generator)
        targets = torch.randint(2, 5, (6, 7), generator=generator)
        targets[torch.arange(7) >= torch.randint(1, 8, (6, 1), generator=generator)] = 1
        logits = torch.randn(6, 8, 6, generator=generator)
        losses = [ctc_loss(logits[i : i + 1], lengths[i : i + 1], targets[i : i + 1], 0) for i in range(6)]
        assert infeasible(targets, lengths) == sum(loss == 0 for loss in losses)
    assert frames_needed(torch.tensor([[2, 2, 3, 1, 1], [4, 3, 4, 3, 4]])).tolist() == [4, 5]


def test_needs_of_a_data_set_are_those_of_its_batches(corpus):
    task, dataset = load_task(corpus)
    model = task.build_model(task.args)
    needs = needs_of(dataset, model.encoder.output_lengths)
    sample = dataset.collater([dataset[i] for i in range(len(dataset))])
    order = sample["id"].numpy()
    targets = {name: sample["multitask"][name]["target"] for name in sample["multitask"]}
    assert (needs.units[order] == frames_needed(sample["target"]).numpy()).all()
    assert (needs.tokens[order] == targets["target_unigram"].ne(1).sum(1).numpy()).all()
    for name in ("source_unigram", "ctc_target_unigram"):
        assert (needs.subwords[name][order] == frames_needed(targets[name]).numpy()).all()
    lengths = model.encoder(sample["net_input"]["src_tokens"], sample["net_input"]["src_lengths"])[1]
    assert (needs.encoder_frames[order] == lengths.numpy()).all()
    assert needs.percent(needs.upsample_for(0)) == 0 < needs.percent(needs.upsample_for(0) - 1)


def more_units(corpus, root, rows, units):
    """A copy of the corpus whose first training rows have so many units."""
    shutil.copytree(corpus.parent, root)
    path = root / "fbank2unit" / "train.tsv"
    lines = path.read_text(encoding="utf-8").splitlines()
    for number in range(1, 1 + rows):
        fields = lines[number].split("\t")
        fields[5:7] = [" ".join(str(unit % 9) for unit in range(units)), str(units)]
        lines[number] = "\t".join(fields)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / "fbank2unit"


def test_too_small_a_rate_is_refused_with_the_one_that_would_do(corpus, tmp_path):
    data = more_units(corpus, tmp_path / "corpus", 1, 40)  # two words: three tokens with </s>, 41 units with it
    with pytest.raises(ConfigError, match="upsample-rate 6: 8.3 % of the 12 training.*rate 14 leaves 0.0 %, 14 none"):
        train(data, tmp_path / "save", updates=1)
    train(data, tmp_path / "save", "--ctc-upsample-rate", "14", updates=1)


def test_subwords_beyond_the_encoder_frames_are_refused(corpus, tmp_path):
    shutil.copytree(corpus.parent, tmp_path / "corpus")
    path = tmp_path / "corpus" / "src_unigram" / "train.tsv"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[1] = lines[1].split("\t")[0] + "\t" + " ".join(["▁uno"] * 13)  # 25 frames with blanks, there are 24
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="source_unigram: 8.3 % of the 12 training utterances"):
        train(tmp_path / "corpus" / "fbank2unit", tmp_path / "save", updates=1)


def test_the_share_is_logged_with_the_losses(corpus, tmp_path):
    """Three of twelve utterances need more frames than there are: 25 % of an epoch, the losses of the others."""
    task, dataset = load_task(more_units(corpus, tmp_path / "corpus", 3, 40))
    model = task.build_model(task.args)
    criterion = task.build_criterion(convert_namespace_to_omegaconf(task.args).criterion)
    logs = []
    for rows in ((0, 1), range(2, 12)):
        logs.append(criterion(model, dataset.collater([dataset[row] for row in rows]))[2])
    assert [int(log["unit_infeasible"]) for log in logs] == [2, 1]
    with metrics.aggregate(new_root=True) as shown:
        TwoPassCTCCriterion.reduce_metrics(logs)
    values = shown.get_smoothed_values()
    assert values["unit_infeasible"] == 25 and values["asr_infeasible"] == values["st_infeasible"] == 0


def test_a_training_says_the_share_at_its_start_and_after_every_epoch(corpus, tmp_path, caplog, capsys):
    with caplog.at_level(logging.INFO):
        train(corpus, tmp_path, "--max-epoch", "1", updates=100)
    assert "more targets than frames: units 0.00 %, source subwords 0.00 %, target subwords 0.00 %" in caplog.text
    shown = caplog.text + "".join(capsys.readouterr())
    assert re.search(r"\| unit_infeasible 0 .*\| epoch", shown) or re.search(r"epoch 001 .*unit_infeasible 0", shown)


@pytest.mark.parametrize("arch, rate", [("echostream", 25), ("echostream_base", 25), ("echostream_tiny", 10)])
def test_architectures_have_frames_for_the_units_of_their_corpora(arch, rate):
    """Fifty units a second, 17 characters a second, five a subword: what CVSS-C can need; tiny is the quickstart's."""
    args = Namespace()
    ARCH_CONFIG_REGISTRY[arch](args)
    assert args.ctc_upsample_rate == rate
    assert arch == "echostream_tiny" or args.ctc_upsample_rate > 1.3 * 50 / (17 / 5)
